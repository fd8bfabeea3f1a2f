"""Which processes use a driver: those that have its device nodes open. That a device node exists does not show use (I4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..util.files import read_text


def device_holders(root: Path = Path("/")) -> tuple[str, ...]:
    """``name (pid)`` of every process that has a /dev/nvidia* node open."""
    return tuple(sorted(set(_holders(root, lambda node: node.startswith("/dev/nvidia")))))


def holders_of(root: Path, nodes: Collection[str]) -> tuple[str, ...]:
    """The same for device nodes by name, such as ``/dev/dri/card0``."""
    return tuple(sorted(set(_holders(root, lambda node: node in nodes))))


def _holders(root: Path, is_meant: Callable[[str], bool]) -> Iterator[str]:
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            links = [str(fd.readlink()) for fd in (folder / "fd").iterdir()]
        except OSError:
            continue  # it ended meanwhile, or is a kernel thread
        if any(map(is_meant, links)):
            yield f"{(read_text(folder / 'comm') or '?').strip()} ({folder.name})"
