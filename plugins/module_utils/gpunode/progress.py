"""A log that a person can follow while a long step runs: ``tail -f`` on the node, or fetched by whoever called."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from .contract import LOGS


class ProgressLog:
    """Calling it writes one line with the seconds since it was made; each run has a new file under the same
    name, so that nothing grows, and that who follows knows one run's lines from another's by the file's inode."""

    def __init__(self, root: Path, name: str) -> None:
        self._path = root / LOGS / name
        self._stream: TextIO | None = None
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        if self._stream is None:  # not before the first line: a run that is refused must not wipe another's log
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f".{self._path.name}.new")
            self._stream = fresh.open("w", encoding="utf-8")
            fresh.rename(self._path)
        self._stream.write(f"{time.monotonic() - self._start:8.2f} {line}\n")
        self._stream.flush()
