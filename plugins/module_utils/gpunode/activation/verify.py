"""Whether the files of the active layer still have their recorded content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..store import activation_record
from ..system import tree


def problems(root: Path) -> tuple[str, ...]:
    """What is wrong with what is active, in words; all contents are read. Raises DataError."""
    active = activation_record.read(root)
    return tree.problems(root, active.placed) if active else ("no layer is active",)


def record_verified(root: Path) -> None:
    """Records that there are no ``problems``. Raises DataError."""
    active = activation_record.read(root)
    if active and not active.verified:
        activation_record.write(root, replace(active, verified=True))


def verify(root: Path) -> tuple[str, ...]:
    """``problems``; where there are none, that is recorded. Raises DataError."""
    found = problems(root)
    if not found:
        record_verified(root)
    return found
