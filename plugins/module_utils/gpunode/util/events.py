"""Steps as events: a name, seconds, an outcome, some detail; reported as each step ends, returned at the end of the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ..errors import DataError
from . import logs
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
    grows, and a program that follows the file can tell runs apart by its inode.

    A call never raises: what is reported may be the failure that is about to be rolled back, and a line that cannot be written, or not be
    encoded, must not prevent that. The file stays below ``LIMIT`` bytes."""

    LIMIT = 64 << 20

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name
        self._stream: TextIO | None = None
        self._start = time.monotonic()
        self._room = self.LIMIT

    def __call__(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError, DataError):
            self._write(f"{time.monotonic() - self._start:8.2f} {clean_text(line)}\n")

    def _write(self, text: str) -> None:
        if self._room <= 0:
            return
        if self._stream is None:  # not before the first line: a run that is refused must not replace another run's log
            self._stream = logs.create(self._root, self._name)
        self._room -= len(text)
        self._stream.write(text if self._room > 0 else f"[this log has reached {self.LIMIT} bytes; what follows is not written]\n")
        self._stream.flush()
