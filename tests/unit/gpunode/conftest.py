"""No unit test of the library starts a program or opens a connection; one that must says so with the marker ``subprocess``."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files
from hypothesis import settings

from tests.kit.node import FakeNode

# The same examples on every machine and run; a slow machine is no failure.
settings.register_profile("unit", database=None, deadline=None, derandomize=True, max_examples=60)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def no_programs_and_no_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Patched by hand and not by monkeypatch, so that hypothesis does not take it for a fixture of the test's own."""
    if request.node.get_closest_marker("subprocess"):
        yield
        return

    def refuse(*args: Any, **_: Any) -> None:
        raise AssertionError(f"a unit test wants to start a program or to connect: {args[1:] or args}")

    with contextlib.ExitStack() as stack:
        for owner, name in ((subprocess.Popen, "__init__"), (os, "system"), (socket.socket, "connect")):
            stack.enter_context(mock.patch.object(owner, name, refuse))
        yield


@pytest.fixture(autouse=True, scope="session")
def nothing_is_flushed() -> Iterator[None]:
    """A test's files need not outlive a power cut, and flushing the disk that a test shares with others takes seconds."""
    with contextlib.ExitStack() as stack:
        for owner, name in ((os, "sync"), (os, "fsync"), (files, "sync_filesystem")):
            stack.enter_context(mock.patch.object(owner, name, return_value=None))
        yield


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    """A fake node whose kernel, containerd and files live below tmp_path; this process seems to be root on it."""
    made = FakeNode(tmp_path / "root")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "node", made.kver, "#1 SMP", "x86_64")))
    monkeypatch.setattr(paths, "LOCK", tmp_path / "locks/lock")
    return made
