"""Writes the logs below ``/var/log``, a folder that others may write to: on some systems it belongs to a group."""

from __future__ import annotations

import errno
import os
from io import RawIOBase
from pathlib import Path
from typing import TextIO

from ..errors import DataError
from ..paths import LOGS
from . import files, trust
from .expressions import expression

_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENOTDIR)
# Everything that we write there: progress, driver containers, and what an interrupted run left of a new log.
_OURS = expression(r"(bake|boot|layer|remove|gpuprebuild-\d+|gpuinstall-\d+)\.log|\..+\.log\.new")


def create(root: Path, name: str) -> TextIO:
    """A new log, open for writing. It takes the name of the last one only when it exists, so that a program can tell two runs apart by the
    file's inode. No link is followed, and nothing that others put there is written to. Raises OSError, DataError."""
    return os.fdopen(_create(root, name), "w", encoding="utf-8", errors="backslashreplace")


def create_unbuffered(root: Path, name: str) -> RawIOBase:
    """The same for bytes, which are written at once: a line that a full disk refuses is not kept for later."""
    return os.fdopen(_create(root, name), "wb", buffering=0)


def _create(root: Path, name: str) -> int:
    folder = trust.below(root, LOGS)
    try:
        opened = files.own_folder(folder, 0o755)
        try:
            return _create_in(opened, name)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        raise DataError(
            f"/{LOGS}/{name}: a link or a folder is in the way ({error.strerror}): find out who put it there, and move it away",
            code="log_untrusted",
        ) from error


def _create_in(folder: int, name: str) -> int:
    fresh = f".{name}.new"
    fd = files.create(fresh, 0o644, folder)
    os.fchmod(fd, 0o644)
    os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    return fd


def ours(root: Path) -> tuple[list[str], list[str]]:
    """The names in our log folder that are ours, and those that are not."""
    folder = trust.below(root, LOGS)
    if folder.is_symlink() or not folder.is_dir():
        return [], []
    found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    mine = [entry.name for entry in found if entry.is_file(follow_symlinks=False) and _OURS.fullmatch(entry.name)]
    return mine, [entry.name for entry in found if entry.name not in mine]
