"""One deadline for a whole run: every retry and every program gets at most the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import DeadlineError


class Deadline:
    """``total_s`` seconds from now, measured on ``clock`` (in seconds, never going backwards)."""

    def __init__(
        self,
        total_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._end = clock() + total_s
        self.total_s = total_s

    def left_s(self, keep_s: float = 0.0) -> float:
        """Seconds that are left if ``keep_s`` of them are kept for something later; never negative."""
        return max(0.0, self._end - keep_s - self._clock())

    def cut_s(self, wanted_s: float, doing: str, keep_s: float = 0.0) -> float:
        """``wanted_s``, cut to the seconds that are left. Raises DeadlineError, which names ``doing``, if none are."""
        left = self.left_s(keep_s)
        if left <= 0:
            raise DeadlineError(f"the deadline of {self.total_s:.0f} s has passed; no time is left for: {doing}")
        return min(wanted_s, left)

    def within(self, limit_s: float) -> Deadline:
        """A deadline for a part of the run: ``limit_s`` from now, or what is left of this one if that is less."""
        return Deadline(min(limit_s, self.left_s()), self._clock, self._sleep)

    def pause(self, wanted_s: float, keep_s: float = 0.0) -> bool:
        """Sleeps for ``wanted_s`` seconds; returns False, without sleeping, if no more than that is left."""
        if self.left_s(keep_s) <= wanted_s:
            return False
        self._sleep(wanted_s)
        return True
