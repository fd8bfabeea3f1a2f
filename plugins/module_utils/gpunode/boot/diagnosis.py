"""Judges a failed driver container by the state of the node, not by its exit status (rule I15). Pure."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from ..driver.smi_statuses import HARDWARE_STATUSES, NO_DEVICE
from ..util.expressions import expression
from . import driver_log

# Xids of the hardware or its firmware, from NVIDIA's list of Xid errors: memory, NVLink, bus, GSP. Those that faulty programs cause
# (13, 31, 43, 45) say nothing about the GPU.
_XIDS = "48|62|63|64|74|79|92|94|95|119|120|140|143"
# Lines of NVIDIA's modules in the kernel's log that only faulty hardware causes. All these are looked for in driver_log's lines alone.
_CERTAIN = expression(
    rf"^NVRM: Xid \([^)\n]*\): (?:{_XIDS})\b.*$|^NVRM: GPU .*(?:infoROM is corrupted|has fallen off the bus).*$", re.M | re.I
)
# Lines that faulty hardware causes, and damaged firmware too. "RmInitAdapter failed" means that the GPU did not start.
_HARDWARE = expression(
    r"^NVRM: .*(?:RmInitAdapter failed|None of the NVIDIA devices were initialized|is not supported by|The NVIDIA probe routine failed).*$",
    re.M | re.I,
)
# Proprietary modules on a GPU that only open ones drive (Blackwell and later): "RmInitAdapter failed" follows, but the GPU is not faulty.
_OPEN_ONLY = expression(r"^NVRM: .*requires use of the NVIDIA open kernel modules", re.M | re.I)
# What modprobe and the kernel say of a module that is itself wrong.
_MODULE = expression(
    r"Exec format error|Invalid module format|Unknown symbol|disagrees about version of symbol|Key was rejected|Required key not available"
    r"|not found in directory|module verification failed.*refus|bad vermagic",
    re.I,
)
_NO_GPU = expression(r"^NVRM: No NVIDIA GPU found.*$", re.M | re.I)


class Verdict(str, enum.Enum):
    """``DRIVER_GOOD``: try device initialisation again. ``HARDWARE``: stop. ``DRIVER_BAD``: remove the layer and do a full install, once.
    ``UNKNOWN``: no evidence either way."""

    DRIVER_GOOD = "driver-good"
    HARDWARE = "hardware"
    DRIVER_BAD = "driver-bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Evidence:
    """What the node shows after a failed run.

    ``resident_version``: version of the loaded module nvidia, "" if none is loaded. ``modprobe_says``: why modprobe could not load one of
    the modules, "" if all are loaded. ``library_problems``: libraries that are missing or of another version. ``smi_rc``: nvidia-smi's
    exit status, None if it was not or could not be run. ``kernel_log``: the kernel's log since the driver was tried. ``device_waived``:
    no GPU need answer. ``damaged``: files of the tried layer whose contents are not those that were baked.
    """

    wanted_version: str
    resident_version: str
    modprobe_says: str
    library_problems: tuple[str, ...]
    smi_rc: int | None
    kernel_log: str
    device_waived: bool = False
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """The verdict, the reason as a sentence, and, where the hardware is at fault, the code of that failure."""

    verdict: Verdict
    reason: str
    code: str = ""


def judge(evidence: Evidence) -> Diagnosis:
    """Returns what a failed run means."""
    log = driver_log.of_driver(evidence.kernel_log)
    answers = evidence.resident_version == evidence.wanted_version and not evidence.device_waived
    if answers and _OPEN_ONLY.search(log):
        return _open_only()
    certain = None if evidence.device_waived else _CERTAIN.search(log)
    if evidence.damaged and not certain:  # a GPU with damaged firmware, or queried by a damaged program, looks like a faulty one
        return Diagnosis(Verdict.DRIVER_BAD, f"files of the layer are damaged: {'; '.join(evidence.damaged[:3])}")
    if answers:
        hardware = certain or _HARDWARE.search(log)
        if evidence.smi_rc == NO_DEVICE:  # this has a code of its own, whatever cause the kernel's log gives
            cause = f"; the kernel says: {hardware[0].strip()}" if hardware else ""
            return Diagnosis(Verdict.HARDWARE, f"the driver is loaded, and nvidia-smi finds no device (exit status 6){cause}", "no_device")
        if hardware:
            return Diagnosis(Verdict.HARDWARE, f"the driver is loaded, and the hardware is faulty: {hardware[0].strip()}", "hardware")
        if evidence.smi_rc in HARDWARE_STATUSES:
            meaning = HARDWARE_STATUSES[evidence.smi_rc]
            return Diagnosis(
                Verdict.HARDWARE, f"the driver is loaded, and nvidia-smi says that {meaning} (exit status {evidence.smi_rc})", "hardware"
            )
    if evidence.resident_version and evidence.resident_version != evidence.wanted_version:
        return Diagnosis(Verdict.DRIVER_BAD, f"nvidia {evidence.resident_version} is loaded, and {evidence.wanted_version} is wanted")
    if not evidence.resident_version:
        return _not_loaded(evidence, log)
    if evidence.modprobe_says and _wrong_module(evidence):
        return Diagnosis(Verdict.DRIVER_BAD, f"a module cannot be loaded: {evidence.modprobe_says.strip()}")
    if evidence.library_problems:
        return Diagnosis(Verdict.DRIVER_BAD, f"libraries are not of this version: {'; '.join(evidence.library_problems[:3])}")
    if evidence.smi_rc == 18:
        return Diagnosis(Verdict.DRIVER_BAD, "nvidia-smi reports a driver/library version mismatch (exit status 18)")
    return Diagnosis(Verdict.DRIVER_GOOD, "the module is loaded and the libraries are of its version, so only device initialisation failed")


def _not_loaded(evidence: Evidence, log: str) -> Diagnosis:
    module = _wrong_module(evidence)
    if module:
        return Diagnosis(Verdict.DRIVER_BAD, f"the module cannot be loaded: {evidence.modprobe_says.strip() or module}")
    if _OPEN_ONLY.search(log):
        return _open_only()
    hardware = _CERTAIN.search(log) or _HARDWARE.search(log) or _NO_GPU.search(log)
    if hardware:
        return Diagnosis(Verdict.HARDWARE, f"the module did not accept the hardware: {hardware[0].strip()}", "hardware")
    return Diagnosis(Verdict.UNKNOWN, f"the module is not loaded ({evidence.modprobe_says.strip() or 'modprobe reported no error'})")


def _wrong_module(evidence: Evidence) -> str:
    """What modprobe or the kernel said of a module that is itself wrong; "" if nothing."""
    last = driver_log.of_modules(evidence.kernel_log).split("\n")[-20:]
    found = _MODULE.search(evidence.modprobe_says) or _MODULE.search("\n".join(last))
    return found[0] if found else ""


def _open_only() -> Diagnosis:
    return Diagnosis(Verdict.DRIVER_BAD, "the modules are proprietary, and this GPU can be driven only by NVIDIA's open kernel modules")
