"""Steps as events: a name, seconds, an outcome, some detail; reported as each step ends, returned at the end of the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ..paths import LOGS
from .plaintext import clean_text


class Events:
    """Collects the timed steps of one run, and passes a line for each finished one to ``say``."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self.steps: list[dict[str, Any]] = []
        self.say = say

    @contextlib.contextmanager
    def step(self, name: str, **detail: Any) -> Iterator[dict[str, Any]]:
        """Times the body; what it adds to the yielded mapping becomes part of the event."""
        event: dict[str, Any] = {"name": name, **detail}
        start = time.monotonic()
        try:
            yield event
            event.setdefault("outcome", "ok")
        except BaseException as error:
            event["outcome"] = "failed"
            event["error"] = clean_text(str(error))
            raise
        finally:
            event["seconds"] = round(time.monotonic() - start, 3)
            self.steps.append(event)
            self.say(f"{name}: {event['outcome']} in {event['seconds']:.2f} s")


class ProgressLog:
    """Calling it writes one line with the seconds since it was created. Each run writes a new file under the same name, so that nothing
    grows, and a program that follows the file can tell runs apart by its inode."""

    def __init__(self, root: Path, name: str) -> None:
        self._path = root / LOGS / name
        self._stream: TextIO | None = None
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        if self._stream is None:  # not before the first line: a run that is refused must not replace another run's log
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f".{self._path.name}.new")
            self._stream = fresh.open("w", encoding="utf-8")
            fresh.rename(self._path)
        self._stream.write(f"{time.monotonic() - self._start:8.2f} {clean_text(line)}\n")
        self._stream.flush()
