"""Folders that cannot be listed, as on a broken disk: root is refused nothing, so a mode does not make one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def make_unreadable(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Every listing of ``folders`` is an input/output error from now on."""
    broken = {str(folder.resolve()) for folder in folders}

    def refuse(path: Any) -> None:
        if not isinstance(path, int) and str(Path(os.fspath(path)).resolve()) in broken:  # shutil lists by descriptors
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    listdir, scandir = os.listdir, os.scandir

    def listing(path: Any = ".") -> list[Any]:
        refuse(path)
        return listdir(path)

    def scanning(path: Any = ".") -> Iterator[os.DirEntry[str]]:
        refuse(path)
        return scandir(path)

    monkeypatch.setattr(os, "listdir", listing)
    monkeypatch.setattr(os, "scandir", scanning)
