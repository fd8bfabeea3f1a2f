"""What a node's state says about a failed run; messages from NVIDIA's driver, modprobe and the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.diagnosis import Evidence, Verdict, judge
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.smi_statuses import HARDWARE_STATUSES

GOOD = Evidence("580.1", "580.1", "", (), 0, "")
GONE = replace(GOOD, resident_version="", smi_rc=None)
XID = "[  9.1] NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', GPU has fallen off the bus.\n"
OPEN_ONLY = (
    "[  5.5] NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c58)\n"
    "               NVRM: installed in this system requires use of the NVIDIA open kernel modules.\n"
    "[  5.6] NVRM: GPU 0000:02:00.0: RmInitAdapter failed! (0x22:0x56:884)\n"
)
ADAPTER = "NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:1924)\n"
INFOROM = "NVRM: GPU 0000:01:00.0: infoROM is corrupted\n"
GOOD_, HARDWARE, BAD, UNKNOWN = Verdict.DRIVER_GOOD, Verdict.HARDWARE, Verdict.DRIVER_BAD, Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        pytest.param(GOOD, GOOD_, id="all well"),
        pytest.param(
            replace(GOOD, modprobe_says="could not insert 'nvidia_uvm': Exec format error"), BAD, id="nvidia-uvm of another kernel"
        ),
        pytest.param(
            replace(GOOD, modprobe_says="Invalid argument", kernel_log="nvidia_uvm: disagrees about version of symbol nvUvmInterface\n"),
            BAD,
            id="nvidia-uvm of another build, as only the log says",
        ),
        pytest.param(replace(GOOD, modprobe_says="Invalid format", kernel_log=XID), HARDWARE, id="Xid before nvidia-uvm"),
        pytest.param(replace(GOOD, modprobe_says="Cannot allocate memory"), GOOD_, id="no word against nvidia-uvm itself"),
        pytest.param(replace(GOOD, smi_rc=None), GOOD_, id="nvidia-smi missing or hanging"),
        pytest.param(replace(GOOD, kernel_log="NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n"), GOOD_, id="an ordinary log"),
        pytest.param(replace(GOOD, kernel_log=XID), HARDWARE, id="Xid"),
        pytest.param(replace(GOOD, kernel_log=INFOROM), HARDWARE, id="infoROM"),
        pytest.param(replace(GOOD, kernel_log="NVRM: RmInitAdapter failed! (0x62:0x40:2393)\n"), HARDWARE, id="adapter"),
        pytest.param(replace(GOOD, smi_rc=6), HARDWARE, id="no devices"),
        pytest.param(replace(GOOD, smi_rc=6, kernel_log=XID, device_waived=True), GOOD_, id="waived"),
        pytest.param(replace(GOOD, library_problems=("x",)), BAD, id="a library"),
        pytest.param(replace(GOOD, library_problems=("x",), kernel_log=XID), HARDWARE, id="hardware before a library"),
        pytest.param(replace(GOOD, damaged=("x",)), BAD, id="damaged contents"),
        pytest.param(replace(GOOD, damaged=("x",), kernel_log=ADAPTER), BAD, id="damaged firmware before the adapter that it keeps down"),
        pytest.param(replace(GOOD, damaged=("x",), smi_rc=6), BAD, id="damaged firmware before no devices"),
        pytest.param(replace(GOOD, damaged=("x",), smi_rc=14), BAD, id="damaged contents before what a program says"),
        pytest.param(replace(GOOD, damaged=("x",), kernel_log=XID), HARDWARE, id="Xid before damaged contents"),
        pytest.param(replace(GOOD, damaged=("x",), kernel_log=INFOROM), HARDWARE, id="infoROM before damaged contents"),
        pytest.param(replace(GOOD, library_problems=("x",), kernel_log=ADAPTER), HARDWARE, id="the adapter before a library's version"),
        pytest.param(replace(GONE, damaged=("x",), kernel_log="NVRM: The NVIDIA probe routine failed\n"), BAD, id="damaged, and no probe"),
        pytest.param(replace(GONE, damaged=("x",), kernel_log=XID), HARDWARE, id="off the bus, and damaged"),
        pytest.param(replace(GOOD, smi_rc=18), BAD, id="driver/library version mismatch"),
        pytest.param(replace(GOOD, resident_version="570.1"), BAD, id="another version resident"),
        pytest.param(replace(GONE, modprobe_says="could not insert 'nvidia': Exec format error"), BAD, id="other kernel"),
        pytest.param(replace(GONE, modprobe_says="Invalid module format"), BAD, id="other build"),
        pytest.param(replace(GONE, modprobe_says="Unknown symbol in module"), BAD, id="unknown symbol"),
        pytest.param(replace(GONE, modprobe_says="Key was rejected by service"), BAD, id="signature"),
        pytest.param(replace(GONE, modprobe_says="FATAL: Module nvidia not found in directory /lib/modules/6.1"), BAD, id="no module"),
        pytest.param(replace(GONE, kernel_log="nvidia: disagrees about version of symbol module_layout\n"), BAD, id="only the log says it"),
        pytest.param(replace(GONE, modprobe_says="No such device", kernel_log="NVRM: No NVIDIA GPU found.\n"), HARDWARE, id="no GPU"),
        pytest.param(
            replace(GONE, modprobe_says="No such device", kernel_log="NVRM: None of the NVIDIA devices were initialized.\n"),
            HARDWARE,
            id="GPU not initialised",
        ),
        pytest.param(
            replace(GONE, modprobe_says="No such device", kernel_log="NVRM: The NVIDIA GPU is not supported by the 580 driver\n"),
            HARDWARE,
            id="GPU not supported",
        ),
        pytest.param(
            replace(GONE, modprobe_says="", kernel_log="nvidia: module verification failed: signature missing - tainting kernel\n"),
            UNKNOWN,
            id="unsigned only taints",
        ),
        pytest.param(GONE, UNKNOWN, id="nothing said"),
    ],
)
def test_verdict(evidence: Evidence, verdict: Verdict) -> None:
    found = judge(evidence)
    assert found.verdict is verdict
    assert found.reason
    assert bool(found.code) is (verdict is HARDWARE)


def test_the_code_follows_from_what_was_found_and_from_no_word_in_it() -> None:
    assert judge(replace(GOOD, smi_rc=6, kernel_log=XID)).code == "no_device"
    says_so_too = "NVRM: GPU 0000:01:00.0: infoROM is corrupted, no device will be registered\n"
    assert judge(replace(GOOD, kernel_log=says_so_too)).code == "hardware"


def xid(number: int) -> str:
    return f"[  9.1] NVRM: Xid (PCI:0000:01:00): {number}, pid=1234, name=python3, Ch 00000008\n"


@pytest.mark.parametrize("number", [48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140, 143])
def test_an_xid_of_the_hardware(number: int) -> None:
    assert judge(replace(GOOD, kernel_log=xid(number))).verdict is HARDWARE
    assert judge(replace(GONE, kernel_log=xid(number))).verdict is HARDWARE


@pytest.mark.parametrize("number", [4, 7, 13, 31, 43, 45, 480, 794])
def test_an_xid_of_an_application_says_nothing_about_the_hardware(number: int) -> None:
    assert judge(replace(GOOD, kernel_log=xid(number))).verdict is GOOD_
    assert judge(replace(GONE, kernel_log=xid(number))).verdict is UNKNOWN


@pytest.mark.parametrize(
    "line",
    [
        "amdgpu: RmInitAdapter failed",
        "usb 1-1: has fallen off the bus",
        "ACPI: _OSC is not supported by firmware",
        "snd_hda: infoROM is corrupted",
        "EDAC: None of the NVIDIA devices were initialized",
        "other: No NVIDIA GPU found",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module\ncpufreq: is not supported by this CPU",
    ],
)
def test_other_drivers_lines_are_no_evidence(line: str) -> None:
    assert judge(replace(GOOD, kernel_log=line + "\n")).verdict is GOOD_
    assert judge(replace(GONE, kernel_log=line + "\n")).verdict is UNKNOWN


@pytest.mark.parametrize("status", [8, 10, 14, 15])
def test_an_exit_status_of_nvidia_smi_that_means_hardware(status: int) -> None:
    found = judge(replace(GOOD, smi_rc=status))
    assert found.verdict is HARDWARE
    assert HARDWARE_STATUSES[status] in found.reason
    assert judge(replace(GOOD, smi_rc=status, device_waived=True)).verdict is GOOD_


def test_proprietary_modules_on_a_gpu_that_needs_the_open_ones() -> None:
    found = judge(replace(GOOD, kernel_log=OPEN_ONLY, smi_rc=6))
    assert found.verdict is BAD
    assert "open kernel modules" in found.reason
    assert judge(replace(GONE, modprobe_says="No such device", kernel_log=OPEN_ONLY)).verdict is BAD
