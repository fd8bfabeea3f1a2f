"""Listing folders: one that cannot be listed is an error, and never empty. ``Path.glob`` and ``os.walk`` do not tell the two apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from .files import ABSENT


def names_in(folder: Path | str) -> tuple[str, ...]:
    """The names in a folder, sorted; () if it does not exist. Raises OSError, which names it, if it cannot be listed."""
    try:
        return tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - names alone: a bus or /lib/modules has many
    except OSError as error:
        if error.errno in ABSENT:
            return ()
        raise


def matching(folder: Path, pattern: str) -> tuple[Path, ...]:
    """The paths below a folder that match a pattern as ``Path.glob`` has it, sorted. Raises OSError if a folder on the way cannot be
    listed. ``**`` follows no links."""
    return tuple(sorted(set(_matching(folder, pattern.split("/")))))


def _matching(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    first, rest = parts[0], parts[1:]
    if first == "**":
        for inner in _and_below(folder):
            yield from _matching(inner, rest)
        return
    is_pattern = "*" in first or "[" in first
    names = [name for name in names_in(folder) if fnmatchcase(name, first)] if is_pattern else [first]
    for path in (folder / name for name in names):
        if rest:
            yield from _matching(path, rest)
        elif is_pattern or path.exists():
            yield path


def _and_below(folder: Path) -> Iterator[Path]:
    """The folder, and every folder in it at any depth."""
    todo = [folder]
    while todo:
        top = todo.pop()
        yield top
        try:
            with os.scandir(top) as entries:
                todo += [top / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno not in ABSENT:
                raise
