"""Shows a growing log file while something else runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.machine.progress import say

INTERVAL_S = 0.3


@contextmanager
def following(path: Path, name: str) -> Iterator[None]:
    """Prints each line that is added to `path` during the body, with `name` in front; the file may be created late, or replaced."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, name, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: Path, name: str, done: threading.Event) -> None:
    offset, pending = 0, b""
    last = False
    while not last:
        last = done.wait(INTERVAL_S)
        try:
            size = path.stat().st_size
            if size < offset:
                offset, pending = 0, b""
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
        except OSError:
            continue
        offset += len(data)
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text:
                say(f"{name} | {text}")
