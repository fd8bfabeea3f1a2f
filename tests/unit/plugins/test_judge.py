"""What a node's state says about a failed run; messages from NVIDIA's driver, modprobe and the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.judge import Evidence, Verdict, judge

GOOD = Evidence("580.1", "580.1", "", (), 0, "")
GONE = replace(GOOD, resident_version="", smi_rc=None)
XID = "[  9.1] NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', GPU has fallen off the bus.\n"
INFOROM = "NVRM: GPU 0000:01:00.0: infoROM is corrupted\n"
GOOD_, HARDWARE, BAD, UNKNOWN = Verdict.DRIVER_GOOD, Verdict.HARDWARE, Verdict.DRIVER_BAD, Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        pytest.param(GOOD, GOOD_, id="all well"),
        pytest.param(replace(GOOD, smi_rc=None), GOOD_, id="nvidia-smi missing or hanging"),
        pytest.param(replace(GOOD, kernel_log="NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n"), GOOD_, id="an ordinary log"),
        pytest.param(replace(GOOD, kernel_log=XID), HARDWARE, id="Xid"),
        pytest.param(replace(GOOD, kernel_log=INFOROM), HARDWARE, id="infoROM"),
        pytest.param(replace(GOOD, kernel_log="NVRM: RmInitAdapter failed! (0x62:0x40:2393)\n"), HARDWARE, id="adapter"),
        pytest.param(replace(GOOD, smi_rc=6), HARDWARE, id="no devices"),
        pytest.param(replace(GOOD, smi_rc=6, kernel_log=XID, device_waived=True), GOOD_, id="waived"),
        pytest.param(replace(GOOD, library_problems=("x",)), BAD, id="a library"),
        pytest.param(replace(GOOD, library_problems=("x",), kernel_log=XID), HARDWARE, id="hardware before a library"),
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
    found, reason = judge(evidence)
    assert found is verdict
    assert reason
