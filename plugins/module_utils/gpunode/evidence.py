"""What a node shows after a driver container has failed: looked at here, judged in judge.py (I15)."""

from __future__ import annotations

from pathlib import Path

from . import driver, inventory, kmod, userspace
from .deadline import Deadline
from .judge import Evidence
from .manifest import Manifest
from .runner import Runner

# Looking at the node after a failure has time of its own: a deadline that has passed must not hide why.
_LOOK_S = 60.0


def gather(root: Path, runner: Runner, arch: str, version: str, layer: Manifest | None, device_waived: bool) -> Evidence:
    """Tries to load the module if it is not loaded, and looks at everything that can be the cause; ``layer`` is what was tried."""
    says = ""
    if not any(m.name == "nvidia" for m in kmod.loaded(root)):
        says = kmod.load(runner, "nvidia", _LOOK_S)
    resident = {m.name: m.version for m in kmod.loaded(root)}.get("nvidia", "")
    libraries = list(userspace.version_problems(root, arch, version))
    if layer:
        libraries += inventory.problems(root, layer.deciding_files)
    return Evidence(
        wanted_version=version,
        resident_version=resident,
        modprobe_says=says,
        library_problems=tuple(libraries),
        smi_rc=driver.smi_status(runner, Deadline(_LOOK_S)) if resident else None,
        kernel_log=driver.kernel_log(runner),
        device_waived=device_waived,
    )
