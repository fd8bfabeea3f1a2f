"""Reading a driver build: the error in its output, and the lines of make.log while it runs."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import build_log

from tests.kit.values import DATA

LOG = (DATA / "dkms/make-3.0.10-pci_resize_resource.log").read_text(encoding="utf-8")
GCC = "/build/nvidia.c:184:16: error: too few arguments to function 'f'"


def test_finds_the_first_compiler_error_of_a_real_log() -> None:
    found = build_log.first_error(LOG)
    assert found is not None
    assert "nvidia.c:184:16: error: too few arguments to function" in found


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        pytest.param(["make: *** [a] Error 2\n", f"x\n{GCC}\nmake: *** [b] Error 1\n"], GCC, id="compiler before make, in any text"),
        pytest.param(["a.c:1:10: fatal error: x.h: No such file\n"], "a.c:1:10: fatal error: x.h: No such file", id="fatal"),
        pytest.param(['ERROR: modpost: "f" undefined!\nmake: *** [x] Error 1\n'], 'ERROR: modpost: "f" undefined!', id="modpost"),
        pytest.param(["make[2]: *** [x.o] Error 1\n"], "make[2]: *** [x.o] Error 1", id="make alone"),
        pytest.param(["a.c:1:2: warning: x\n0 errors\n", None], None, id="none"),
    ],
)
def test_first_error(texts: list[str | None], found: str | None) -> None:
    assert build_log.first_error(*texts) == found


@pytest.mark.parametrize(
    ("text", "full"),
    [("ld: final link failed: No space left on device", True), ("Disk quota exceeded", True), ("no space", False), ("", False)],
)
def test_a_full_disk(text: str, full: bool) -> None:
    assert build_log.is_out_of_space(None, text) is full


@pytest.mark.parametrize(
    ("text", "transient"),
    [
        ("E: Could not get lock /var/lib/dpkg/lock-frontend", True),
        ("dial tcp: Connection refused", True),
        ("net/http: TLS handshake timeout", True),
        (f"Connection reset by peer\n{GCC}", False),
        ("config.sh: No such file or directory", False),
        ("", False),
    ],
)
def test_only_network_and_locks_are_transient(text: str, transient: bool) -> None:
    assert build_log.is_transient(text) is transient


def test_the_end_of_an_output() -> None:
    assert build_log.last_lines("a\nb\nc\n", 2) == "b\nc"


# --- make.log while it is written ---------------------------------------------------------------------------------------


def wait_for(lines: list[str], wanted: str) -> None:
    end = time.monotonic() + 20
    while wanted not in lines:
        assert time.monotonic() < end, lines
        time.sleep(0.02)


def test_new_lines_are_reported_once_and_those_of_an_earlier_build_are_not(tmp_path: Path) -> None:
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


def test_a_log_that_disappears_is_no_error_and_the_thread_ends(tmp_path: Path) -> None:
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
