"""dpkg: its lock, the installed packages and the files that they own, read from its database."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..errors import BusyError
from ..util.bounded import lines
from ..util.deadline import Deadline
from ..util.expressions import expression
from ..util.files import md5, read_if_there, read_text
from ..util.folders import matching, names_in

LOCK = "var/lib/dpkg/lock-frontend"
_LISTS = "var/lib/dpkg/info"
# struct flock of Linux on 64-bit: type, whence, padding, start, length, pid, padding
_FLOCK = "hh4xqqi4x"
# Fields of dpkg's status file, compiled once: each is searched for in about a thousand paragraphs.
_NAME, _VERSION = (expression(rf"^{field}: (.+)$", re.MULTILINE) for field in ("Package", "Version"))
# dpkg(1), "Package states": a package in any other state has files here, also one that is half installed or not configured.
_HAS_NO_FILES = expression(r"^Status: \S{1,40} \S{1,40} (?:not-installed|config-files)$", re.MULTILINE)
_HAS_STATUS = expression(r"^Status: ", re.MULTILINE)
# The suffixes of a list's name: none, or the architecture of a package that can be installed for several.
_ARCHITECTURES = ("", ":amd64", ":arm64", ":i386")


def holder(root: Path) -> str | None:
    """``name (pid)`` of the process that holds dpkg's frontend lock; None if it is free or there is no dpkg."""
    try:
        fd = os.open(root / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    if answer[0] == fcntl.F_UNLCK:
        return None
    return f"{(read_text(Path(f'/proc/{answer[4]}/comm')) or '?').strip()} ({answer[4]})"


def wait_free(root: Path, deadline: Deadline, say: Callable[[str], None] = lambda _: None, keep_s: float = 0.0) -> None:
    """Returns when nobody holds the lock. Raises BusyError, which names the holder, if the deadline comes first."""
    reported = None
    while name := holder(root):
        if name != reported:
            say(f"waiting for dpkg's lock, held by {name}")
            reported = name
        if not deadline.pause(1.0, keep_s):
            raise BusyError(f"dpkg's lock (/{LOCK}) is still held by {name}: end that process or try again later", code="dpkg_locked")


@contextlib.contextmanager
def held(root: Path, deadline: Deadline, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Holds the lock for the body. Raises BusyError if it is not free by the deadline."""
    wait_free(root, deadline, say)
    path = root / LOCK
    if not path.parent.is_dir():
        yield
        return
    with path.open("r+" if path.exists() else "w") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"dpkg's lock (/{LOCK}) has just been taken by {holder(root)}: try again", code="dpkg_locked") from None
        yield


def installed_packages(root: Path) -> tuple[tuple[str, str], ...]:
    """Name and version of every package that has files here, from dpkg's own status file. Raises OSError if that cannot be read."""
    text = read_if_there(root / "var/lib/dpkg/status")
    found = []
    for paragraph in text.split("\n\n"):
        name = _NAME.search(paragraph)
        if name and _HAS_STATUS.search(paragraph) and not _HAS_NO_FILES.search(paragraph):
            version = _VERSION.search(paragraph)
            found.append((name[1], version[1] if version else ""))
    return tuple(found)


def owned_by(root: Path, package: str) -> tuple[str, ...]:
    """The paths, relative to the root, that a package has, for any architecture; () if dpkg has no list of them. Raises OSError."""
    lists = (read_if_there(root / f"{_LISTS}/{package}{suffix}.list") for suffix in _ARCHITECTURES)
    return tuple(line.lstrip("/") for text in lists for line in lines(text) if line)


def owned_by_dpkg(root: Path, lists: Collection[str] | None = None) -> set[str]:
    """Paths in dpkg's file lists, relative to the root; those that merged /usr moves are there by both names. With ``lists``, only those in
    the lists of these names.

    Raises OSError if a list cannot be read: its package's files would count as nobody's.
    """
    owned: set[str] = set()
    folder = root / _LISTS
    for listed in matching(folder, "*.list") if lists is None else (folder / name for name in lists):
        # A line is an absolute path. A system has some hundred thousand of them, so Python does not look at each.
        owned.update(f"\n{read_if_there(listed)}".replace("\n/", "\n").split("\n"))
    owned.update([f"usr/{path}" for path in owned if path.startswith(("bin/", "lib/", "lib64/", "sbin/"))])
    return owned


def list_stamps(root: Path) -> dict[str, tuple[int, ...]]:
    """The names of dpkg's file lists, each with what changes when dpkg writes it again. Raises OSError."""
    found: dict[str, tuple[int, ...]] = {}
    for name in names_in(root / _LISTS):
        if name.endswith(".list"):
            with contextlib.suppress(FileNotFoundError):  # dpkg works meanwhile
                status = os.lstat(f"{root}/{_LISTS}/{name}")
                found[name] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def as_packaged(root: Path, path: str) -> bool:
    """Whether a file that dpkg owns has the MD5 sum of its package. dpkg keeps no sums of links; a link counts as unchanged."""
    file = root / path
    if file.is_symlink():
        return True
    names = {path, path.removeprefix("usr/")}
    for sums in matching(root / _LISTS, "*.md5sums"):
        for line in lines(read_text(sums)):
            digest, name = line.partition("  ")[::2]
            if name in names:
                return md5(file) == digest
    return False
