"""Gives every reader of what others wrote odd inputs for some seconds. Each input must be read, or be an error of ours, and at once.

An input that is not becomes a file in tests/data/fuzz, made smaller; the unit tests read those files again. GPU_PREBAKE_FUZZ_S sets the
seconds for each reader, GPU_PREBAKE_FUZZ_SEED repeats a run.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom
from tempfile import TemporaryDirectory

import pytest

from tests.fuzz.mutations import Mutator, smaller
from tests.kit.finds import FINDS, read_in_time
from tests.kit.readers import READERS

SECONDS = float(os.environ.get("GPU_PREBAKE_FUZZ_S", "10"))
COUNTS = Path(__file__).parents[2] / "build/fuzz/counts.txt"


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory if possible: a disk writes a file that is written again and again each time."""
    memory = "/dev/shm"
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


def problem(name: str, folder: Path, data: bytes) -> str:
    """What the reader raises that is no error of ours; "" if nothing."""
    try:
        read_in_time(name, folder, data)
    except Exception as error:  # whatever it is, it is what is looked for
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def keep(name: str, folder: Path, data: bytes) -> Path:
    """Keeps a find, made smaller."""
    data = smaller(data, lambda part: bool(problem(name, folder, part)))
    path = FINDS / name / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", READERS)
def test_any_input_is_read_or_is_an_error_of_ours(name: str, folder: Path) -> None:
    seed = os.environ.get("GPU_PREBAKE_FUZZ_SEED") or str(SystemRandom().randrange(10**6))
    mutator = Mutator(Random(f"{seed} {name}"), READERS[name].seeds)
    count, found, end = 0, "", time.monotonic() + SECONDS
    data = b""
    while not found and (time.monotonic() < end or count < 100):
        data, count = mutator.make(), count + 1
        found = problem(name, folder, data)
    COUNTS.parent.mkdir(parents=True, exist_ok=True)
    with COUNTS.open("a", encoding="utf-8") as stream:
        stream.write(f"{count:8} inputs for {name}, seed {seed}{': ' + found if found else ''}\n")
    if found:
        pytest.fail(f"{found}: {keep(name, folder, data)} (seed {seed})")
