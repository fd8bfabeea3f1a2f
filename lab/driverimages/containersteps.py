"""The steps inside a driver container: the lab's images print `T <seconds since 1970> <step>` when one ends."""

from __future__ import annotations

import re

_MARK = re.compile(r"^\s*[\d.]+ T (\d+\.\d+) (\S+)", re.MULTILINE)


def parse(log: str) -> list[tuple[str, float]]:
    """Name and seconds of each step, from the log of a container's output that the collection has kept."""
    marks = [(float(when), name) for when, name in _MARK.findall(log)]
    return [(name, round(when - before, 3)) for (before, _), (when, name) in zip(marks, marks[1:], strict=False)]
