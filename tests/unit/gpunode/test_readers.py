"""Every reader of what others wrote: its good inputs, and the odd ones that were found (tests/data/fuzz/<reader>)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.finds import FINDS, read_in_time
from tests.kit.readers import READERS

KEPT = sorted(path for path in FINDS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", READERS)
def test_a_good_input_is_read(name: str, tmp_path: Path) -> None:
    for seed in READERS[name].seeds:
        read_in_time(name, tmp_path, seed)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_could_not_be_read_is_read_or_an_error_of_ours(path: Path, tmp_path: Path) -> None:
    read_in_time(path.parent.name, tmp_path, path.read_bytes())


def test_each_kept_input_is_for_a_reader() -> None:
    assert KEPT
    assert {path.parent.name for path in KEPT} <= set(READERS)
