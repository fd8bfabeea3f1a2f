"""Comparing whole filesystems: differences are named, and an excuse covers no more than it says."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import module_signature

from tests.compare.comparison import Excuse, compare
from tests.lab.snapshot import snapshot

LOGS = Excuse("var/log/*", ("content",), "logs")


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (tmp_path / name / "var/log").mkdir(parents=True)
        (tmp_path / name / "var/log/wtmp").write_text(name)
        (tmp_path / name / "bin").write_text("")
    return tmp_path / "one", tmp_path / "two"


def test_excused_differences_are_counted_and_not_left(trees: tuple[Path, Path]) -> None:
    found = compare(snapshot(trees[0], ()), snapshot(trees[1], ()), [LOGS])
    assert (found.compared, found.excused, found.left, found.idle) == (4, {LOGS: ("var/log/wtmp",)}, (), ())


def test_an_excuse_for_contents_excuses_no_mode(trees: tuple[Path, Path]) -> None:
    (trees[1] / "var/log/wtmp").chmod(0o4755)
    found = compare(snapshot(trees[0], ()), snapshot(trees[1], ()), [LOGS])
    assert (found.left, found.idle) == (("var/log/wtmp: mode, content",), ("var/log/*",))


def test_only_an_excuse_by_chance_may_excuse_nothing() -> None:
    excuses = [LOGS, replace(LOGS, by_chance=True)]
    assert [compare({}, {}, [excuse]).idle for excuse in excuses] == [("var/log/*",), ()]


def test_each_kind_of_change_is_named(trees: tuple[Path, Path]) -> None:
    one, two = trees
    (one / "gone").mkdir()
    (two / "new").symlink_to("gone")
    (one / "link").symlink_to("here")
    (two / "link").symlink_to("there")
    (two / "bin").unlink()
    os.mkfifo(two / "bin")
    found = compare(snapshot(one, ()), snapshot(two, ()), [LOGS])
    assert found.left == ("bin: type, content", "gone: missing", "link: content", "new: added")


def test_a_modules_signature_and_its_signed_part_are_compared_separately(trees: tuple[Path, Path]) -> None:
    one, two = trees
    info = bytes([0, 0, 2, 0, 0, 0, 0, 0])  # PKCS#7
    for tree, size in ((one, 3), (two, 5)):
        (tree / "signed.ko").write_bytes(b"module" + b"s" * size + info + size.to_bytes(4, "big") + module_signature.MARKER)
        (tree / "text").write_bytes(b"s" * size + info + size.to_bytes(4, "big") + module_signature.MARKER)
    (two / "unsigned.ko").write_bytes(b"module")
    (one / "unsigned.ko").write_bytes((one / "signed.ko").read_bytes())
    found = compare(snapshot(one), snapshot(two), [])
    assert found.left == ("signed.ko: signature", "text: content", "unsigned.ko: signature")
