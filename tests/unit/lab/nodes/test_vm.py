"""VMs: which panics are the emulator's fault, the list of GPUs, and booting without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.machine import ssh
from lab.machine.errors import LabError
from lab.nodes import vm
from lab.nodes.base import Kernel
from lab.nodes.disk import Disk
from lab.nodes.record import Record

INT3 = "[    2.309121] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n[    2.311126] Modules linked in:\n"
END = "[    2.317074] Kernel panic - not syncing: Fatal exception in interrupt\n"


@pytest.mark.parametrize(
    ("serial", "expected"),
    [
        pytest.param(INT3 + END, True, id="int3"),
        pytest.param("[    7.2] BUG: unable to handle page fault\n" + INT3 + END, False, id="int3-second"),
        pytest.param(INT3.replace("in:", "in: nvidia(OE) virtio_blk") + END, False, id="nvidia-loaded"),
        pytest.param("[    2.3] Oops: double fault: 0000\n" + END, False, id="double-fault"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_only_an_unexpected_breakpoint_is_the_emulators_fault(serial: str, expected: bool) -> None:
    assert vm.is_emulators_fault(serial) is expected


def test_sees_a_panic_in_a_serial_log(tmp_path: Path) -> None:
    log = tmp_path / "serial"
    assert not ssh.has_panicked(log)
    log.write_text(END)
    assert ssh.has_panicked(log)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, []), ("none", []), ("h100", ["h100"]), ("h100,nvswitch", ["h100", "nvswitch"])],
)
def test_reads_a_list_of_gpus(names: str | None, expected: list[str]) -> None:
    assert vm.gpus(names) == expected


def test_an_unknown_gpu_is_refused_with_the_known_names() -> None:
    with pytest.raises(LabError, match="there are a100, h100, nvswitch, t4 and none"):
        vm.gpus("v100")


def test_without_a_kernel_the_disk_boots_by_itself(tmp_path: Path) -> None:
    kernel = Kernel("6.1.0-9-amd64", tmp_path / "vmlinuz", tmp_path / "initrd")
    places = (tmp_path / "overlay", tmp_path / "serial", tmp_path / "monitor")
    argv = {
        kver: vm.qemu_argv(Record("x", "vm", str(tmp_path), kver=kver), Disk(tmp_path / "disk.qcow2", [kernel]), *places)
        for kver in ("", kernel.kver)
    }
    asked = {"-kernel", "-initrd", "-append"}
    assert asked.isdisjoint(argv[""])
    assert asked <= set(argv[kernel.kver])
