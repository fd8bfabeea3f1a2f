"""The library's answer to which kernel boots by default, compared with what GRUB boots: `make test-all PART=grub`.

The BIOS boots one disk with grub-pc. Each boot starts at power-on: under QEMU's TCG, 6.1 takes minutes after a reset from inside.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.nodes import base, grubdisk
from lab.nodes.vm import VM
from tests import library
from tests.lab.bakery import Bakery

LIBRARY = "/root/library"
LOOK = """
import json
from dataclasses import asdict
from pathlib import Path
from gpunode.system import bootloader
print(json.dumps(asdict(bootloader.default_kernel(Path("/")))))
"""
OLD, NEW = (kernel.kver for kernel in base.kernels(base.root() / "boot"))
ADVANCED, TITLE = "Advanced options for Debian GNU/Linux", "Debian GNU/Linux, with Linux "
DROPIN = "/etc/default/grub.d/90-test.cfg"


def by_id(kver: str) -> str:
    return f"gnulinux-advanced-{grubdisk.UUID}>gnulinux-{kver}-advanced-{grubdisk.UUID}"


@pytest.fixture(scope="module")
def vm() -> Iterator[VM]:
    """A VM with the library on it, and the grub.cfg with which its disk was made. It has one CPU: see EMULATOR_TRIES."""
    vm = VM.create("grub", grubdisk.of_base(), smp=1)
    try:
        library.send(vm, LIBRARY)
        yield vm
    finally:
        vm.destroy()


def default_kernel(vm: VM) -> dict[str, Any]:
    """The library's answer on the node."""
    found: dict[str, Any] = json.loads(vm.ssh(f"cd {LIBRARY} && PYTHONDONTWRITEBYTECODE=1 python3 -c {shlex.quote(LOOK)}").stdout)
    return found


def running(vm: VM) -> str:
    return vm.ssh("uname -r").stdout.strip()


def configure(vm: VM, setting: str, saved: str = "") -> None:
    """Sets GRUB_DEFAULT in a drop-in, updates GRUB, and lets grub-set-default save an entry."""
    say = shlex.quote(f"GRUB_DEFAULT={shlex.quote(setting)}\n")
    vm.ssh(f"printf %s {say} > {DROPIN}; rm -f /boot/grub/grubenv; grub-editenv create; update-grub", timeout_s=600)
    if saved:
        vm.ssh(f"grub-set-default {shlex.quote(saved)}")


def test_without_a_setting_the_first_entry_boots(vm: VM) -> None:
    assert default_kernel(vm) == {"kver": NEW, "reason": "GRUB's default entry is 'Debian GNU/Linux'", "warnings": []}
    assert running(vm) == NEW


@pytest.mark.parametrize(
    ("setting", "saved", "kver"),
    [
        pytest.param("saved", by_id(OLD), OLD, id="saved by id"),
        pytest.param("saved", f"gnulinux-{OLD}-advanced-{grubdisk.UUID}", NEW, id="saved without its submenu, which names nothing"),
        pytest.param("1>2", "", OLD, id="by numbers"),
        pytest.param(ADVANCED, by_id(OLD), NEW, id="a submenu itself"),
        pytest.param(f"{ADVANCED}>{TITLE}{OLD}", "", OLD, id="by titles"),
    ],
)
def test_the_kernel_that_the_library_names_boots(vm: VM, setting: str, saved: str, kver: str) -> None:
    configure(vm, setting, saved)
    assert default_kernel(vm)["kver"] == kver
    vm.reboot()
    assert running(vm) == kver
    assert default_kernel(vm)["kver"] == kver


def test_an_entry_for_only_the_next_boot_is_not_the_default(vm: VM) -> None:
    configure(vm, "saved", by_id(OLD))
    vm.ssh("grub-reboot 0")
    found = default_kernel(vm)
    assert found["kver"] == ""
    assert "for the next boot only (next_entry=0)" in found["reason"]
    vm.reboot()
    assert running(vm) == NEW
    assert default_kernel(vm)["kver"] == OLD, "GRUB must have removed the entry for one boot from its environment"


def test_a_bake_is_for_the_kernel_that_boots_and_not_for_the_running_or_the_newest(vm: VM, tmp_path: Path) -> None:
    """The VM runs the newest kernel, as the previous test has left it."""
    bakery = Bakery(vm, tmp_path)
    vm.ssh("mv /boot/grub/grub.cfg /root/")
    refused = bakery.capture(nvidia_prebake_kernels="newest")
    vm.ssh("mv /root/grub.cfg /boot/grub/")
    assert refused.rc != 0
    assert "which one boots is unknown: /boot/grub/grub.cfg does not exist" in refused.message
    assert "Set nvidia_prebake_kernels to the release that will boot" in refused.message
    assert running(vm) == NEW
    ran = bakery.capture(nvidia_prebake_kernels="newest", nvidia_prebake_try_s=1200)  # an emulated compile
    assert ran.rc == 0, ran.out
    assert vm.ssh("ls /var/lib/gpu-prebake/layers").stdout.split() == [f"cuda-580.126.09-open-{OLD}"]
    vm.reboot()
    assert running(vm) == OLD
