"""Inputs that a reader could not read, found by tests/fuzz, and how they are read."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import GpuNodeError

from tests.kit.readers import READERS
from tests.kit.values import DATA

FINDS = DATA / "fuzz"
LONGEST_S = 20.0  # of this process's own work, so that a busy machine does not count


class TooSlowError(Exception):
    """A reader works for longer on an input than any boot may wait."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def over(*_: object) -> None:
        raise TooSlowError(f"it is still read after {LONGEST_S} s")

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def read_in_time(name: str, folder: Path, data: bytes) -> None:
    """Reads ``data`` by the reader of that name. Raises what is no error of ours, and TooSlowError."""
    with _limited(), contextlib.suppress(GpuNodeError):
        READERS[name].read(folder, data)
