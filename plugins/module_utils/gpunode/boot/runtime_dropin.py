"""Takes back a driver container's runtime drop-in with which containerd refuses its configuration, and so would not start again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..container.containerd import Containerd
from ..container.containerd_config import MAIN
from ..container.leftovers import DROPIN
from ..errors import BootError, CommandError, GpuNodeError, ImageError
from ..store import installed_files, node_record
from ..system import tree
from ..util import files
from .context import BootRun
from .facts import Facts

_ASK_S = 30.0


def config_in_force(run: BootRun) -> str:
    """The fingerprint of containerd's configuration after a driver container.

    Raises BootError with the code ``containerd_dropin`` if that container's drop-in spoils the configuration; it has been removed then.
    Raises ImageError, CommandError.
    """
    try:
        return run.containerd.config_in_force()
    except ImageError as error:
        if not _take_back(run.root, run.containerd):
            raise
        raise BootError(
            f"{error} The cause is /{DROPIN}, which the driver container wrote; it has been removed again, and containerd would start. "
            f"Use a driver image whose drop-in has the version of /{MAIN}, or give that file the drop-in's version",
            code="containerd_dropin",
        ) from error


def take_back_after_failure(run: BootRun) -> None:
    """The same after a failed container, whose error the caller raises: this one is only said."""
    if not (run.root / DROPIN).exists():
        return
    with contextlib.suppress(OSError):
        try:
            config_in_force(run)
        except GpuNodeError as error:
            run.events.say(f"{error.code}: {error}")


def keeps_containerd_down(root: Path, facts: Facts) -> bool:
    """Whether the drop-in of an interrupted run may be why containerd does not answer, as after a power cut and a boot."""
    was_interrupted = facts.record is not None and facts.record.state == node_record.STARTED
    return was_interrupted and not facts.containerd_ready and (root / DROPIN).exists()


def resume(run: BootRun) -> None:
    """Removes the drop-in if it is why containerd does not start, and starts containerd. Raises GpuNodeError."""
    try:
        run.containerd.config_in_force()
    except CommandError:
        return
    except ImageError:
        if _take_back(run.root, run.containerd):
            run.events.say(f"/{DROPIN}, which an interrupted run's driver container wrote, spoilt containerd's configuration: removed")
            run.runner.run(["systemctl", "reset-failed", "containerd"], ok=None, timeout_s=_ASK_S)
            run.containerd.restart(run.deadline)


def _take_back(root: Path, containerd: Containerd) -> bool:
    """Removes the drop-in if a driver container wrote it and the configuration is valid without it; returns whether it did. A kill in
    between costs nothing: the next driver container writes the file again."""
    if not _is_containers(root):
        return False
    path = root / DROPIN
    text, mode = files.read_bytes(path, follow=False).decode("utf-8", "surrogateescape"), path.stat().st_mode & 0o7777
    files.remove_durably(path)
    try:
        containerd.config_in_force()
    except (CommandError, ImageError):
        files.write_atomic(path, text, mode)
        return False
    return True


def _is_containers(root: Path) -> bool:
    """Whether the drop-in is as a driver container wrote it: in our list, or absent before the first container of an interrupted run."""
    if not (root / DROPIN).is_file():
        return False
    path = files.relative(root, root / DROPIN)
    listed = installed_files.completed(root, installed_files.read_or_empty(root))
    entry = next((entry for entry in listed.entries if entry.path == path), None)
    return path in listed.absent if entry is None else not tree.problems(root, [entry])
