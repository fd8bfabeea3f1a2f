"""Progress: one line on stderr for each step, with the seconds that it took; coloured by rich on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str, style: str = "") -> None:
    """Print one line of progress."""
    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - not needed, and not loaded, without a terminal

        Console(stderr=True, highlight=False).print(f"lab: {text}", style=style or None, markup=False)
    else:
        print(f"lab: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Time the body and print a line when it ends; on a terminal, print one when it begins too."""
    if sys.stderr.isatty():
        say(f"{text} …", "dim")
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{text}: failed after {time.monotonic() - begin:.1f} s", "red")
        raise
    say(f"{text}: {time.monotonic() - begin:.1f} s", "green")
