"""The lines of a running compile: DKMS shows dots only and writes its compiler's lines to ``make.log``, from which they are told on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_LOGS = "var/lib/dkms/nvidia/*/build/make.log"
_EVERY_S = 0.5


@contextlib.contextmanager
def following(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hands each line that comes to a ``make.log`` below ``root`` during the body to ``say``, from a thread of its own."""
    told = _Told(root, say)
    done = threading.Event()

    def follow() -> None:
        while not done.wait(_EVERY_S):
            told.tell()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        told.tell()


class _Told:
    """How far each log has been told."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root, self.say = root, say
        self.told = {path: _stamp(path) for path in root.glob(_LOGS)}  # an earlier build's lines are not this one's

    def tell(self) -> None:
        """Tells the complete lines that are new. DKMS deletes its build folder at the end: a log that goes away meanwhile is no error."""
        for path in self.root.glob(_LOGS):
            inode, size = _stamp(path)
            known, offset = self.told.get(path, (0, 0))
            if inode != known or size < offset:
                offset = 0
            with contextlib.suppress(OSError), path.open("rb") as stream:
                stream.seek(offset)
                whole, newline, _rest = stream.read().rpartition(b"\n")
                self.told[path] = inode, offset + len(whole + newline)
                for line in whole.decode("utf-8", "replace").splitlines():
                    self.say(line)


def _stamp(path: Path) -> tuple[int, int]:
    """Inode and size; zeros for a file that is not there."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size
