"""Text that others wrote, of any length: cut into lines of bounded length before an expression looks at it, kept in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

LONGEST_LINE = 8192  # characters; a compiler's command line has a few thousand
_OVERHEAD = 64  # what a line costs in memory beside its characters


def lines(text: str | None, longest: int = LONGEST_LINE) -> Iterator[str]:
    """The lines of ``text``, each cut to ``longest`` characters. Only a newline ends a line: ``str.splitlines`` also takes characters that
    a file name may contain, and so would begin a line where the program that wrote the text did not."""
    for line in (text or "").split("\n"):
        yield line[:longest].rstrip("\r")


def cut(text: str, longest: int = 2000) -> str:
    """The text; if it is longer than ``longest``, its two ends."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters cut] {text[-half:]}"


class Ends:
    """Passes the first lines of a stream to ``keep``, up to ``first`` characters, and at the end its last lines, up to ``last``; between
    them one line says how much was cut."""

    def __init__(self, keep: Callable[[str], None], first: int, last: int) -> None:
        self._keep, self._room, self._last = keep, first, last
        self._tail: deque[str] = deque()
        self._size = self._lines = self._characters = 0

    def add(self, line: str) -> None:
        """Takes the next line."""
        if not self._tail and len(line) + _OVERHEAD <= self._room:
            self._room -= len(line) + _OVERHEAD
            self._keep(line)
            return
        self._tail.append(line)
        self._size += len(line) + _OVERHEAD
        while self._size > self._last and self._tail:
            dropped = self._tail.popleft()
            self._size -= len(dropped) + _OVERHEAD
            self._lines += 1
            self._characters += len(dropped) + 1
            self._room = 0  # nothing that comes later belongs to the beginning

    def end(self) -> None:
        """Passes what is left. To be called once."""
        if self._lines:
            self._keep(f"[{self._lines} lines, {self._characters} characters, were cut here]")
        for line in self._tail:
            self._keep(line)
        self._tail.clear()
