"""GPUs, NVSwitches and InfiniBand controllers, found by their PCI ids in sysfs, without a metadata service or the VM's name (D15)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..util.files import read_text
from ..util.folders import matching, names_in

NVIDIA = "10de"
_MELLANOX, _MELLANOX_VIRTUAL = "15b3", "101e"  # the vendor; "mlx5Gen Virtual Function", which in a VM has no physfn
_INFINIBAND = "0207"
_DISPLAY = ("0300", "0302")  # VGA controller, 3D controller
_BRIDGE_OTHER = "0680"  # NVSwitch
# Drivers that only hold a device for a virtual machine: the kernel's and Xen's. The others are the vfio family: vfio-pci itself, and the
# drivers of a kind of device with ``vfio`` as a word of their names (nvgrace_gpu_vfio_pci, nvidia-vgpu-vfio).
_STUBS = ("pci_stub", "pciback", "xen_pciback")
_GUESTS = "vfio"


@dataclass(frozen=True)
class PciFunction:
    """A function on the PCI bus: ``address`` such as 0000:01:00.0, ``device`` in four hex digits, the driver bound to it or None."""

    address: str
    device: str
    pci_class: str
    driver: str | None

    @property
    def is_gpu(self) -> bool:
        return self.pci_class[:4] in _DISPLAY

    @property
    def is_nvswitch(self) -> bool:
        return self.pci_class[:4] == _BRIDGE_OTHER

    @property
    def is_passed_through(self) -> bool:
        """Whether its driver keeps it for a virtual machine. Names of drivers have dashes or underscores, for no reason."""
        name = (self.driver or "").lower().replace("-", "_")
        return name in _STUBS or _GUESTS in name.split("_")


def nvidia_functions(root: Path) -> tuple[PciFunction, ...]:
    """NVIDIA's display and bridge functions on the bus, by address. One that cannot be read is left out, as if it were absent.

    Raises OSError if the bus cannot be listed: that there is no GPU is not known then.
    """
    found = []
    devices = root / "sys/bus/pci/devices"
    for folder in (devices / name for name in names_in(devices)):
        if _hex(folder / "vendor") != NVIDIA:
            continue
        driver = folder / "driver"
        function = PciFunction(
            folder.name,
            _hex(folder / "device"),
            _hex(folder / "class"),
            driver.resolve().name if driver.exists() else None,
        )
        if function.is_gpu or function.is_nvswitch:
            found.append(function)
    return tuple(found)


def infiniband_functions(root: Path) -> tuple[PciFunction, ...]:
    """The InfiniBand controllers of Mellanox (now NVIDIA) on the bus, by address, without the virtual functions of others."""
    found = []
    for folder in matching(root / "sys/bus/pci/devices", "*"):
        if is_mellanox(folder) and _hex(folder / "class")[:4] == _INFINIBAND:
            function = PciFunction(folder.name, _hex(folder / "device"), _hex(folder / "class"), None)
            if function.device != _MELLANOX_VIRTUAL and not (folder / "physfn").exists():
                found.append(function)
    return tuple(found)


def is_mellanox(folder: Path) -> bool:
    """Whether the PCI function with this folder in sysfs is one of Mellanox (now NVIDIA)."""
    return _hex(folder / "vendor") == _MELLANOX


def modalias(root: Path, function: PciFunction) -> str:
    """What udev looks up in modules.alias when it finds the function; "" if that cannot be read."""
    return (read_text(root / "sys/bus/pci/devices" / function.address / "modalias") or "").strip()


def _hex(path: Path) -> str:
    text = (read_text(path) or "").strip()
    return text[2:].lower() if text.startswith("0x") else ""
