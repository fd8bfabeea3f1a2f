"""GPUs and NVSwitches, found by their PCI ids in sysfs."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import pci

from tests.kit.node import FakeNode


def test_no_bus_is_no_gpu(node: FakeNode) -> None:
    assert pci.nvidia_functions(node.root) == ()


@pytest.mark.parametrize(
    ("pci_class", "is_gpu", "is_nvswitch"),
    [
        pytest.param("0x030000", True, False, id="VGA"),
        pytest.param("0x030200", True, False, id="3D"),
        pytest.param("0x068000", False, True, id="NVSwitch"),
    ],
)
def test_tells_gpus_from_switches(node: FakeNode, pci_class: str, is_gpu: bool, is_nvswitch: bool) -> None:
    node.add_gpu(pci_class=pci_class)
    (found,) = pci.nvidia_functions(node.root)
    assert (found.address, found.device) == ("0000:01:00.0", "2330")
    assert (found.is_gpu, found.is_nvswitch) == (is_gpu, is_nvswitch)


@pytest.mark.parametrize("driver", ["nvidia", "nouveau", "vfio-pci"])
def test_the_bound_driver_is_a_fact(node: FakeNode, driver: str) -> None:
    node.add_gpu(driver=driver)
    node.add_gpu(address="0000:02:00.0")
    assert [f.driver for f in pci.nvidia_functions(node.root)] == [driver, None]


@pytest.mark.parametrize(
    ("driver", "is_passed_through"),
    [
        *((name, True) for name in ("vfio-pci", "vfio_pci", "vfio-pci-core", "nvgrace_gpu_vfio_pci", "nvgrace-gpu-vfio-pci")),
        *((name, True) for name in ("mlx5_vfio_pci", "nvidia-vgpu-vfio", "nvidia_vgpu_vfio", "pci-stub", "pciback", "xen-pciback")),
        *((name, False) for name in ("", "nvidia", "nouveau", "NovaCore", "vfiox", "nvidiafb", "snd_hda_intel")),
    ],
)
def test_a_driver_that_keeps_a_gpu_for_a_virtual_machine_is_known(node: FakeNode, driver: str, is_passed_through: bool) -> None:
    node.add_gpu(driver=driver)
    assert [f.is_passed_through for f in pci.nvidia_functions(node.root)] == [is_passed_through]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("vendor", "0x1002", id="another vendor"),
        pytest.param("class", "0x040300", id="a GPU's sound function"),
        pytest.param("class", "", id="class unreadable"),
        pytest.param("vendor", "10de", id="not as sysfs writes it"),
    ],
)
def test_other_functions_are_left_out(node: FakeNode, name: str, text: str) -> None:
    node.add_gpu()
    node.put(f"sys/bus/pci/devices/0000:01:00.0/{name}", text + "\n")
    assert pci.nvidia_functions(node.root) == ()
