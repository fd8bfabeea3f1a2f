"""nvidia-smi: whether the driver works for every GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BootError, CommandError
from ..util.bounded import lines
from ..util.deadline import Deadline
from ..util.run import Runner
from . import libraries
from .smi_statuses import HARDWARE_STATUSES, MISMATCH, NO_DEVICE, NOT_LOADED

_SMI_S = 300.0  # without persistence mode it takes up to 30 s for each GPU


def smi_status(runner: Runner, deadline: Deadline) -> int | None:
    """nvidia-smi's exit status; 6 also if it exits with 0 but prints that there are no devices; None if it is missing or hangs."""
    try:
        result = runner.run(["nvidia-smi"], ok=None, timeout_s=deadline.cut_s(_SMI_S, "asking nvidia-smi"))
    except CommandError:
        return None
    if result.rc == 0 and "No devices were found" in result.stdout + result.stderr:
        return NO_DEVICE
    return result.rc


def check(root: Path, runner: Runner, deadline: Deadline, arch: str, version: str, gpus: int, waive_device: bool) -> str:
    """``answered`` if all ``gpus`` answer, or ``waived`` if no device does and ``waive_device`` accepts that.

    Raises BootError with a code for each cause.
    """
    problems = libraries.version_problems(root, arch, version)
    if problems:
        raise BootError(f"module and libraries are not of one version: {'; '.join(problems[:3])}", code="library_mismatch")
    status = smi_status(runner, deadline)
    if status == 0:
        _all_answer(runner, deadline, gpus)
        return "answered"
    if status == NO_DEVICE:
        if waive_device:
            return "waived"
        raise BootError(
            "nvidia-smi finds no device (exit status 6), though the driver is loaded: look at the GPU (dmesg | grep -E 'NVRM|Xid')",
            code="no_device",
        )
    if status in HARDWARE_STATUSES:
        raise BootError(
            f"nvidia-smi: {HARDWARE_STATUSES[status]} (exit status {status}): look at the GPU (dmesg | grep -E 'NVRM|Xid')", code="hardware"
        )
    reasons = {
        MISMATCH: ("driver/library version mismatch", "library_mismatch"),
        NOT_LOADED: ("the driver is not loaded", "module_not_loaded"),
        None: ("it is missing or hangs", "no_answer"),
    }
    reason, code = reasons.get(status, (f"exit status {status}", "no_answer"))
    raise BootError(f"nvidia-smi does not answer: {reason}", code=code)


@dataclass(frozen=True)
class FabricState:
    """How far a GPU is with joining the NVLink fabric. ``state``: ``Not Started``, ``In Progress``, ``Completed``, or ``N/A`` and the like
    for a GPU that joins none. ``status``: ``Success`` or an error, once it is completed."""

    gpu: str
    state: str
    status: str


def fabric_states(runner: Runner, deadline: Deadline) -> tuple[FabricState, ...]:
    """The state of each GPU of which nvidia-smi says one; a driver older than 525 says none. Raises BootError if nvidia-smi fails.

    ``nvidia-smi -q`` is read and not ``--query-gpu=fabric.state``, which does not give the state on every GPU that ``-q`` gives it on.
    """
    try:
        shown = runner.run(["nvidia-smi", "-q"], timeout_s=deadline.cut_s(_SMI_S, "asking nvidia-smi for the fabric's state")).stdout
    except CommandError as error:
        raise BootError(f"nvidia-smi does not say the NVLink fabric's state: {error}", code="no_answer") from error
    return parse_fabric(shown)


def parse_fabric(shown: str) -> tuple[FabricState, ...]:
    """The section ``Fabric`` of each GPU in the output of ``nvidia-smi -q``."""
    found: list[FabricState] = []
    gpu, depth = "", -1  # depth: of the heading "Fabric" while its lines follow, else -1
    for line in lines(shown):
        text = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        name, colon, value = (part.strip() for part in text.partition(":"))
        if indent == 0 and text.startswith("GPU "):
            gpu, depth = text[4:], -1
        elif text == "Fabric":
            depth = indent
        elif indent <= depth:
            depth = -1
        elif depth >= 0 and colon and name == "State":
            found.append(FabricState(gpu, value, ""))
        elif depth >= 0 and colon and name == "Status" and found:
            found[-1] = replace(found[-1], status=value)
            depth = -1
    return tuple(found)


def _all_answer(runner: Runner, deadline: Deadline, gpus: int) -> None:
    """Raises BootError if fewer than ``gpus`` answer: nvidia-smi's exit status is 0 as soon as one does."""
    if gpus < 2:
        return
    listed = runner.run(["nvidia-smi", "-L"], ok=None, timeout_s=deadline.cut_s(_SMI_S, "counting GPUs")).stdout
    answering = len(re.findall(r"^GPU \d+:", listed, re.MULTILINE))
    if answering < gpus:
        raise BootError(
            f"{answering} of {gpus} GPUs answer nvidia-smi: look at the others (lspci -d 10de:, dmesg | grep -E 'NVRM|Xid')",
            code="gpu_silent",
        )
