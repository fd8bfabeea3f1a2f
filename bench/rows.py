"""A row of the report, and how to make one from repeated measurements: the median, and the fastest and the slowest run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

NATIVE_WARM = "native, warm"
NATIVE_COLD = "native, cold"
EMULATED = "emulated"


@dataclass(frozen=True)
class Row:
    """A measured figure: `value` is the median of `runs`, `low` and `high` are the fastest and the slowest run, all in `unit`.

    Only native warm rows have a `budget` (in `unit`): other figures depend on the machine as much as on the product. `compared_with` is the
    name of another row of the same unit and clock. `made` is the time of an earlier run that measured the figure, or empty.
    """

    name: str
    value: float
    unit: str
    low: float
    high: float
    runs: int
    clock: str = NATIVE_WARM
    budget: float | None = None
    compared_with: str | None = None
    made: str = ""

    def __post_init__(self) -> None:
        """Refuses a budget on a row for which it would mean nothing."""
        if self.budget is not None and self.clock != NATIVE_WARM:
            raise ValueError(f"{self.name}: a budget holds on native warm rows only, this one is {self.clock}")

    @property
    def kept(self) -> bool | None:
        """Whether the median is within the budget; None without a budget."""
        return None if self.budget is None else self.value <= self.budget


def row(
    name: str,
    seconds: Sequence[float],
    unit: str = "ms",
    clock: str = NATIVE_WARM,
    budget: float | None = None,
    compared_with: str | None = None,
    made: str = "",
) -> Row:
    """Makes a row of repeated measurements in seconds. `unit` is s or ms, and `budget` is in that unit."""
    scaled = [value * {"s": 1, "ms": 1000}[unit] for value in seconds]
    value, low, high = (round(x, 3) for x in (statistics.median(scaled), min(scaled), max(scaled)))
    return Row(name, value, unit, low, high, len(scaled), clock, budget, compared_with, made)


def interleaved(works: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each work. The works take turns, so that a disturbance of the machine affects all. The first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(runs + 1):
        for name, work in works.items():
            with _timed() as took:
                work()
            if turn:
                seconds[name] += took
    return seconds


@contextmanager
def _timed() -> Iterator[list[float]]:
    took: list[float] = []
    begin = time.perf_counter()
    yield took
    took.append(time.perf_counter() - begin)
