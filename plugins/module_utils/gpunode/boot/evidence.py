"""Collects what a node shows after a driver container has failed; diagnosis.py judges it (rule I15)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..driver import control, kmod, libraries, modules, nvidia_smi
from ..store.manifest import Manifest
from ..system import tree
from ..util.bounded import LONGEST_LINE
from ..util.deadline import Deadline
from ..util.run import Runner
from . import driver_log
from .diagnosis import Diagnosis, Evidence, cause

# A time limit of its own, apart from the boot's deadline: the cause is found also where that has passed.
_LOOK_S = 60.0
# NVIDIA's module logs this before it looks for GPUs, each time that it is loaded.
_LOADING = "nvidia-nvlink: Nvlink Core is being initialized"


def log_before(root: Path, runner: Runner) -> str:
    """The part of the kernel's log, before a try of the driver, that is no evidence about it: all of it, or, if the driver is loaded
    already, what was logged before it was loaded."""
    log = control.kernel_log(runner)
    if not kmod.loaded(root, ["nvidia"]):
        return log
    return _at_last_load(log)[0]


def _at_last_load(log: str) -> tuple[str, str]:
    """The log before the driver was loaded last, and the rest; "" and all of it if the log does not say when that was."""
    whole = log.split("\n")
    loads = [number for number, line in enumerate(whole) if driver_log.message(line[:LONGEST_LINE]).startswith(_LOADING)]
    return ("".join(f"{line}\n" for line in whole[: loads[-1]]), "\n".join(whole[loads[-1] :])) if loads else ("", log)


def explain(runner: Runner, version: str, passed: Collection[str]) -> Diagnosis | None:
    """What the kernel's log says, since the driver was loaded last, of why it cannot be loaded or does not answer; None if nothing."""
    return cause(log_since(_at_last_load(control.kernel_log(runner))[1], "", passed), version)


def log_since(log: str, before: str, passed: Collection[str] = ()) -> str:
    """The messages of ``log`` after ``before``, without those about the GPUs at the addresses ``passed``, which belong to others."""
    if log.startswith(before):
        log = log[len(before) :]
    elif before.rstrip("\n"):  # the kernel has dropped its oldest lines
        log = log.partition(before.rstrip("\n").rpartition("\n")[2])[2] or log
    slots = [address.rpartition(".")[0] for address in passed]
    return driver_log.without(log, slots) if slots else log


def gather(
    root: Path, runner: Runner, arch: str, version: str, layer: Manifest | None, device_waived: bool, before: str, passed: Collection[str]
) -> Evidence:
    """Loads the modules that are not loaded, up to the first that cannot be, and collects all that can be the cause of the failure.

    ``layer`` is the layer that was tried, ``before`` what log_before gave before the try, ``passed`` the addresses of GPUs that belong to
    virtual machines.
    """
    absent = (name for name in modules.NEEDED_MODULES if not kmod.loaded(root, [name]))
    says = next(filter(None, (kmod.load(runner, name, _LOOK_S) for name in absent)), "")
    resident = {m.name: m.version for m in kmod.loaded(root)}.get("nvidia", "")
    return Evidence(
        wanted_version=version,
        resident_version=resident,
        modprobe_says=says,
        library_problems=libraries.version_problems(root, arch, version),
        smi_rc=nvidia_smi.smi_status(runner, Deadline(_LOOK_S)) if resident else None,
        kernel_log=log_since(control.kernel_log(runner), before, passed),
        device_waived=device_waived,
        damaged=tree.problems(root, layer.deciding_files) if layer else (),
    )
