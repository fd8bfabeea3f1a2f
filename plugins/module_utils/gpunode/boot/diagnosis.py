"""What a failed run means: the node's state is the evidence, the container's exit status is none (I15). Pure."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from ..driver.smi_statuses import HARDWARE_STATUSES, NO_DEVICE

# Xids of the hardware or its firmware, from NVIDIA's list of Xid errors: memory, NVLink, bus, GSP. Those that a program's own faults
# set off (13, 31, 43, 45) say nothing about the GPU.
_XIDS = "48|62|63|64|74|79|92|94|95|119|120|140|143"
# NVIDIA's kernel log: what only hardware does.
_CERTAIN = re.compile(rf"^.*NVRM:.*(?:\bXid \([^)]*\): (?:{_XIDS})\b|infoROM is corrupted|has fallen off the bus).*$", re.M | re.I)
# What hardware does, and damaged firmware too. "RmInitAdapter failed" is the GPU not starting.
_HARDWARE = re.compile(
    r"^.*NVRM:.*(?:RmInitAdapter failed|None of the NVIDIA devices were initialized|is not supported by"
    r"|The NVIDIA probe routine failed).*$",
    re.M | re.I,
)
# Proprietary modules on a GPU that only the open ones serve (Blackwell and later): "RmInitAdapter failed" follows, and the GPU is well.
_OPEN_ONLY = re.compile(r"NVRM:.*requires use of the NVIDIA open kernel modules", re.I)
# modprobe's and the kernel's words for a module that is wrong by itself.
_MODULE = re.compile(
    r"Exec format error|Invalid module format|Unknown symbol|disagrees about version of symbol|Key was rejected|Required key not available"
    r"|not found in directory|module verification failed.*refus|bad vermagic",
    re.I,
)
_NO_GPU = re.compile(r"NVRM:.*No NVIDIA GPU found", re.I)


class Verdict(str, enum.Enum):
    """``DRIVER_GOOD``: try device initialisation again. ``HARDWARE``: stop. ``DRIVER_BAD``: the layer goes, full install once.
    ``UNKNOWN``: no evidence either way."""

    DRIVER_GOOD = "driver-good"
    HARDWARE = "hardware"
    DRIVER_BAD = "driver-bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Evidence:
    """What the node shows after a failed run: the resident module's version ("" when none), what modprobe said when asked to load it or
    one that comes after it ("" when all are loaded), what is wrong with libraries' versions, nvidia-smi's exit status (None: it is not
    there), the kernel's log since the driver was tried, and which files of the layer that was tried are ``damaged``: of another content
    than was baked."""

    wanted_version: str
    resident_version: str
    modprobe_says: str
    library_problems: tuple[str, ...]
    smi_rc: int | None
    kernel_log: str
    device_waived: bool = False
    damaged: tuple[str, ...] = ()


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict and the reason in words."""
    answers = evidence.resident_version == evidence.wanted_version and not evidence.device_waived
    if answers and _OPEN_ONLY.search(evidence.kernel_log):
        return _open_only()
    certain = None if evidence.device_waived else _CERTAIN.search(evidence.kernel_log)
    if evidence.damaged and not certain:  # a GPU with damaged firmware, or asked by a damaged program, answers as a broken one does
        return Verdict.DRIVER_BAD, f"contents: {'; '.join(evidence.damaged[:3])}"
    if answers:
        hardware = certain or _HARDWARE.search(evidence.kernel_log)
        if evidence.smi_rc == NO_DEVICE:  # an answer of its own, whatever the kernel's log says of the cause
            cause = f"; the kernel says: {hardware[0].strip()}" if hardware else ""
            return Verdict.HARDWARE, f"the driver is loaded, and nvidia-smi finds no device (exit status 6){cause}"
        if hardware:
            return Verdict.HARDWARE, f"the driver is loaded, the hardware is not well: {hardware[0].strip()}"
        if evidence.smi_rc in HARDWARE_STATUSES:
            meaning = HARDWARE_STATUSES[evidence.smi_rc]
            return Verdict.HARDWARE, f"the driver is loaded, and nvidia-smi says that {meaning} (exit status {evidence.smi_rc})"
    if evidence.resident_version and evidence.resident_version != evidence.wanted_version:
        return (
            Verdict.DRIVER_BAD,
            f"the kernel holds nvidia {evidence.resident_version}, wanted is {evidence.wanted_version}",
        )
    if not evidence.resident_version:
        return _not_loaded(evidence)
    if evidence.modprobe_says and _wrong_module(evidence):
        return Verdict.DRIVER_BAD, f"a module cannot be loaded: {evidence.modprobe_says.strip()}"
    if evidence.library_problems:
        return Verdict.DRIVER_BAD, f"libraries: {'; '.join(evidence.library_problems[:3])}"
    if evidence.smi_rc == 18:
        return Verdict.DRIVER_BAD, "nvidia-smi finds a driver/library version mismatch (exit status 18)"
    return (
        Verdict.DRIVER_GOOD,
        "the module is loaded and the libraries are of its version: only device initialisation failed",
    )


def _not_loaded(evidence: Evidence) -> tuple[Verdict, str]:
    log = evidence.kernel_log
    module = _wrong_module(evidence)
    if module:
        return Verdict.DRIVER_BAD, f"the module cannot be loaded: {evidence.modprobe_says.strip() or module}"
    if _OPEN_ONLY.search(log):
        return _open_only()
    hardware = _CERTAIN.search(log) or _HARDWARE.search(log) or _NO_GPU.search(log)
    if hardware:
        return Verdict.HARDWARE, f"the module refused the hardware: {hardware[0].strip()}"
    return Verdict.UNKNOWN, f"the module is not loaded ({evidence.modprobe_says.strip() or 'modprobe says nothing'})"


def _wrong_module(evidence: Evidence) -> str:
    """modprobe's or the kernel's words for a module that is wrong by itself; "" for none."""
    found = _MODULE.search(evidence.modprobe_says) or _MODULE.search("\n".join(evidence.kernel_log.splitlines()[-20:]))
    return found[0] if found else ""


def _open_only() -> tuple[Verdict, str]:
    return (
        Verdict.DRIVER_BAD,
        "the modules are proprietary, and this GPU requires use of the NVIDIA open kernel modules",
    )
