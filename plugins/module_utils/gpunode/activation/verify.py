"""Verifies that the files of the active layer still are as recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..store import activation_record
from ..system import tree


def problems(root: Path) -> tuple[str, ...]:
    """What is wrong with the active layer's files, in words. Reads all contents. Raises DataError."""
    active = activation_record.read(root)
    return tree.problems(root, active.placed) if active else ("no layer is active",)


def record_verified(root: Path) -> None:
    """Records that ``problems`` found none. Raises DataError."""
    active = activation_record.read(root)
    if active and not active.verified:
        activation_record.write(root, replace(active, verified=True))


def verify(root: Path) -> tuple[str, ...]:
    """Returns ``problems``; if there are none, records that. Raises DataError."""
    found = problems(root)
    if not found:
        record_verified(root)
    return found
