"""A log that a person can follow while a long step runs: ``tail -f`` on the node, or fetched by whoever called."""

from __future__ import annotations

import time
from pathlib import Path

from .contract import LOGS


class ProgressLog:
    """Calling it writes one line with the seconds since it was opened; each run starts its file anew, so that nothing grows."""

    def __init__(self, root: Path, name: str) -> None:
        path = root / LOGS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("w", encoding="utf-8")
        self._start = time.monotonic()
        self.path = f"/{LOGS}/{name}"

    def __call__(self, line: str) -> None:
        self._stream.write(f"{time.monotonic() - self._start:8.2f} {line}\n")
        self._stream.flush()
