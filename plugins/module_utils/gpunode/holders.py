"""Who holds the driver: processes with its device nodes open. "/dev/nvidia0 exists" is no sign of use (I4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .files import read_text


def device_holders(root: Path = Path("/")) -> tuple[str, ...]:
    """``name (pid)`` of every process that has a /dev/nvidia* node open."""
    return tuple(sorted(set(_holders(root))))


def _holders(root: Path) -> Iterator[str]:
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            links = [str(fd.readlink()) for fd in (folder / "fd").iterdir()]
        except OSError:
            continue  # it ended meanwhile, or is a kernel thread
        if any(link.startswith("/dev/nvidia") for link in links):
            yield f"{(read_text(folder / 'comm') or '?').strip()} ({folder.name})"
