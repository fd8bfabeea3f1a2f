"""Finds our store, logs and the marker below a root, and says whether what lies there is root's alone.

The one place that follows links: as the system at ``root`` would, so that a link of a mounted image never leads to the machine's own
files. Whoever may write to a document, or to a folder that holds it, decides what we do as root; so neither is used.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..errors import DataError, PreflightError
from ..paths import STORE

_MOST_LINKS = 40  # as the kernel, path_resolution(7)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def below(root: Path, path: str) -> Path:
    """Where ``path`` of the system at ``root`` is. Links above it are followed, and none leads out of ``root``; it may be a link itself.

    In the store, no link is followed. Raises OSError for a loop of links.
    """
    if path.startswith(f"{STORE}/"):
        return _walk(root, STORE)[0] / path[len(STORE) + 1 :]
    return _walk(root, path)[0]


def point(root: Path, path: str) -> str:
    """The absolute path of the same in the system at ``root``, as its mount table names it."""
    return f"/{below(root, path).relative_to(root)}"


def _walk(root: Path, path: str) -> tuple[Path, list[tuple[str, os.stat_result]]]:
    """The same, with the status of every folder and link on the way that exists."""
    todo = [part for part in reversed(path.split("/")) if part]
    top = str(root).rstrip("/")
    seen: list[tuple[str, os.stat_result]] = []
    here, links = "", 0
    while todo:
        part = todo.pop()
        if part in (".", ".."):
            here = here if part == "." else here.rpartition("/")[0]
            continue
        if not todo:
            return Path(f"{top}{here}/{part}"), seen
        try:
            status = os.lstat(f"{top}{here}/{part}")
        except OSError:  # it does not exist: nothing below it is a link
            here = f"{here}/{part}"
            continue
        seen.append((f"{here}/{part}", status))
        if not stat.S_ISLNK(status.st_mode):
            here = f"{here}/{part}"
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = str(Path(f"{top}{here}/{part}").readlink())
        here = "" if target.startswith("/") else here
        todo += [part for part in reversed(target.split("/")) if part]
    return Path(f"{top}{here}" or "/"), seen


def fault(status: os.stat_result) -> str:
    """Why somebody else than root may change a file or folder, in words; "" if nobody else may."""
    if status.st_uid not in (0, os.getuid()):
        return f"it belongs to the user {status.st_uid}"
    if stat.S_ISLNK(status.st_mode) or not status.st_mode & _OTHERS_WRITE:
        return ""
    return f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})"


def folder_fault(path: Path | str) -> str:
    """Why a folder of the store is not used, in words; "" if it is root's alone, or not there."""
    try:
        status = os.lstat(path)
    except OSError:
        return ""
    if not stat.S_ISDIR(status.st_mode):
        return "it is a link" if stat.S_ISLNK(status.st_mode) else "it is not a folder"
    return fault(status)


def require_store(root: Path) -> None:
    """Raises PreflightError if the store of the system at ``root`` is a link, or is not root's alone. It need not exist."""
    store, above = _walk(root, STORE)
    for path, status in above:
        # In a folder with the sticky bit, nobody else can rename or delete what belongs to root. The group root is root.
        is_kept = status.st_mode & stat.S_ISVTX or (status.st_gid == 0 and not status.st_mode & stat.S_IWOTH)
        why = "" if is_kept and status.st_uid == 0 else fault(status)
        if why:
            raise PreflightError(_untrusted(path, why), code="store_untrusted")
    if store.is_symlink():
        raise PreflightError(
            f"/{STORE} is a link to {store.readlink()}: the store must be a folder, since what a link leads to is not ours to write and "
            "delete: move the folder here, or mount a filesystem here",
            code="store_link",
        )
    why = folder_fault(store)
    if why:
        raise PreflightError(_untrusted(f"/{STORE}", why), code="store_untrusted")


def document(root: Path, path: str) -> Path:
    """Where a document of the store is; it need not exist. Raises DataError if it, or a folder of the store above it, is not root's alone.

    The store itself is checked once, by ``require_store``.
    """
    inside = path[len(STORE) + 1 :].count("/")
    found = below(root, path)
    require_document(found, inside)
    return found


def require_document(path: Path, folders: int = 0) -> None:
    """Raises DataError if the document at ``path``, or one of the ``folders`` above it, is not root's alone; not if it does not exist."""
    for folder in reversed(list(path.parents)[:folders]):
        why = folder_fault(folder)
        if why:
            raise DataError(_untrusted(folder, why), code="store_untrusted")
    try:
        status = os.lstat(path)
    except OSError:
        return
    why = "it is a link" if stat.S_ISLNK(status.st_mode) else fault(status)
    if why:
        raise DataError(_untrusted(path, why), code="store_untrusted")


def _untrusted(path: Path | str, why: str) -> str:
    return f"{path}: {why}, so it is not used: find out who did that, then delete it, or give it back to root with mode go-w"
