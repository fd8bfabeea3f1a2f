"""Tests that bake for real on a native node of the lab: `make test-lab`. Outside a lab session they are an error, never skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.native import NativeNode
from tests.lab.bakery import Bakery


@pytest.fixture(scope="session")
def bakery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bakery]:
    """One node for all tests of a run; each test leaves it as it found it, and says so by `unchanged`."""
    node = NativeNode.create("bakery")
    try:
        yield Bakery(node, tmp_path_factory.mktemp("bakery"))
    finally:
        node.destroy()


@pytest.fixture
def unchanged(bakery: Bakery) -> Iterator[Bakery]:
    """The node, which must be as it was after the test: files, mounts, containers and processes."""
    before = bakery.files()
    yield bakery
    after = bakery.files()
    assert {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)} == set()
    assert bakery.mounts() == ""
    assert bakery.processes() == ""
    if bakery.ssh("systemctl is-active containerd || true").strip() == "active":
        assert bakery.ssh("ctr -n k8s.io containers ls -q").strip() == ""
