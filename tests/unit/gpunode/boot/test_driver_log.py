"""Which lines of the kernel's log are the driver's. Every other line, any user can have written a part of."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import driver_log, evidence
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.diagnosis import Evidence, Verdict, judge

from tests.kit.node import FakeNode

XID = "NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus."
LOADING = "nvidia-nvlink: Nvlink Core is being initialized, major device number 240"


@pytest.mark.parametrize(
    "line",
    [
        f"[    9.123456] {XID}",
        f"[  109.1][ T1234] {XID}",
        f"[  109.1][   C12] {XID}",
        XID,
        "[1.0] NVRM: Xid (0000:01:00): 48, DBE",
        "[1.0] NVRM: Xid (PCI:0000:01:00 GPU-I:05 GPU-CI:00): 94, contained",
        "[1.0] NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x26:0xffff:1482)",
        "[1.0] NVRM: GPU 00000000:01:00.0: GPU has fallen off the bus.",
        "[1.0] NVRM: The NVIDIA probe routine failed for 1 device(s).",
        "[1.0] NVRM: None of the NVIDIA devices were initialized.",
        "[1.0] NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c58)\n               NVRM: installed in this system is not supported by",
    ],
)
def test_the_drivers_own_messages(line: str) -> None:
    (found,) = driver_log.records(f"{line}\n")
    assert found.startswith("NVRM: ")
    assert found.count("NVRM") == 1


GPU = "NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c58)"
NOT_SUPPORTED = ["NVRM: installed in this system is not supported by the", "NVRM: NVIDIA 550.90.07 driver release."]
ONE = f"{GPU} installed in this system is not supported by the NVIDIA 550.90.07 driver release."
OPEN = ["NVRM: installed in this system is not supported by open", "NVRM: nvidia.ko because it does not include the required GPU"]
WINDOW = "NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        pytest.param("[5.5] " + "\n      ".join([GPU, *NOT_SUPPORTED]), ONE, id="one time for all lines"),
        pytest.param("\n".join(f"[5.5] {line}" for line in [GPU, *NOT_SUPPORTED]), ONE, id="a time on each line"),
        pytest.param("\n".join([GPU, *NOT_SUPPORTED]), ONE, id="no times"),
        pytest.param("\n".join(f"[5.5] {line}" for line in NOT_SUPPORTED), ONE.removeprefix(f"{GPU} "), id="the first line is lost"),
        pytest.param("\n".join(f"[5.5] {line}" for line in [GPU, *OPEN]), "not supported by open nvidia.ko because", id="open modules"),
        pytest.param(
            f"[5.5] {GPU}\n[5.5] {NOT_SUPPORTED[0]} 304.116\n[5.5] NVRM: NVIDIA Linux driver release.  See",
            "not supported by the 304.116 NVIDIA Linux driver release",
            id="an older form",
        ),
        pytest.param(f"[5.5] {WINDOW}\n      NVRM: BAR1 is 0M @ 0x0 (PCI:0000:01:00.0)", "invalid: BAR1 is 0M @ 0x0", id="a memory window"),
    ],
)
def test_the_lines_of_a_message_are_put_together(log: str, message: str) -> None:
    stamp = "[1.0] " if log.startswith("[") else ""
    (found,) = driver_log.records(f"{stamp}before\n{log}\n{stamp}after\n")
    assert message in found


def test_a_message_about_a_passed_gpu_goes_as_a_whole() -> None:
    passed, rest = "\n      ".join([f"[5.5] {GPU}", *NOT_SUPPORTED]), f"[5.6] {XID}"
    assert evidence.log_since(f"{passed}\n{rest}", "", ["0000:02:00.0"]) == rest
    assert evidence.log_since(f"{passed}\n{rest}", "", ["0000:03:00.0"]) == f"{passed}\n{rest}"
    window = f"[5.5] {WINDOW}\n      NVRM: BAR1 is 0M @ 0x0 (PCI:0000:02:00.0)"
    assert evidence.log_since(f"{window}\n{rest}", "", ["0000:02:00.0"]) == rest


FORGED = [
    f"[1.0] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg=/user.slice/{XID},task_memcg=/x,task=a,pid=1,uid=1000",
    f"[1.0] Memory cgroup out of memory: Killed process 7 ({XID[:15]}) total-vm:1kB",
    f"[1.0] a.out[7]: segfault at 0 ip 0 sp 0 error 4 in {XID}[55d0+1000]",
    "[1.0] NVRM: Xid (PCI:[7]: segfault at 0 ip 0 sp 0 error 4 in a): 79, x[55d0+1000]",
    "[1.0] NVRM: x[7]: segfault at 0 ip 0 sp 0 error 4 in RmInitAdapter failed[55d0+1000]",
    "[1.0] NVRM: GPU 0000:: page allocation failure: order:0, cpuset=RmInitAdapter failed,mems_allowed=0",
    "[1.0] NVRM: installed[7]: segfault at 0 ip 0 sp 0 error 4 in is not supported by[55d0+1000]",
    f"[1.0] a.out[7]: segfault at 0 ip 0 sp 0 error 4 in x\n{XID}[55d0+1000]",
    f"[1.0] a.out[7]: segfault at 0 ip 0 sp 0 error 4 in x\n               {XID}[55d0+1000]",
    f"[1.0] NVRM: x[7]: segfault at 0 ip 0 sp 0 error 4 in x\n               {XID}[55d0+1000]",
    f"[1.0] systemd[1]: x\x0b[1.0] {XID}",
    f"[1.0] systemd[1]: x\u2028[1.0] {XID}",
    f"[1.0] audit: type=1400 comm=[1.0] {XID}",
    f"[1.0] {GPU}x\n[1.0] NVRM: installed[7]: segfault at 0 ip 0 sp 0 error 4 in is not supported by[55d0+1000]",
    f"[1.0] {GPU}x\n[1.0] NVRM: NVIDIA 55[7]: segfault at 0 ip 0 sp 0 error 4 in driver release[55d0+1000]",
    f"[1.0] NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=a\n      {XID[:13]}, Ch 00000008",
    "[1.0] NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=is not supporte, Ch 00000008",
    "[1.0] NVRM: Xid (PCI:0000:01:00): 149, pid=7, name=Fatal XC0 i0 Li, NETIR_BER_EVENT Nonfatal XC0 i0 Link 03 (0x0)",
    "[1.0] NVRM: Xid (PCI:0000:01:00): 78, pid=7, name=Guest driver is, vGPU",
    "[1.0] nvidia: page allocation failure: order:0, cpuset=Unknown symbol x,mems_allowed=0",
    "[1.0] a.out[7]: segfault at 0 in nvidia: disagrees about version of symbol x[1+1]",
    "[1.0] oom-kill:task_memcg=/Exec format error/Key was rejected/Invalid module format,task=a",
]


@pytest.mark.parametrize("line", FORGED)
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_line_that_a_user_can_cause_is_no_evidence(line: str, is_loaded: bool) -> None:
    log = f"[0.1] the kernel\n{line}\n[2.0] more\n"
    assert driver_log.of_modules(log) == ""
    assert any(driver_log.records(log)) is any(start in line for start in ("Xid (PCI:0000:01:00): 31", ", pid=7, name=", GPU))
    found = judge(Evidence("580.1", "580.1" if is_loaded else "", "", (), 0 if is_loaded else None, log))
    assert found.verdict is (Verdict.DRIVER_GOOD if is_loaded else Verdict.UNKNOWN)


def test_a_line_of_any_length_is_read_at_once() -> None:
    for line in ("NVRM: " * 10**5, "NVRM: Xid (" * 10**5, "[" * 10**6, "[1.0] " * 10**5, "nvidia" * 10**5):
        judge(Evidence("580.1", "580.1", "", (), 0, line))


@pytest.mark.parametrize("forged", [f"[3.0] oom-kill:task_memcg=/{LOADING}", f"[3.0] nvidia-nvlink: [7]: segfault in {LOADING}"])
def test_a_user_cannot_make_it_seem_that_the_driver_was_loaded_later(node: FakeNode, forged: str) -> None:
    node.insert("nvidia", "580.1")
    node.dmesg = f"[0.5] a\n[1.0] {LOADING}\n[2.0] {XID}\n{forged}\n"
    assert evidence.log_before(node.root, node) == "[0.5] a\n"


@pytest.mark.parametrize("before", ["\n", "\n\n", "", "x\n\n"])
def test_any_earlier_log_can_be_compared(before: str) -> None:
    assert evidence.log_since("a\n", before) == "a\n"
