"""VMs for comparisons: booted completely, left alone or managed, powered off cleanly, and their whole filesystems read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lab.builds import booting
from lab.driverimages import driverimage
from lab.nodes import disk
from lab.nodes.disk import Disk
from lab.nodes.vm import VM
from tests.lab.snapshot import Entry, snapshot

KERNEL = "6.1"
GPU = "h100"
Files = dict[str, Entry]
T = TypeVar("T")

# Long, for a busy machine: nothing here is about time.
TIMEOUT_S = 2400.0
PATIENT = {"gpu_boot_deadline_s": 2000, "gpu_boot_try_s": 1700}

_WHOLE_BOOT = "systemctl is-system-running --wait; udevadm settle --timeout=600"

# What is live of a driver: loaded modules, kernel messages, devices, modules that the GPU's alias resolves to, files in the initramfs.
_ALONE = """
echo "== modules"; grep -o '^nvidia[a-z_]*' /proc/modules
echo "== kernel_log"; dmesg | grep -i NVRM
echo "== devices"; find /dev -name 'nvidia*'; grep -i nvidia /proc/devices
echo "== gpus"; grep -lx 0x10de /sys/bus/pci/devices/*/vendor
echo "== answers"; for gpu in $(grep -lx 0x10de /sys/bus/pci/devices/*/vendor); do
  modprobe --quiet --resolve-alias "$(cat "${gpu%vendor}modalias")"
done
echo "== initramfs"; lsinitramfs "/boot/initrd.img-$(uname -r)" | grep -i nvidia
echo "== failed"; systemctl list-units --failed --plain --no-legend
echo "== end"
"""

# The state that only a running node shows, without numbers that differ from boot to boot (sizes in memory, addresses).
_MANAGED = """
echo "== modules"; awk '{print $1, $2, $3, $4, $5}' /proc/modules | sort
echo "== dkms"; dkms status
echo "== libraries"; ldconfig -p
echo "== units"; systemctl list-unit-files --plain --no-legend
echo "== running"; systemctl list-units --plain --no-legend --type=service --state=active,failed | grep -E 'nvidia|containerd|failed'
echo "== devices"; find /dev -name 'nvidia*' -printf '%p %M %u %g\\n' | sort; find /dev/char -lname '*nvidia*' | sort
echo "== packages"; dpkg-query --show
echo "== end"
"""


@dataclass(frozen=True)
class Managed:
    """A node with a GPU: its state before `gpu_boot`, the result of `gpu_boot`, its state afterwards, and its files after power-off."""

    alone: Mapping[str, str]
    boot: booting.Boot
    live: Mapping[str, str]
    files: Files


def side_by_side(work: Callable[[str], T], names: tuple[str, str]) -> tuple[T, T]:
    """Does the same work for two names at the same time."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, names)
    return first, second


def left_alone(name: str, source: Disk, then: Callable[[Path], None] = lambda _: None) -> tuple[Files, Files]:
    """Boots a disk without a GPU, does nothing to it, and powers it off; returns its files, and those after `then` has changed its root."""
    vm = VM.create(name, source, kernel=KERNEL, smp=1)
    try:
        vm.ssh(_WHOLE_BOOT, timeout_s=TIMEOUT_S, check=False)
        vm.stop()
        with disk.mounted(vm.overlay) as root:
            files = snapshot(root, ())
            then(root)
            return files, snapshot(root, ())
    finally:
        vm.destroy()


def managed(name: str, source: Disk, image: str, folder: Path) -> Managed:
    """Boots a disk with a GPU and runs playbooks/boot.yml with a driver image; returns the states before and after."""
    vm = VM.create(name, source, kernel=KERNEL, gpu=GPU, smp=1)
    try:
        vm.ssh(_WHOLE_BOOT, timeout_s=TIMEOUT_S, check=False)
        alone = sections(vm.ssh(_ALONE, timeout_s=TIMEOUT_S).stdout)
        variables: dict[str, Any] = {"gpu_boot_image": driverimage.build(image).reference, "gpu_boot_expected_gpus": 1, **PATIENT}
        if image == "nvidia":  # the lab's GPU never answers nvidia-smi, which both the test image and its caller must allow
            variables["gpu_boot_accept_no_device"] = True
        boot = booting.boot(vm, variables, folder, TIMEOUT_S)
        vm.ssh(_WHOLE_BOOT, timeout_s=TIMEOUT_S, check=False)
        live = sections(vm.ssh(_MANAGED, timeout_s=TIMEOUT_S).stdout)
        vm.stop()
        with disk.mounted(vm.overlay) as root:
            return Managed(alone, boot, live, snapshot(root, ()))
    finally:
        vm.destroy()


def sections(said: str) -> dict[str, str]:
    """The output of one of the scripts above, by section. AssertionError if it is cut off."""
    parts = {name: text.strip() for name, _, text in (part.partition("\n") for part in said.split("== ")[1:])}
    assert "end" in parts, said
    return parts
