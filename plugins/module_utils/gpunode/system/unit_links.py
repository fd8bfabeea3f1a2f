"""Reads the links below /etc/systemd/system that enable units or give them other names (systemd.unit(5))."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ..util.files import relative
from ..util.folders import matching

FOLDER = "etc/systemd/system"
_UNIT_FOLDERS = ("lib/systemd/system", "usr/lib/systemd/system", "usr/local/lib/systemd/system", FOLDER)


def unit_of(root: Path, path: str) -> str:
    """The unit to which a link of this folder leads, whether or not it exists, with merged /usr resolved; "" for anything else."""
    link = root / path
    if not path.startswith(f"{FOLDER}/") or not link.is_symlink():
        return ""
    target = Path(os.readlink(link))  # noqa: PTH115 - an absolute target is one from the root of this system
    try:
        unit = relative(root, root / str(target).lstrip("/") if target.is_absolute() else link.parent / target)
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a target outside of the root
        return ""
    return unit if unit.rpartition("/")[0] in _UNIT_FOLDERS else ""


def units_in(paths: Iterable[str]) -> set[str]:
    """Those of ``paths`` that are units."""
    return {path for path in paths if path.rpartition("/")[0] in _UNIT_FOLDERS}


def leading_to(root: Path, units: Collection[str]) -> Iterator[str]:
    """The links that lead to one of ``units``."""
    for link in matching(root / FOLDER, "**/*"):
        path = str(link.relative_to(root))
        if unit_of(root, path) in units:
            yield path
