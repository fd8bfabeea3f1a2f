"""Judges a failed driver container by the state of the node, not by its exit status (rule I15). Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..driver import gpus, xids
from ..driver.smi_statuses import HARDWARE_STATUSES, NO_DEVICE
from ..driver.xids import Xid
from ..util.expressions import expression
from . import driver_log

# All these are looked for in driver_log's records alone, where the lines of a message are put together.
# What only faulty hardware causes, Xids apart.
_CERTAIN = expression(r"NVRM: GPU .*(?:infoROM is corrupted|has fallen off the bus)", re.I)
# What faulty hardware causes, and damaged firmware too. "RmInitAdapter failed" means that the GPU did not start.
_HARDWARE = expression(
    r"NVRM: .*(?:RmInitAdapter failed|None of the NVIDIA devices were initialized|is not supported by|The NVIDIA probe routine failed)",
    re.I,
)
# Modules of the wrong flavour: "RmInitAdapter failed" follows, but the GPU is not faulty. Only open modules drive Blackwell and later ones,
# and only proprietary ones those before Turing, which have no GSP.
_OPEN_ONLY = expression(r"NVRM: .*requires use of the NVIDIA open kernel modules", re.I)
_PROPRIETARY_ONLY = expression(r"NVRM: .*is not supported by open nvidia\.ko", re.I)
_NOT_SUPPORTED = expression(
    r"NVRM: (?:The NVIDIA GPU \S{1,20} \(PCI ID: 10de:([0-9a-f]{4})\) )?installed in this system is not supported by the .*driver release",
    re.I,
)
_NO_POWER = expression(r"NVRM: GPU \S{1,20}: GPU does not have the necessary power cables connected", re.I)
_NO_WINDOW = expression(r"NVRM: This PCI I/O region assigned to your NVIDIA device is invalid", re.I)
_HELD = expression(r"NVRM: No NVIDIA (?:devices|graphics adapter) probed", re.I)
# What modprobe and the kernel say of a module that is itself wrong.
_MODULE = expression(
    r"Exec format error|Invalid module format|Unknown symbol|disagrees about version of symbol|Key was rejected|Required key not available"
    r"|not found in directory|module verification failed.*refus|bad vermagic",
    re.I,
)
_NO_GPU = expression(r"NVRM: No NVIDIA GPU found", re.I)


class Verdict(str, enum.Enum):
    """``DRIVER_GOOD``: try device initialisation again. ``HARDWARE``: stop. ``MISFIT``: stop; driver image and node do not fit, and no
    compile changes that. ``DRIVER_BAD``: remove the layer and do a full install, once. ``UNKNOWN``: no evidence either way."""

    DRIVER_GOOD = "driver-good"
    HARDWARE = "hardware"
    MISFIT = "misfit"
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
    """The verdict, the reason as a sentence, and the code of the failure if the run ends with it; "" if the cause has no code."""

    verdict: Verdict
    reason: str
    code: str = ""

    @property
    def stops(self) -> bool:
        """Whether another try cannot help."""
        return self.verdict in (Verdict.HARDWARE, Verdict.MISFIT)


def judge(evidence: Evidence) -> Diagnosis:
    """Returns what a failed run means."""
    log = driver_log.records(evidence.kernel_log)
    answers = evidence.resident_version == evidence.wanted_version and not evidence.device_waived
    flavour = _wrong_flavour(log) if answers else None
    if flavour:
        return flavour
    misfit = _refused_by_host(log) if answers else None
    if misfit:
        return misfit
    certain = None if evidence.device_waived else _certain(log)
    if evidence.damaged and not certain:  # a GPU with damaged firmware, or queried by a damaged program, looks like a faulty one
        return Diagnosis(Verdict.DRIVER_BAD, f"files of the layer are damaged: {'; '.join(evidence.damaged[:3])}")
    found = _of_gpus(evidence, log, certain) if answers else None
    if found:
        return found
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


def cause(kernel_log: str, version: str) -> Diagnosis | None:
    """What the kernel's log alone says of why the driver, of this version, does not work and would not in another try; None if nothing."""
    log = driver_log.records(kernel_log)
    return _refused_by_host(log) or _certain(log) or _not_supported(version, log) or _held(log)


def _of_gpus(evidence: Evidence, log: Sequence[str], certain: Diagnosis | None) -> Diagnosis | None:
    """What log and nvidia-smi say of the GPUs, where the wanted driver is loaded; None if nothing."""
    if certain and certain.code != "hardware":  # a cause with a code of its own
        return certain
    misfit = _not_supported(evidence.wanted_version, log)
    if misfit:
        return misfit
    line = _first(_HARDWARE, log)
    if evidence.smi_rc == NO_DEVICE:  # this has a code of its own, whatever cause the kernel's log gives
        says = certain.reason if certain else f"the kernel says: {line}" if line else ""
        cause = f"; {says}" if says else ""
        return Diagnosis(Verdict.HARDWARE, f"the driver is loaded, and nvidia-smi finds no device (exit status 6){cause}", "no_device")
    if certain or line:
        return certain or Diagnosis(Verdict.HARDWARE, f"the driver is loaded, and the hardware is faulty: {line}", "hardware")
    if evidence.smi_rc in HARDWARE_STATUSES:
        says = f"nvidia-smi says that {HARDWARE_STATUSES[evidence.smi_rc]} (exit status {evidence.smi_rc})"
        return Diagnosis(Verdict.HARDWARE, f"the driver is loaded, and {says}", "hardware")
    return None


