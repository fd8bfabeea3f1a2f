"""Reads the output of a driver build: its first error, whether a retry can help, and the lines of make.log while it runs."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..util.expressions import expression

_COMPILER_ERROR = expression(
    r"^.*?(?:[\w./+-]+:\d+(?::\d+)?: (?:fatal )?error: .*|\bld(?:\.\w+)?: .*error.*|undefined reference to .*)$", re.M
)
_MODPOST_ERROR = expression(r"^ERROR: modpost: .*$", re.M)
_MAKE_ERROR = expression(r"^make(?:\[\d+\])?: \*\*\* .*$", re.M)
_NO_SPACE = expression(r"No space left on device|Disk quota exceeded", re.I)
# Failures of the network or a lock that another process holds may pass by themselves. Any other failure would repeat.
_TRANSIENT = expression(
    r"Could not get lock|Temporary failure|Connection (?:refused|reset|timed out)|Resource temporarily unavailable|TLS handshake timeout",
    re.I,
)
# The driver container's cp prints this for a library that the build deleted: it cannot copy the overlay's whiteout.
_WHITEOUT = expression(r"cannot create special file '[^']*?([^'/]+)': Operation not permitted")
_LOGS = "var/lib/dkms/nvidia/*/build/make.log"
_EVERY_S = 0.5


def first_error(*texts: str | None) -> str | None:
    """The first compiler, modpost or make error in the texts, in that order of preference; None if there is none."""
    for pattern in (_COMPILER_ERROR, _MODPOST_ERROR, _MAKE_ERROR):
        for text in texts:
            match = pattern.search(text or "")
            if match:
                return match[0].strip()
    return None


def is_out_of_space(*texts: str | None) -> bool:
    """Whether the build failed because a filesystem or a quota was full."""
    return any(_NO_SPACE.search(text or "") for text in texts)


def is_transient(output: str) -> bool:
    """Whether a failed build may succeed if it is repeated unchanged."""
    return bool(_TRANSIENT.search(output)) and first_error(output) is None


def deleted_library(output: str) -> str:
    """The deleted library whose whiteout a build in a sandbox could not copy; "" if the build did not fail for this reason."""
    match = _WHITEOUT.search(output)
    return match[1] if match else ""


def last_lines(text: str, count: int = 15) -> str:
    """The end of an output, for a message."""
    return "\n".join(text.strip().splitlines()[-count:])


@contextlib.contextmanager
def following(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Passes each line that is written to a ``make.log`` below ``root`` during the body to ``say``, from a thread of its own."""
    logs = _Logs(root, say)
    done = threading.Event()

    def follow() -> None:
        while not done.wait(_EVERY_S):
            logs.report()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        logs.report()


class _Logs:
    """The logs, and up to which byte each has been reported."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root, self.say = root, say
        self.reported = {path: _stamp(path) for path in root.glob(_LOGS)}  # lines of earlier builds are not reported

    def report(self) -> None:
        """Reports the new complete lines. DKMS deletes its build folder at the end, so a log that disappears is not an error."""
        for path in self.root.glob(_LOGS):
            inode, size = _stamp(path)
            known, offset = self.reported.get(path, (0, 0))
            if inode != known or size < offset:
                offset = 0
            with contextlib.suppress(OSError), path.open("rb") as stream:
                stream.seek(offset)
                whole, newline, _rest = stream.read().rpartition(b"\n")
                self.reported[path] = inode, offset + len(whole + newline)
                for line in whole.decode("utf-8", "replace").splitlines():
                    self.say(line)


def _stamp(path: Path) -> tuple[int, int]:
    """Inode and size; zeros if the file does not exist."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size
