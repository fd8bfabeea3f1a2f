"""Names the steps of a layer's transactions, and announces each as it begins, as one line ``operation: step``.

People and programs that follow a run rely on the names, so their meaning does not change. docs/manifest.md describes them.
"""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
ACTIVATE, DEACTIVATE, TAKE_AWAY, DISCARD = "activate", "deactivate", "take-away", "discard"
# In their order. The layer and the node decide which of the optional steps occur.
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
    """Announces that a step begins. Raises ValueError if the operation has no such step."""
    if step not in STEPS[operation]:
        raise ValueError(f"{operation} has no step {step!r}")
    say(f"{operation}: {step}")


def say_nothing(_line: str) -> None:
    """Drops the line."""
