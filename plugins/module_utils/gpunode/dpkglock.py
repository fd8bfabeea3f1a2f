"""dpkg's lock: awaited inside a deadline, its holder named; held during a bake so that nobody else changes the image."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from .deadline import Deadline
from .errors import BusyError
from .files import read_text

LOCK = "var/lib/dpkg/lock-frontend"
# struct flock of Linux on 64-bit: type, whence, padding, start, length, pid, padding
_FLOCK = "hh4xqqi4x"


def holder(root: Path) -> str | None:
    """``name (pid)`` of the process that holds dpkg's frontend lock; None when it is free or there is no dpkg."""
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
    """Returns when nobody holds the lock. Raises BusyError, which names the holder, when the deadline comes first."""
    told = None
    while name := holder(root):
        if name != told:
            say(f"waiting for dpkg's lock, held by {name}")
            told = name
        if not deadline.pause(1.0, keep_s):
            raise BusyError(f"dpkg's lock (/{LOCK}) is still held by {name}: end that or try again later", code="dpkg_locked")


@contextlib.contextmanager
def held(root: Path, deadline: Deadline, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Holds the lock for the body. Raises BusyError at the deadline."""
    wait_free(root, deadline, say)
    path = root / LOCK
    if not path.parent.is_dir():
        yield
        return
    with path.open("r+" if path.exists() else "w") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(f"dpkg's lock (/{LOCK}) was taken by {holder(root)} just now: try again", code="dpkg_locked") from None
        yield
