"""A run's progress: a line that cannot be written must not become the run's failure."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import LOGS
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import ProgressLog


def said(root: Path) -> list[str]:
    return [line[9:] for line in (root / LOGS / "x.log").read_text(encoding="utf-8").splitlines()]


def test_a_name_that_is_not_utf_8_is_written_all_the_same(tmp_path: Path) -> None:
    say = ProgressLog(tmp_path, "x.log")
    say("lib\udcff.so and \ud800")
    say("next")
    assert said(tmp_path) == ["lib?.so and ?", "next"]


def test_without_a_folder_for_it_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("no folder")
    ProgressLog(tmp_path, "x.log")("a line")
    assert (tmp_path / "var").read_text() == "no folder"


def test_on_a_full_disk_lines_are_lost_and_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say = ProgressLog(tmp_path, "x.log")
    say("before")

    def full(_text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert say._stream
    with monkeypatch.context() as patched:
        patched.setattr(say, "_stream", type("Full", (), {"write": staticmethod(full), "flush": say._stream.flush})())
        say("during")
    say("after")
    assert said(tmp_path) == ["before", "after"]


def test_a_log_stays_below_its_limit_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProgressLog, "LIMIT", 1000)
    say = ProgressLog(tmp_path, "x.log")
    for number in range(100):
        say(f"line {number}")
    path = tmp_path / LOGS / "x.log"
    assert path.stat().st_size < 1200
    assert path.read_text().splitlines()[-1] == "[this log has reached 1000 bytes; what follows is not written]"
