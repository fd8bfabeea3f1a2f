"""Cache entries are complete or absent, built once, and never deleted while in use."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.machine import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GPU_PREBAKE_CACHE", str(tmp_path))
    held: list[int] = []
    monkeypatch.setattr(cache, "_held", held)
    yield tmp_path
    for lock in held:
        os.close(lock)


def release() -> None:
    while cache._held:
        os.close(cache._held.pop())


def fill(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_builds_once_and_publishes_the_whole_entry() -> None:
    calls: list[Path] = []

    def build(folder: Path) -> None:
        calls.append(folder)
        fill(folder)

    first = cache.entry("kind", ["a"], build)
    assert (cache.entry("kind", ["a"], build), len(calls)) == (first, 1)
    assert (first / "file").read_text() == "whole"


def test_a_failed_build_leaves_no_entry(own_cache: Path) -> None:
    def build(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        cache.entry("kind", ["a"], build)
    assert [path.name for path in (own_cache / "kind").iterdir() if path.is_dir()] == []


def test_the_remains_of_a_killed_build_are_not_an_entry(own_cache: Path) -> None:
    leftover = own_cache / "kind" / f".{cache.key(['a'])}.tmp"
    leftover.mkdir(parents=True)
    (leftover / "stale").write_text("")
    entry = cache.entry("kind", ["a"], fill)
    assert sorted(path.name for path in entry.iterdir()) == ["file"]


def test_differently_divided_parts_have_different_keys() -> None:
    assert cache.key(["ab", "c"]) != cache.key(["a", "bc"])


def test_deletes_the_least_recently_used_entry() -> None:
    entries = [cache.entry("kind", [part], fill, keep=9) for part in "abc"]
    release()
    for age, entry in enumerate(entries):
        os.utime(entry, (1000 + age, 1000 + age))
    cache.prune("kind", 2)
    assert [entry.is_dir() for entry in entries] == [False, True, True]


def test_keeps_an_entry_in_use() -> None:
    entry = cache.entry("kind", ["a"], fill)
    cache.prune("kind", 0)
    in_use = entry.is_dir()
    release()
    cache.prune("kind", 0)
    assert (in_use, entry.is_dir()) == (True, False)


def test_keeps_a_build_of_another_process(own_cache: Path) -> None:
    cache.entry("kind", ["a"], fill)
    building = own_cache / "kind/.other.tmp"
    building.mkdir()
    with (own_cache / "kind/.other.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache.prune("kind", 3)
        assert building.is_dir()
    cache.prune("kind", 3)
    assert not building.exists()
