"""What a node's state says about a failed run; messages from NVIDIA's driver, modprobe and the kernel."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.diagnosis import Evidence, Verdict, judge
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.smi_statuses import HARDWARE_STATUSES
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.xids import XIDS, About

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
GOOD_, HARDWARE, MISFIT, BAD, UNKNOWN = (
    Verdict.DRIVER_GOOD,
    Verdict.HARDWARE,
    Verdict.MISFIT,
    Verdict.DRIVER_BAD,
    Verdict.UNKNOWN,
)


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
    assert bool(found.code) is found.stops is (verdict is HARDWARE)


def test_the_code_follows_from_what_was_found_and_from_no_word_in_it() -> None:
    assert judge(replace(GOOD, smi_rc=6, kernel_log=XID)).code == "no_device"
    says_so_too = "NVRM: GPU 0000:01:00.0: infoROM is corrupted, no device will be registered\n"
    assert judge(replace(GOOD, kernel_log=says_so_too)).code == "hardware"


def xid(number: int) -> str:
    return f"[  9.1] NVRM: Xid (PCI:0000:01:00): {number}, pid=1234, name=python3, Ch 00000008\n"


HARDWARES = [number for number, (about, _) in XIDS.items() if about is About.HARDWARE]
OTHERS = [number for number, (about, _) in XIDS.items() if about is not About.HARDWARE]


def test_what_the_catalog_says_of_the_numbers_that_people_meet_most() -> None:
    assert {48, 54, 62, 63, 64, 74, 79, 92, 94, 95, 110, 119, 120, 136, 140, 143, 156, 158, 167, 171, 172} <= set(HARDWARES)
    of = {about: {number for number, (it, _) in XIDS.items() if it is about} for about in About}
    assert {13, 31, 43, 45, 69} <= of[About.APPLICATION]
    assert {38, 68, 109} <= of[About.DRIVER]
    assert of[About.MESSAGE] >= {78, *range(144, 151), 154}
    assert all(meaning and meaning.isprintable() for _, meaning in XIDS.values())


@pytest.mark.parametrize(("meaning", "about"), [("the hardware is faulty", About.HARDWARE), ("a program on the GPU", About.APPLICATION)])
def test_the_page_for_people_on_call_lists_the_same_numbers(meaning: str, about: About) -> None:
    page = (Path(__file__).parents[4] / "docs/on-call.md").read_text(encoding="utf-8")
    (numbers,) = re.findall(rf"^\| Xid ([0-9, ]+) \| {meaning}", page, re.MULTILINE)
    assert [int(number) for number in numbers.split(",")] == sorted(n for n, (it, _) in XIDS.items() if it is about)


@pytest.mark.parametrize("number", HARDWARES)
def test_an_xid_of_the_hardware(number: int) -> None:
    assert judge(replace(GOOD, kernel_log=xid(number))).verdict is HARDWARE
    assert judge(replace(GONE, kernel_log=xid(number))).verdict is HARDWARE


@pytest.mark.parametrize("number", [4, 7, 480, 794, *OTHERS])
def test_any_other_xid_says_nothing_about_the_hardware(number: int) -> None:
    assert judge(replace(GOOD, kernel_log=xid(number))).verdict is GOOD_
    assert judge(replace(GONE, kernel_log=xid(number))).verdict is UNKNOWN


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x025525c6 0x00000000 0x00000000 0x00000000 0x00000000 0x00000000)", HARDWARE),
        ("149, NETIR_BER_EVENT Nonfatal XC0 i0 Link 03 (0x00086226 0x00000001 0x00000000 0x00000000 0x00000000 0x00000000)", GOOD_),
        ("145, RLW_REMAP Nonfatal XC1 i0 Link 00 (0x00000004 0x00000001 0x00000000 0x00000000)", GOOD_),
        ("145, RLW_SRC_TRACK Fatal XC0 i0 Link 17 (0x00000004)", HARDWARE),
        ("144, pid=7, name=Fatal XC0 i0 Li, SAW_MVB Nonfatal XC0 i0 Link 00 (0x0)", GOOD_),
        ("150, pid=7, name=x, MSE_WATCHDOG Fatal XC0 i0 Link 00 (0x0)", HARDWARE),
        ("79, Nonfatal XC0 i0 Link 00", HARDWARE),
    ],
)
def test_an_xid_of_nvlink_5_says_itself_whether_it_is_fatal(text: str, verdict: Verdict) -> None:
    assert judge(replace(GOOD, kernel_log=f"[  9.1] NVRM: Xid (PCI:0018:01:00): {text}\n")).verdict is verdict


def action(to: str, gpu: str = "0000:01:00") -> str:
    return f"[  9.2] NVRM: Xid (PCI:{gpu}): 154, GPU recovery action changed from 0x0 (None) to 0x1 ({to})\n"


@pytest.mark.parametrize(
    ("log", "verdict", "code"),
    [
        pytest.param(action("GPU Reset Required"), HARDWARE, "gpu_reset_needed", id="a reset"),
        pytest.param(action("Drain and Reset"), HARDWARE, "gpu_reset_needed", id="a reset after draining"),
        pytest.param(action("PF FLR"), HARDWARE, "gpu_reset_needed", id="a reset, as new drivers call it"),
        pytest.param(action("Node Reboot Required"), HARDWARE, "node_reboot_needed", id="a reboot"),
        pytest.param(action("OS Reboot"), HARDWARE, "node_reboot_needed", id="a reboot, as new drivers call it"),
        pytest.param(action("Drain P2P"), GOOD_, "", id="nothing that a boot waits for"),
        pytest.param(action("None"), GOOD_, "", id="nothing"),
        pytest.param(action("GPU Reset Required") + action("None"), GOOD_, "", id="it has been reset since"),
        pytest.param(action("GPU Reset Required") + action("None", "0000:02:00"), HARDWARE, "gpu_reset_needed", id="another was reset"),
        pytest.param(action("GPU Reset Required") + action("OS Reboot", "0000:02:00"), HARDWARE, "node_reboot_needed", id="two GPUs"),
        pytest.param(XID + action("Node Reboot Required"), HARDWARE, "node_reboot_needed", id="with its cause"),
        pytest.param(XID + action("None"), HARDWARE, "hardware", id="a cause that needs nothing"),
    ],
)
def test_the_driver_names_the_recovery(log: str, verdict: Verdict, code: str) -> None:
    for evidence in (replace(GOOD, kernel_log=log), replace(GOOD, kernel_log=log, smi_rc=6 if code.endswith("needed") else 0)):
        found = judge(evidence)
        assert (found.verdict, found.code) == (verdict, code)
        assert ("fallen off the bus" in found.reason) is ("79" in log)


GUEST = "[  9.1] NVRM: Xid (PCI:0000:00:05): 78, pid='<unknown>', name=<unknown>, Guest driver is incompatible with host driver\n"
UNKNOWN_GPU = (
    "[  5.5] NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c58)\n"
    "               NVRM: installed in this system is not supported by the\n"
    "               NVRM: NVIDIA 550.90.07 driver release.\n"
    "[  5.6] NVRM: The NVIDIA probe routine failed for 1 device(s).\n"
    "[  5.7] NVRM: None of the NVIDIA devices were initialized.\n"
)
NO_GSP = (
    "[  5.5] NVRM: The NVIDIA GPU 0000:00:04.0 (PCI ID: 10de:1db1)\n"
    "               NVRM: installed in this system is not supported by open\n"
    "               NVRM: nvidia.ko because it does not include the required GPU\n"
    "               NVRM: System Processor (GSP).\n"
    "[  5.6] NVRM: The NVIDIA probe routine failed for 1 device(s).\n"
)
NO_WINDOW = (
    "[  5.5] NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\n"
    "               NVRM: BAR1 is 0M @ 0x0 (PCI:0000:01:00.0)\n"
    "[  5.6] NVRM: The NVIDIA probe routine failed for 1 device(s).\n"
)
NO_POWER = "[  5.5] NVRM: GPU 0000:01:00.0: GPU does not have the necessary power cables connected.\n" + ADAPTER
HELD = "[  5.5] NVRM: The NVIDIA probe routine was not called for 1 device(s).\n[  5.6] NVRM: No NVIDIA devices probed.\n"
OLD = replace(GOOD, wanted_version="550.90.07", resident_version="550.90.07")


@pytest.mark.parametrize(
    ("evidence", "verdict", "code", "word"),
    [
        pytest.param(replace(GOOD, kernel_log=GUEST, smi_rc=6), MISFIT, "host_driver_mismatch", "host's branch", id="a vGPU's host"),
        pytest.param(replace(GOOD, kernel_log=GUEST + ADAPTER, smi_rc=6), MISFIT, "host_driver_mismatch", "host", id="then no GPU starts"),
        pytest.param(replace(GONE, kernel_log=GUEST), MISFIT, "host_driver_mismatch", "host", id="a vGPU's host, and not loaded"),
        pytest.param(
            replace(GOOD, kernel_log=GUEST.replace("Guest driver is incompatible with host driver", "vGPU type is not supported")),
            MISFIT,
            "vgpu_type_refused",
            "type",
            id="a vGPU's type",
        ),
        pytest.param(replace(OLD, resident_version="", kernel_log=UNKNOWN_GPU), MISFIT, "gpu_not_supported", "550.90.07", id="a new GPU"),
        pytest.param(replace(OLD, kernel_log=UNKNOWN_GPU, smi_rc=6), MISFIT, "gpu_not_supported", "10de:2c58", id="a new GPU, loaded"),
        pytest.param(replace(GONE, kernel_log=UNKNOWN_GPU), HARDWARE, "hardware", "registers", id="a GPU that the driver should know"),
        pytest.param(replace(GONE, kernel_log=NO_GSP), BAD, "gpu_refuses_modules", "proprietary", id="open modules for a GPU without GSP"),
        pytest.param(replace(GOOD, kernel_log=NO_GSP, smi_rc=6), BAD, "gpu_refuses_modules", "proprietary", id="the same, loaded"),
        pytest.param(replace(GOOD, kernel_log=OPEN_ONLY, smi_rc=6), BAD, "gpu_refuses_modules", "open", id="proprietary modules"),
        pytest.param(replace(GOOD, kernel_log=NO_POWER, smi_rc=6), HARDWARE, "gpu_power", "power cables", id="power"),
        pytest.param(replace(GONE, kernel_log=NO_WINDOW), HARDWARE, "gpu_window", "BAR1 is 0M", id="a memory window"),
        pytest.param(replace(GONE, kernel_log=HELD), MISFIT, "gpu_held", "driver_override", id="another driver"),
        pytest.param(replace(GOOD, kernel_log=HELD.split("\n", maxsplit=1)[0]), GOOD_, "", "", id="another driver holds another GPU"),
    ],
)
def test_a_cause_that_people_can_act_on_has_a_code_of_its_own(evidence: Evidence, verdict: Verdict, code: str, word: str) -> None:
    found = judge(evidence)
    assert (found.verdict, found.code) == (verdict, code)
    assert word in found.reason


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
