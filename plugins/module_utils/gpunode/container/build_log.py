"""What a failed build says: the first compiler error, and whether trying again can help (B6, B12). Pure functions of text."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_COMPILER_ERROR = re.compile(
    r"^.*?(?:[\w./+-]+:\d+(?::\d+)?: (?:fatal )?error: .*|\bld(?:\.\w+)?: .*error.*|undefined reference to .*)$", re.M
)
_MODPOST_ERROR = re.compile(r"^ERROR: modpost: .*$", re.M)
_MAKE_ERROR = re.compile(r"^make(?:\[\d+\])?: \*\*\* .*$", re.M)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded", re.I)
# Failures of the network or of somebody else's lock: the next try may find them gone. All else is the same again (B12).
_TRANSIENT = re.compile(
    r"Could not get lock|Temporary failure|Connection (?:refused|reset|timed out)|Resource temporarily unavailable|TLS handshake timeout",
    re.I,
)
# What the contract's cp says of a library that the build has deleted: an overlay refuses the mark that stands for it.
_WHITEOUT = re.compile(r"cannot create special file '[^']*?([^'/]+)': Operation not permitted")
_LOGS = "var/lib/dkms/nvidia/*/build/make.log"
_EVERY_S = 0.5


def first_error(*texts: str | None) -> str | None:
    """The first compiler, modpost or make error in the texts, in that order of preference; None where there is none."""
    for pattern in (_COMPILER_ERROR, _MODPOST_ERROR, _MAKE_ERROR):
        for text in texts:
            match = pattern.search(text or "")
            if match:
                return match[0].strip()
    return None


def is_out_of_space(*texts: str | None) -> bool:
    """Whether a filesystem was full."""
    return any(_NO_SPACE.search(text or "") for text in texts)


def is_transient(output: str) -> bool:
    """Whether a failed build may succeed when it is simply run again."""
    return bool(_TRANSIENT.search(output)) and first_error(output) is None


def deleted_library(output: str) -> str:
    """The library whose deletion a build in a sandbox could not hand on; "" where that is not why it failed."""
    match = _WHITEOUT.search(output)
    return match[1] if match else ""


def last_lines(text: str, count: int = 15) -> str:
    """The end of an output, for a message."""
    return "\n".join(text.strip().splitlines()[-count:])


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
