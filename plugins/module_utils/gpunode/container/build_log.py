"""Reads the output of a driver build: its first error, whether a retry can help, and the lines of make.log while it runs."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..util.bounded import LONGEST_LINE, cut, lines
from ..util.expressions import expression
from ..util.files import open_regular
from ..util.traces import is_trace, without_traces

# Each is searched for in one line, cut to _LONGEST characters, and begins with a single character or a word: an expression that may begin
# anywhere in a long name takes the square of the line's length.
_COMPILER_ERROR = expression(r"[\w./+-]:\d+(?::\d+)?: (?:fatal )?error: |undefined reference to ")
_LINKER = expression(r"\bld(?:\.\w+)?: ")
# A compiler that refuses its command line, or that is missing, names no file and line.
_COMPILER_ITSELF = expression(r"\b(?:gcc|g\+\+|cc1|cc|clang|lto1|collect2|as)(?:-\d[\d.]*)?: (?:fatal )?error: ")
_NO_COMPILER = expression(r"\b(?:gcc|cc|clang|ld)(?:-\d[\d.]*)?: (?:command not found|not found|No such file or directory)$")
_MAKE_ERROR = expression(r"make(?:\[\d+\])?: \*\*\* ")
_LONGEST = 2000
_LAST = 1 << 20  # characters of an output in which its last lines are looked for
_AT_ONCE = 1 << 20  # bytes of a make.log that are reported at once
_NO_SPACE = expression(r"No space left on device|Disk quota exceeded", re.I)
# Failures of the network or a lock that another process holds may pass by themselves. Any other failure would repeat.
_TRANSIENT = expression(
    r"Could not get lock|Temporary failure|Connection (?:refused|reset|timed out)|Resource temporarily unavailable|TLS handshake timeout",
    re.I,
)
# The driver container's cp prints this for a library that the build deleted: it cannot copy the overlay's whiteout.
_WHITEOUT = expression(r"cannot create special file '([^'\n]*)': Operation not permitted")
_LOGS = "var/lib/dkms/nvidia/*/build/make.log"
_EVERY_S = 0.5


def first_error(*texts: str | None) -> str | None:
    """The first compiler, modpost or make error in the texts, in that order of preference; None if there is none. A trace is none."""
    for is_error in (_is_compilers, _is_modposts, _MAKE_ERROR.match):
        for text in texts:
            for line in lines(text, _LONGEST):
                if is_error(line) and not is_trace(line):
                    return line.strip()
    return None


def _is_compilers(line: str) -> bool:
    if line.endswith(("not found", "No such file or directory")) and _NO_COMPILER.search(line):
        return True
    if "error" not in line and "undefined" not in line:
        return False
    linker = _LINKER.search(line)
    is_compilers = _COMPILER_ERROR.search(line) or _COMPILER_ITSELF.search(line)
    return bool(is_compilers) or (linker is not None and "error" in line[linker.end() :])


def _is_modposts(line: str) -> bool:
    return line.startswith("ERROR: modpost: ")


def is_out_of_space(*texts: str | None) -> bool:
    """Whether the build failed because a filesystem or a quota was full."""
    return any(_is_said(_NO_SPACE, text or "") for text in texts)


def is_transient(output: str) -> bool:
    """Whether a failed build may succeed if it is repeated unchanged."""
    return _is_said(_TRANSIENT, output) and first_error(output) is None


def _is_said(words: re.Pattern[str], output: str) -> bool:
    """Whether an output has these words, apart from traces, which quote them."""
    return bool(words.search(output) and words.search(without_traces(output)))


def deleted_library(output: str) -> str:
    """The deleted library whose whiteout a build in a sandbox could not copy; "" if the build did not fail for this reason."""
    match = _WHITEOUT.search(output) and _WHITEOUT.search(without_traces(output))
    return match[1].rpartition("/")[2] if match else ""


def last_lines(text: str, count: int = 15) -> str:
    """The end of an output, for a message, without traces, unless there is nothing else."""
    end = text.rstrip()[-_LAST:].lstrip()
    said = [line for line in end.split("\n") if not is_trace(line)]
    return "\n".join(cut(line) for line in (said if any(map(str.strip, said)) else end.split("\n"))[-count:])


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
            with contextlib.suppress(OSError):
                self.reported[path] = inode, self._report(path, offset)

    def _report(self, path: Path, offset: int) -> int:
        """Reports the complete lines of a log after ``offset``; returns where the first incomplete one begins. Of a log that grows faster
        than it can be reported, what lies between is only counted."""
        fd, size = open_regular(path, follow=False)
        try:
            begin = offset if size - offset <= _AT_ONCE else size - _AT_ONCE
            data = os.pread(fd, _AT_ONCE, begin)
        finally:
            os.close(fd)
        if begin > offset:
            self.say(f"[{begin - offset} bytes of {path.name} are not shown]")
        whole, newline, _rest = data.rpartition(b"\n")
        if not newline and len(data) == _AT_ONCE:
            return begin + len(data)  # one line that is longer than all that is reported at once
        for line in whole.decode("utf-8", "replace").split("\n") if newline else ():
            self.say(cut(line, LONGEST_LINE))
        return begin + len(whole + newline)


def _stamp(path: Path) -> tuple[int, int]:
    """Inode and size; zeros if the file does not exist."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size