def _not_loaded(evidence: Evidence, log: Sequence[str]) -> Diagnosis:
    module = _wrong_module(evidence)
    if module:
        return Diagnosis(Verdict.DRIVER_BAD, f"the module cannot be loaded: {evidence.modprobe_says.strip() or module}")
    found = _wrong_flavour(log) or _refused_by_host(log) or _certain(log) or _not_supported(evidence.wanted_version, log)
    if found:
        return found
    line, held = _first(_HARDWARE, log) or _first(_NO_GPU, log), _held(log)
    if line:
        return Diagnosis(Verdict.HARDWARE, f"the module did not accept the hardware: {line}", "hardware")
    if held:
        return held
    return Diagnosis(Verdict.UNKNOWN, f"the module is not loaded ({evidence.modprobe_says.strip() or 'modprobe reported no error'})")


def _first(expression: re.Pattern[str], log: Sequence[str]) -> str:
    """The first record that begins as ``expression`` says; "" if none does."""
    return next((record.strip() for record in log if expression.match(record)), "")


def _xids(log: Sequence[str]) -> list[Xid]:
    return [xid for xid in map(xids.parse, log) if xid]


def _certain(log: Sequence[str]) -> Diagnosis | None:
    """What only the hardware, or its firmware, causes. Where the driver itself says what recovery a GPU needs, that is the code: it is what
    people can do first, and the reason has the cause."""
    power, window = _first(_NO_POWER, log), _first(_NO_WINDOW, log)
    if power:
        return Diagnosis(Verdict.HARDWARE, f"a GPU has no power: {power}", code="gpu_power")
    if window:
        return Diagnosis(Verdict.HARDWARE, f"firmware or hypervisor gave a GPU no usable memory window: {window}", code="gpu_window")
    cause = next((xid.text for xid in _xids(log) if xid.is_hardware), "") or _first(_CERTAIN, log)
    needed = _recovery(log)
    why = f"; the kernel says: {cause}" if cause else ""
    if needed and xids.needs(needed[1]) == xids.REBOOT:
        return Diagnosis(Verdict.HARDWARE, f"the driver says of GPU {needed[0]}: {needed[1]} (Xid 154){why}", code="node_reboot_needed")
    if needed:
        return Diagnosis(Verdict.HARDWARE, f"the driver says of GPU {needed[0]}: {needed[1]} (Xid 154){why}", code="gpu_reset_needed")
    return Diagnosis(Verdict.HARDWARE, f"the hardware is faulty: {cause}", "hardware") if cause else None


def _recovery(log: Sequence[str]) -> tuple[str, str] | None:
    """A GPU that needs a recovery, and which; a reboot before a reset. The last word about each GPU counts."""
    last = {xid.gpu: xid.recovery for xid in _xids(log) if xid.recovery is not None}
    needed = [(gpu, words) for gpu, words in last.items() if xids.needs(words)]
    return min(needed, key=lambda one: xids.needs(one[1]) != xids.REBOOT, default=None)


def _refused_by_host(log: Sequence[str]) -> Diagnosis | None:
    """What the host of a vGPU refuses, as Xid 78 says."""
    version = next((xid for xid in _xids(log) if xid.is_other_driver), None)
    kind = next((xid for xid in _xids(log) if xid.is_other_type), None)
    if version:
        reason = "the host's vGPU manager does not accept this version of the driver; use a driver image of the host's branch"
        return Diagnosis(Verdict.MISFIT, f"{reason}: {version.text.strip()}", code="host_driver_mismatch")
    if kind:
        reason = "this VM's vGPU is of a type that its system or GPU cannot have; give the VM another type"
        return Diagnosis(Verdict.MISFIT, f"{reason}: {kind.text.strip()}", code="vgpu_type_refused")
    return None


def _not_supported(version: str, log: Sequence[str]) -> Diagnosis | None:
    """A GPU that this version of the driver does not know. One that it should know cannot be read, which is the hardware's fault."""
    line = _first(_NOT_SUPPORTED, log)
    if not line:
        return None
    match = _NOT_SUPPORTED.match(line)
    generation = gpus.of_device(match[1]) if match and match[1] else None
    if generation and not generation.unsupported(version):
        reason = f"driver {version} supports this GPU, but cannot recognise it, so its registers cannot be read"
        return Diagnosis(Verdict.HARDWARE, f"{reason}: {line}", "hardware")
    return Diagnosis(Verdict.MISFIT, f"driver {version} does not support this GPU: {line}", code="gpu_not_supported")


def _held(log: Sequence[str]) -> Diagnosis | None:
    """GPUs that another driver holds, so that NVIDIA's has none."""
    line = _first(_HELD, log)
    if not line:
        return None
    reason = "another driver holds the GPU, or driver_override keeps NVIDIA's from it (lspci -nnk -d 10de:)"
    return Diagnosis(Verdict.MISFIT, f"{reason}: {line}", code="gpu_held")


def _wrong_module(evidence: Evidence) -> str:
    """What modprobe or the kernel said of a module that is itself wrong; "" if nothing."""
    last = driver_log.of_modules(evidence.kernel_log).split("\n")[-20:]
    found = _MODULE.search(evidence.modprobe_says) or _MODULE.search("\n".join(last))
    return found[0] if found else ""


def _wrong_flavour(log: Sequence[str]) -> Diagnosis | None:
    """Modules of the flavour that does not drive a GPU of this node: a full install chooses by the GPU."""
    if _first(_OPEN_ONLY, log):
        reason = "the modules are proprietary, and this GPU can be driven only by NVIDIA's open kernel modules"
        return Diagnosis(Verdict.DRIVER_BAD, reason, code="gpu_refuses_modules")
    if _first(_PROPRIETARY_ONLY, log):
        reason = "the modules are NVIDIA's open ones, and this GPU can be driven only by the proprietary ones"
        return Diagnosis(Verdict.DRIVER_BAD, reason, code="gpu_refuses_modules")
    return None
