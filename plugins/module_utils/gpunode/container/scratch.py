"""The contract's two folders on the host, ``/opt/gpu`` and ``/opt/actions``: whose they are, how they are made and swept.

A driver container empties and fills them, so nothing in them can say that they are ours: a note in the store does. What a run without such
a note has left (of version 0.1.0, or of another provisioner's scripts) is known by its contents. Anything else is somebody's, and is
neither deleted nor given to a driver container, which would delete it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import DataError, PreflightError
from ..paths import SCRATCH_NOTE
from ..system import mounts
from ..util import files, jsondoc, trust
from ..util.expressions import expression

FOLDERS = ("opt/gpu", "opt/actions")
_GPU, _ACTIONS = FOLDERS
_SCHEMA = 1
_CODE = "bad_data"
# The names in /opt/gpu of the images that are known: those of the aks-gpu family, and this project's own.
_NAMES = {
    _GPU: expression(
        r"(config|download|fm_run_package_installer|package_manager_helpers)\.sh|blacklist-nouveau\.conf|driver|packages"
        r"|\d+-nvidia-[\w.-]+|(lib)?nvidia-[\w.+~%-]+|NVIDIA-Linux-[\w.-]+|fabricmanager-linux-[\w.-]+"
    ),
    _ACTIONS: expression(r"install\.sh"),
}
# One of these must be there too, since some of the names are anybody's: the driver itself, or a script that speaks of the contract.
_DRIVER = expression(r"NVIDIA-Linux-.+|fabricmanager-linux-.+|nvidia-installer")
_SCRIPTS = {_GPU: ("config.sh", b"DRIVER_VERSION="), _ACTIONS: ("install.sh", b"/opt/gpu")}
_SCRIPT_BYTES = 65536


def require(root: Path) -> None:
    """Raises PreflightError if one of the folders has something in it that is neither a driver image's nor ours."""
    for folder in FOLDERS:
        why = taken(root, folder)
        if why:
            raise PreflightError(
                f"/{folder}: {why}, which is not a driver image's; a driver container would delete all that is there: move it elsewhere",
                code="path_taken",
            )


def make(root: Path) -> None:
    """Makes the folders, and notes that they are ours. Raises OSError."""
    noted = []
    for folder in FOLDERS:
        fd = files.own_folder(trust.below(root, folder), 0o755)
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        noted.append({"path": folder, "device": status.st_dev, "inode": status.st_ino})
    note = trust.below(root, SCRATCH_NOTE)
    files.make_private(note.parent)
    files.write_atomic(note, jsondoc.dump({"schema": _SCHEMA, "folders": noted}), 0o600)


def sweep(root: Path) -> None:
    """Removes the folders, with what a driver image has put there. What is not a driver image's stays."""
    for folder in FOLDERS:
        path = trust.below(root, folder)
        if path.is_dir() and not taken(root, folder):
            files.remove_tree(path)
    note = trust.below(root, SCRATCH_NOTE)
    if note.exists():
        files.remove_durably(note)


def taken(root: Path, folder: str) -> str:
    """What one of the folders is or has that is neither a driver image's nor ours, in words; "" if nothing. It need not exist."""
    path = trust.below(root, folder)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return ""
    if not stat.S_ISDIR(status.st_mode):
        return "it is a link" if stat.S_ISLNK(status.st_mode) else "it is a file"
    inside = f"{trust.point(root, folder)}/"
    mounted = next((m.point for m in mounts.current(root) if m.point.startswith(inside)), "")
    if mounted:
        return f"a filesystem is mounted at {mounted}"
    names = sorted(entry.name for entry in path.iterdir())
    if not names or (folder, status.st_dev, status.st_ino) in _noted(root):
        return ""
    strange = next((name for name in names if not _NAMES[folder].fullmatch(name)), "")
    if strange:
        return f"it contains {strange}"
    return "" if _is_drivers(path, folder, names) else f"it contains {names[0]}"


def _is_drivers(path: Path, folder: str, names: list[str]) -> bool:
    script, words = _SCRIPTS[folder]
    return any(_DRIVER.fullmatch(name) for name in names) or words in _beginning(path / script)


def _beginning(path: Path) -> bytes:
    try:
        fd, _size = files.open_regular(path, follow=False)
    except OSError:
        return b""
    try:
        return os.read(fd, _SCRIPT_BYTES)
    finally:
        os.close(fd)


def _noted(root: Path) -> set[tuple[object, ...]]:
    """Path, device and inode of each folder that we have made."""
    where = f"/{SCRATCH_NOTE}"
    try:
        text = files.read_document(trust.document(root, SCRATCH_NOTE))
        folders = jsondoc.get(jsondoc.load(text, _SCHEMA, where, _CODE), "folders", list, where, _CODE)
        return {(one["path"], one["device"], one["inode"]) for one in folders}
    except (OSError, ValueError, LookupError, TypeError, DataError):
        return set()  # then their contents decide
