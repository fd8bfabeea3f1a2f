"""The compile's lines come from make.log, each once, whatever becomes of the file."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import build_log


def wait_for(lines: list[str], wanted: str) -> None:
    end = time.monotonic() + 20
    while wanted not in lines:
        assert time.monotonic() < end, lines
        time.sleep(0.02)


def test_new_lines_are_told_once_and_an_earlier_builds_are_not(tmp_path: Path) -> None:
    log = tmp_path / "var/lib/dkms/nvidia/1.2/build/make.log"
    log.parent.mkdir(parents=True)
    log.write_text("earlier\n")
    lines: list[str] = []
    with build_log.following(tmp_path, lines.append):
        fresh = log.with_name("fresh")
        fresh.write_text("CC one.o\nCC tw")
        fresh.rename(log)
        wait_for(lines, "CC one.o")
        with log.open("a") as stream:
            stream.write("o.o\n")
    assert lines == ["CC one.o", "CC two.o"]


def test_a_log_that_goes_away_is_no_error_and_the_thread_ends(tmp_path: Path) -> None:
    log = tmp_path / "var/lib/dkms/nvidia/1.2/build/make.log"
    log.parent.mkdir(parents=True)
    lines: list[str] = []
    before = threading.active_count()
    with build_log.following(tmp_path, lines.append):
        log.write_text("CC one.o\n")
        wait_for(lines, "CC one.o")
        shutil.rmtree(tmp_path / "var")
    assert lines == ["CC one.o"]
    assert threading.active_count() == before
