"""Which kernel boots by default, against what GRUB does: one disk with grub-pc, booted by the BIOS. `make test-all PART=grub`.

Each boot is from power-on: under QEMU's TCG, 6.1 takes minutes after a reset from inside.
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
    """The library is on it; grub.cfg is the one that the disk was made with. One CPU: see EMULATOR_TRIES."""
    vm = VM.create("grub", grubdisk.of_base(), smp=1)
    try:
        library.send(vm, LIBRARY)
        yield vm
    finally:
        vm.destroy()


def told(vm: VM) -> dict[str, Any]:
    """What the library says on the node."""
    found: dict[str, Any] = json.loads(vm.ssh(f"cd {LIBRARY} && PYTHONDONTWRITEBYTECODE=1 python3 -c {shlex.quote(LOOK)}").stdout)
    return found


def running(vm: VM) -> str:
    return vm.ssh("uname -r").stdout.strip()


def configure(vm: VM, setting: str, saved: str = "") -> None:
    """A GRUB_DEFAULT in a drop-in, in force, and what grub-set-default saves."""
    say = shlex.quote(f"GRUB_DEFAULT={shlex.quote(setting)}\n")
    vm.ssh(f"printf %s {say} > {DROPIN}; rm -f /boot/grub/grubenv; grub-editenv create; update-grub", timeout_s=600)
    if saved:
        vm.ssh(f"grub-set-default {shlex.quote(saved)}")


def test_as_it_was_made_the_first_entry_boots(vm: VM) -> None:
    assert told(vm) == {"kver": NEW, "reason": "GRUB's default entry is 'Debian GNU/Linux'", "warnings": []}
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
def test_what_is_told_is_what_boots(vm: VM, setting: str, saved: str, kver: str) -> None:
    configure(vm, setting, saved)
    assert told(vm)["kver"] == kver
    vm.reboot()
    assert running(vm) == kver
    assert told(vm)["kver"] == kver


def test_an_entry_for_the_next_boot_alone_is_not_the_default(vm: VM) -> None:
    configure(vm, "saved", by_id(OLD))
    vm.ssh("grub-reboot 0")
    found = told(vm)
    assert found["kver"] == ""
    assert "for the next boot alone (next_entry=0)" in found["reason"]
    vm.reboot()
    assert running(vm) == NEW
    assert told(vm)["kver"] == OLD, "GRUB has taken the entry for once out of its environment"


def test_a_bake_is_for_the_kernel_that_boots_and_not_for_the_running_or_the_newest(vm: VM, tmp_path: Path) -> None:
    """It runs under the newest, as the test before leaves it."""
    bakery = Bakery(vm, tmp_path)
    vm.ssh("mv /boot/grub/grub.cfg /root/")
    refused = bakery.capture(nvidia_prebake_kernels="newest")
    vm.ssh("mv /root/grub.cfg /boot/grub/")
    assert refused.rc != 0
    assert "which one boots cannot be told: /boot/grub/grub.cfg is not there" in refused.message
    assert "Set nvidia_prebake_kernels to the release that will boot" in refused.message
    assert running(vm) == NEW
    ran = bakery.capture(nvidia_prebake_kernels="newest", nvidia_prebake_try_s=1200)  # an emulated compile
    assert ran.rc == 0, ran.out
    assert vm.ssh("ls /var/lib/gpu-prebake/layers").stdout.split() == [f"cuda-580.126.09-open-{OLD}"]
    vm.reboot()
    assert running(vm) == OLD
