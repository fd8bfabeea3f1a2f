"""The steps of a layer's transactions, each said as it begins, as one line ``operation: step``. The names do not change their meaning;
docs/manifest.md says what each is. Whoever follows a run, on a console or in a log, goes by them.
"""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
ACTIVATE, DEACTIVATE, TAKE_AWAY, DISCARD = "activate", "deactivate", "take-away", "discard"
# In their order; which of the optional ones occur depends on the layer and the node.
STEPS = {
    ACTIVATE: (
        *("check", "read", "keep", "journal", "stage", "flush-staged", "place", "swap-indexes", "depmod", "ldconfig", "register", "flush"),
        *("record", "end", "done"),
    ),
    DEACTIVATE: ("journal",),
    TAKE_AWAY: ("stage", "remove", "restore", "depmod", "ldconfig", "folders", "flush", "forget", "end", "drop", "done"),
    DISCARD: ("manifest", "folder", "objects", "done"),
}


def begin(say: Say, operation: str, step: str) -> None:
    """Says that a step begins. ValueError for one that has no such name."""
    if step not in STEPS[operation]:
        raise ValueError(f"{operation} has no step {step!r}")
    say(f"{operation}: {step}")


def say_nothing(_line: str) -> None:
    """Says nothing."""
