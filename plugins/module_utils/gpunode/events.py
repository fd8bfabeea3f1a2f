"""Steps as events: a name, seconds, an outcome, some detail; told as they happen, returned at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any


class Events:
    """Collects the timed steps of one run and hands each finished one to ``say`` as a line."""

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
            event["error"] = str(error)
            raise
        finally:
            event["seconds"] = round(time.monotonic() - start, 3)
            self.steps.append(event)
            self.say(f"{name}: {event['outcome']} in {event['seconds']:.2f} s")
