"""Reading a driver build: the error in its output, and the lines of make.log while it runs."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import build_log
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import dkms

from tests.kit.values import DATA

LOG = (DATA / "dkms/make-3.0.10-pci_resize_resource.log").read_text(encoding="utf-8")
OPTION = "gcc: error: unrecognized command-line option '-ftrivial-auto-var-init=zero'"
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
        pytest.param(["/usr/bin/ld.bfd: x.o: error: bad\n"], "/usr/bin/ld.bfd: x.o: error: bad", id="linker"),
        pytest.param(["x.c: undefined reference to `f'\n"], "x.c: undefined reference to `f'", id="undefined"),
        pytest.param([f"make: x\n{OPTION}\nx.c:1:1: error: y\nmake: *** [x] Error 1\n"], OPTION, id="a compiler's option"),
        pytest.param(
            ["/usr/bin/x86_64-linux-gnu-gcc-12: fatal error: x\n"], "/usr/bin/x86_64-linux-gnu-gcc-12: fatal error: x", id="long name"
        ),
        pytest.param(["cc1: error: bad value\n"], "cc1: error: bad value", id="the compiler proper"),
        pytest.param(["/bin/sh: 1: gcc-12: not found\nmake: *** [x] Error 127\n"], "/bin/sh: 1: gcc-12: not found", id="no compiler"),
        pytest.param(["make[2]: gcc-13: No such file or directory\n"], "make[2]: gcc-13: No such file or directory", id="none for make"),
        pytest.param(["config.sh: No such file or directory\nlibgcc: error: x\n", None], None, id="another program"),
        pytest.param(["error: ld: x\nbuild: error\n"], None, id="no error after the linker's name"),
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


# --- traces, which quote what they are about to do -----------------------------------------------------------------------


@pytest.mark.parametrize("before", ["+ ", "++ ", "+ 2026-06-01T12:00:00 ", "[2026-06-01T12:00:00] + "])
def test_a_trace_is_no_error(before: str) -> None:
    quoted = ("No space left on device", GCC, "make: *** [a] Error 2", "Could not get lock", "ERROR: modpost: x")
    output = "".join(f"{before}grep -q '{words}' log\n" for words in quoted) + f"{before}make: *** x\n"
    output += f"{before}echo cp: cannot create special file '/usr/bin/lib64/lib64/libx.so': Operation not permitted\n"
    assert build_log.first_error(output) is None
    assert not build_log.is_out_of_space(output)
    assert not build_log.is_transient(output)
    assert build_log.deleted_library(output) == ""


def test_an_error_among_traces_is_found() -> None:
    output = f"+ make modules\n{GCC}\ncp: No space left on device\n++ rm -r /tmp/overlay\n"
    assert build_log.first_error(output) == GCC
    assert build_log.is_out_of_space(output)


def test_the_end_of_an_output_is_what_was_said() -> None:
    output = "+ nvidia-smi\nNo devices were found\n++ drop_overlay\n++ umount -l /usr/lib/x86_64-linux-gnu\n"
    assert build_log.last_lines(output, 2) == "No devices were found"
    assert build_log.last_lines("+ set -e\n+ false\n", 1) == "+ false"


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


# --- lines and logs of any length ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["a" * 10**6, "a:1" * 10**5, "ld: " * 250_000, ":1" * 500_000, "1" * 10**6, "gcc -I" + "/x" * 500_000, "ERROR: " * 10**5, " " * 10**6],
    ids=lambda line: line[:7],
)
def test_a_line_of_a_million_characters_is_read_at_once(line: str) -> None:
    """Some took ninety minutes. Whoever runs this again with an expression that may begin anywhere waits for its end."""
    assert build_log.first_error(line, f"{line} error: ", GCC) == GCC
    assert not build_log.is_transient(line)
    assert build_log.deleted_library(f"cannot create special file '{line}") == ""


def test_a_long_error_is_cut() -> None:
    found = build_log.first_error(GCC + "x" * 10**6)
    assert found is not None
    assert found.startswith(GCC)
    assert len(found) < 3000
    assert len(build_log.last_lines("x" * 10**7)) < 3000


def test_a_deleted_library_is_named() -> None:
    said = "cp: cannot create special file '/usr/bin/lib64/lib64/libfoo.so.1': Operation not permitted\n"
    assert build_log.deleted_library(f"x\n{said}") == "libfoo.so.1"


def test_of_a_log_that_grows_faster_than_it_is_read_the_rest_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "var/lib/dkms/nvidia/1.2/build/make.log"
    log.parent.mkdir(parents=True)
    lines: list[str] = []
    with build_log.following(tmp_path, lines.append):
        log.write_text("x" * 100 + "\n" + "CC a.o\n" * 500_000)
        wait_for(lines, "CC a.o")
    assert lines[0].startswith("[2451")
    assert lines[0].endswith(" bytes of make.log are not shown]")
    assert len(lines) < 200_000


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir], ids=["a pipe", "a device", "a folder"])
def test_a_make_log_that_is_no_file_holds_nobody_up(tmp_path: Path, make: Callable[[Path], object]) -> None:
    log = tmp_path / "var/lib/dkms/nvidia/1.2/build/make.log"
    log.parent.mkdir(parents=True)
    lines: list[str] = []
    with build_log.following(tmp_path, lines.append):
        make(log)
    assert lines == []
    assert dkms.build_log(tmp_path, "1.2") is None


def test_of_a_long_log_of_a_failed_build_both_ends_are_read(tmp_path: Path) -> None:
    log = tmp_path / "var/lib/dkms/nvidia/1.2/build/make.log"
    log.parent.mkdir(parents=True)
    with log.open("w") as stream:
        stream.write(f"{GCC}\n")
        stream.truncate(1 << 33)  # sparse
    text = dkms.build_log(tmp_path, "1.2")
    assert text is not None
    assert len(text) < 20 << 20
    assert build_log.first_error(text) == GCC
