"""A captured bake whose machine loses power at any effect: no manifest names missing objects, the next bake leaves the same as an
undisturbed one, and the image is unchanged.

Effects are counted as in tests/kit/faults.py; those of the fake node's own overlays and containers are among them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.layers import read_all
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, objects_of

from tests.kit import layer as layernode
from tests.kit.bake import OTHER, bake, builds_newest
from tests.kit.faults import Counter, Disk, PowerCut, clone, die, watched
from tests.kit.node import FakeNode
from tests.kit.values import IMAGE, VERSION

LAST = 60
OLD_IMAGE = IMAGE.replace(VERSION, OTHER)


class Machine:
    """A machine on which a layer is baked; ``has_old`` puts a layer of another driver into its store first."""

    def __init__(self, folder: Path, has_old: bool) -> None:
        self.folder = folder
        self.has_old = has_old
        self.node = FakeNode(folder / "root")
        self.node.add_image(OLD_IMAGE)
        if has_old:
            self.bakes(self.node, OLD_IMAGE, OTHER)
        self.image = outside(self.node.root)
        done = self.fresh()
        self.effects = Counter(0, die)
        with contextlib.ExitStack() as stack:
            for patch in watched(self.effects):
                stack.enter_context(patch)
            self.bakes(done)
        self.store = held(done.root)

    def bakes(self, node: FakeNode, image: str = IMAGE, version: str = VERSION) -> None:
        node.scripts = [builds_newest(version=version)]
        bake(node, mode="captured", image=image)

    def on(self, root: Path) -> FakeNode:
        node = FakeNode.__new__(FakeNode)
        node.__dict__.update(self.node.__dict__, root=root, calls=[], limits=[], containers=[], overlays=[])
        return node

    def fresh(self) -> FakeNode:
        root = self.folder / "try"
        shutil.rmtree(root, ignore_errors=True)
        clone(self.node.root, root)
        return self.on(root)

    def recovers(self, root: Path) -> tuple[str, ...]:
        """Asserts that every manifest's objects are undamaged, bakes again, and compares; returns the versions found before that bake."""
        layers, problems = read_all(root)
        assert problems == ()
        for layer in layers:
            assert Store(root).problems(objects_of(layer)) == ()
        self.bakes(self.on(root))
        assert outside(root) == self.image
        assert held(root) == self.store
        return tuple(layer.identity.version for layer in layers)


def outside(root: Path) -> dict[str, Any]:
    """All files except the store, logs and /run."""
    return {p: what for p, what in layernode.snapshot(root).items() if not f"{p}/".startswith(("var/log/", "run/"))}


def held(root: Path) -> dict[str, str]:
    """The store's files: objects, manifests without their times, and of the report only the name."""
    assert not (root / sandbox.CAPTURES).exists()
    found = {}
    for name in layernode.store_files(root):
        text = (root / layernode.STORE / name).read_text(encoding="utf-8")
        if name.endswith("manifest.json"):
            text = json.dumps({key: value for key, value in json.loads(text).items() if key not in ("created", "build_s")})
        found[name] = "" if name.endswith("report.json") else text
    return found


@pytest.fixture(params=[False, True], ids=["first", "replaces another"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with layernode.fast_folder() as folder:
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr(paths, "LOCK", folder / "lock")
        yield Machine(folder, request.param)


def numbers(machine: Machine, step: int) -> list[int]:
    """Every ``step``-th effect, and more of the last ones, which write manifests and discard old layers."""
    total = machine.effects.count
    assert total > 3 * LAST
    # The total varies by a few with the order in which folders are listed.
    return sorted({*range(1, total - 5, step), *range(total - LAST, total - 5, min(step, 6))})


def check_between(seen: set[tuple[str, ...]], has_old: bool) -> None:
    """An old layer is discarded only when the new one is safely on disk, so one of them is always there."""
    before = (OTHER,) if has_old else ()
    assert {before, (VERSION,)} <= seen <= {before, (VERSION,), tuple(sorted((*before, VERSION)))}


@pytest.mark.parametrize("step", [pytest.param(97, id="some"), pytest.param(1, id="all", marks=pytest.mark.faults)])
def test_after_a_power_cut_no_manifest_names_missing_objects(machine: Machine, step: int) -> None:
    seen = set()
    for number in numbers(machine, step):
        seen |= {machine.recovers(tree) for tree in cut_at(machine, number).trees}
    check_between(seen, machine.has_old)


def cut_at(machine: Machine, number: int) -> Disk:
    """The disk of a machine that lost power at effect ``number`` of a bake."""
    node = machine.fresh()
    disk = Disk(node.root, machine.folder, number)
    with contextlib.ExitStack() as stack:
        for patch in watched(disk):
            stack.enter_context(patch)
        with pytest.raises(PowerCut):
            machine.bakes(node)
    return disk


@pytest.mark.parametrize("machine", [False], indirect=True)
def test_the_power_cut_would_find_a_flush_that_is_missing(machine: Machine) -> None:
    """Without the flush before a manifest is written, one does name missing objects. This shows that the test above can fail."""
    with mock.patch.object(layers, "os", SimpleNamespace(sync=lambda: None, path=os.path)):
        total = machine.effects.count
        assert any(not survives(machine, cut_at(machine, number)) for number in range(total - 6, total - LAST, -1))


def survives(machine: Machine, disk: Disk) -> bool:
    try:
        for tree in disk.trees:
            machine.recovers(tree)
    except AssertionError:
        return False
    return True
