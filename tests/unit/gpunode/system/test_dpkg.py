"""Locks: our own, and dpkg's while another process holds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BusyError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import dpkg
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit.node import FakeClock

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    lock = tmp_path / "run/x.lock"
    with files.locked(lock, "a bake"), pytest.raises(BusyError, match=f"process {os.getpid()}") as caught, files.locked(lock, "a bake"):
        pass
    assert str(lock) in str(caught.value)
    with files.locked(lock, "a bake"):
        pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / dpkg.LOCK).touch()
    return tmp_path


@pytest.fixture
def other(root: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", HOLD, str(root / dpkg.LOCK)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_nobody_holds_a_free_lock_or_none(root: Path, tmp_path: Path) -> None:
    assert dpkg.holder(root) is None
    assert dpkg.holder(tmp_path / "nowhere") is None
    with dpkg.held(tmp_path / "nowhere", Deadline(1)):
        pass


@pytest.mark.subprocess
def test_a_holder_is_named_and_awaited_until_the_deadline(root: Path, other: subprocess.Popen[str]) -> None:
    assert f"({other.pid})" in (dpkg.holder(root) or "")
    clock, said = FakeClock(), list[str]()
    with pytest.raises(BusyError, match=rf"\({other.pid}\)") as caught:
        dpkg.wait_free(root, Deadline(30, clock, clock.sleep), said.append, keep_s=10)
    assert caught.value.code == "dpkg_locked"
    assert clock.now <= 1000 + 20
    assert len(said) == 1


@pytest.mark.subprocess
def test_a_lock_that_comes_free_is_taken(root: Path, other: subprocess.Popen[str]) -> None:
    clock = FakeClock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        other.kill()
        other.wait()

    with dpkg.held(root, Deadline(30, clock, sleep)):
        asks = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        shown = subprocess.run([sys.executable, "-c", asks, str(root / dpkg.LOCK)], capture_output=True, check=False)
        assert shown.returncode != 0
