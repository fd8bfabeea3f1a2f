"""Tests that really bake on a native node of the lab: `make test-lab`. Outside of a lab session they fail; they are never skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.nodes.native import NativeNode
from tests.lab.bakery import Bakery
from tests.lab.snapshot import difference, snapshot


@pytest.fixture(scope="session")
def bakery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bakery]:
    """One node for all tests of a run. Each test leaves it as it found it, which the fixture `unchanged` checks."""
    node = NativeNode.create(f"bakery-{os.getpid()}")
    try:
        _make_apts_timers_harmless(node)
        yield Bakery(node, tmp_path_factory.mktemp("bakery"))
    finally:
        node.destroy()


def _make_apts_timers_harmless(node: NativeNode) -> None:
    """apt's timers run, as on any machine, because a bake must stop them and start them again; but what they start changes no file, which
    a test would take for a change of the bake."""
    for unit in ("apt-daily", "apt-daily-upgrade"):
        folder = f"/etc/systemd/system/{unit}.service.d"
        text = "[Service]\\nExecStartPre=\\nExecStart=\\nExecStart=/bin/true\\n"
        node.ssh(f"mkdir -p {folder} && printf '{text}' > {folder}/lab.conf")
    node.ssh("systemctl daemon-reload")


@pytest.fixture
def unchanged(bakery: Bakery) -> Iterator[Bakery]:
    """The node; after the test its files, mounts, containers and processes must be as before."""
    before = bakery.files()
    yield bakery
    after = bakery.files()
    assert {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)} == set()
    assert bakery.mounts() == ""
    assert bakery.processes() == ""
    if bakery.ssh("systemctl is-active containerd || true").strip() == "active":
        assert bakery.ssh("ctr -n k8s.io containers ls -q").strip() == ""


@pytest.fixture
def pristine(bakery: Bakery) -> Iterator[Bakery]:
    """The node; after the test everything outside the store must be as before, without a mount, process or container of ours."""
    before = snapshot(bakery.root)
    yield bakery
    assert difference(before, snapshot(bakery.root)) == []
    assert bakery.captures() == []
    assert bakery.mounts() == bakery.processes() == ""
    assert bakery.ssh("ctr -n k8s.io containers ls -q").strip() == ""
    assert bakery.ssh("systemctl is-active apt-daily.timer apt-daily-upgrade.timer").split() == ["active", "active"]
    bakery.ssh("rm -rf /var/lib/gpu-prebake")
