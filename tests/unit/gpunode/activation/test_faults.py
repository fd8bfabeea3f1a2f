"""A layer's transactions under faults: killed at any effect, with a full or read-only filesystem, with a power cut.

An effect is one change of the filesystem, or one flush. The whole series of each runs behind the marker ``faults``
(``make test-all PART=faults``), a part of it always.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, discard
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest

from tests.kit import layer as layernode
from tests.kit.faults import (
    CHANGES,
    GROWING,
    MOST_EFFECTS,
    SOME,
    Broken,
    Counter,
    Disk,
    PowerCut,
    clone,
    die,
    killed_in_child,
    opens,
    watched,
)
from tests.kit.layer import STORE, LayerNode, snapshot
from tests.kit.values import NEWER

PRISTINE, ACTIVE, BUILT = "pristine", "active", "active, and dkms has built for another kernel"
Work = Callable[[LayerNode, Manifest, Callable[[str], None]], object]


def activates(node: LayerNode, layer: Manifest, say: Callable[[str], None]) -> object:
    return activate.activate(node.root, node, layer, say)


def runs_depmod(node: LayerNode, layer: Manifest, say: Callable[[str], None]) -> object:
    """Activates on a node whose module indexes are not those of the bake."""
    return activate.activate(node.root, node, manifest.Manifest(**{**vars(layer), "indexes": ()}), say)


def deactivates(node: LayerNode, layer: Manifest, say: Callable[[str], None]) -> object:
    return deactivate.deactivate(node.root, node, say)


def takes_builds(node: LayerNode, layer: Manifest, say: Callable[[str], None]) -> object:
    """Deactivates on a node whose kernel was updated."""
    return deactivate.deactivate(node.root, node, say)


def discards(node: LayerNode, layer: Manifest, say: Callable[[str], None]) -> object:
    return discard.discard(node.root, node, layer.layer, say)


class Bench:
    """A node with a layer in its store, which is copied for each fault, and the files of each state in which a copy may end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node, self.layer = layernode.a_node(folder)
        self.node.add_kernel(NEWER)
        self.inert = self.node.root
        self.active = folder / "template-active"
        self.built = folder / "template-built"
        self.looks = {PRISTINE: snapshot(self.inert)}
        clone(self.inert, self.active)
        activates(self.on(self.active), self.layer, silent)
        self.looks[ACTIVE] = snapshot(self.active)
        clone(self.active, self.built)
        self.on(self.built).kernel_hook_builds(NEWER)
        self.looks[BUILT] = snapshot(self.built)

    def on(self, root: Path) -> LayerNode:
        node = LayerNode.__new__(LayerNode)
        node.__dict__.update(self.node.__dict__, root=root, calls=[], limits=[])
        return node

    def fresh(self, work: Work) -> LayerNode:
        """A node on which ``work`` can begin."""
        root = self.folder / "try"
        shutil.rmtree(root, ignore_errors=True)
        clone({deactivates: self.active, takes_builds: self.built}.get(work, self.inert), root)
        return self.on(root)

    def state(self, root: Path) -> str:
        """The state of a node, by all of its files; fails if it is a mixture."""
        look = snapshot(root)
        state = next((name for name, wanted in self.looks.items() if look == wanted), None)
        if state is None:
            raise AssertionError(" or ".join(differences(look, wanted) for wanted in self.looks.values()))
        assert (activation_record.read(root) is not None) == (state != PRISTINE), f"{state}, and the record says otherwise"
        assert activation_record.read_journal(root) is None
        return state

    def recovers(self, node: LayerNode, work: Work, again: bool = True) -> str:
        """Resumes, repeats the work, and asserts that the node is then as if nothing had failed. Returns the state after resuming."""
        deactivate.resume(node.root, node)
        between = self.state(node.root)
        if again:
            work(node, self.layer, silent)
            assert self.state(node.root) == (ACTIVE if work in (activates, runs_depmod) else PRISTINE)
            assert not list((node.root / STORE).glob(".*"))
        if work is discards:
            assert layernode.store_files(node.root) == set()
        return between


def silent(_: str) -> None:
    pass


def differences(look: dict[str, Any], wanted: dict[str, Any]) -> str:
    return str({path: (look.get(path), wanted.get(path)) for path in {*look, *wanted} if look.get(path) != wanted.get(path)})


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with layernode.fast_folder() as folder:
        yield Bench(folder)


def effects(bench: Bench, work: Work) -> int:
    """The number of effects of an uninterrupted run."""
    counter = Counter(0, die)
    with contextlib.ExitStack() as stack:
        node = bench.fresh(work)
        for patch in watched(counter):
            stack.enter_context(patch)
        work(node, bench.layer, silent)
    return counter.count


def dies_at_effect(bench: Bench, work: Work, number: int) -> LayerNode:
    """A node on which ``work`` was killed at effect ``number``."""
    node = bench.fresh(work)

    def run() -> None:
        for patch in watched(Counter(number, die)):
            patch.start()
        work(node, bench.layer, silent)

    assert killed_in_child(run)
    return node


WORKS = [pytest.param(work, id=work.__name__) for work in (activates, runs_depmod, deactivates, takes_builds, discards)]
TRANSACTIONS = [pytest.param(work, id=work.__name__) for work in (activates, runs_depmod, deactivates, takes_builds)]
LAST = 8  # effects that end a transaction: record, journal


def some_numbers(bench: Bench, work: Work, step: int) -> list[int]:
    """Every ``step``-th effect, and each of the last."""
    total = effects(bench, work)
    assert total > 25
    return sorted({*range(1, total + 1, step), *range(total - LAST, total + 1)})


def ends_between(work: Work) -> set[str]:
    return {PRISTINE} if work is discards else {PRISTINE, BUILT if work is takes_builds else ACTIVE}


@pytest.mark.parametrize("step", SOME)
@pytest.mark.parametrize("work", WORKS)
def test_killed_at_an_effect_the_next_run_recovers(bench: Bench, work: Work, step: int) -> None:
    between = {bench.recovers(dies_at_effect(bench, work, number), work) for number in some_numbers(bench, work, step)}
    assert between == ends_between(work)


@pytest.mark.parametrize("work", WORKS)
def test_killed_at_each_step_that_is_said_the_next_run_recovers(bench: Bench, work: Work) -> None:
    said: list[str] = []
    work(bench.fresh(work), bench.layer, said.append)
    assert len(said) >= (2 if work is discards else 6)
    for number, line in enumerate(said):
        node = bench.fresh(work)
        left = [number]

        def say(_: str, left: list[int] = left) -> None:
            if left[0] == 0:
                die()
            left[0] -= 1

        assert killed_in_child(lambda node=node, say=say: work(node, bench.layer, say)), line
        bench.recovers(node, work)


@pytest.mark.parametrize(
    ("step", "laters"),
    [pytest.param(61, (5, 29), id="some"), pytest.param(3, (2, 5, 11, 29, 47), id="all", marks=pytest.mark.faults)],
)
@pytest.mark.parametrize("work", TRANSACTIONS)
def test_killed_again_while_it_recovers_the_next_run_recovers(bench: Bench, work: Work, step: int, laters: tuple[int, ...]) -> None:
    second = 0
    for number in some_numbers(bench, work, step):
        node = dies_at_effect(bench, work, number)
        for later in laters:

            def resume(node: LayerNode = node, later: int = later) -> None:
                for patch in watched(Counter(later, die)):
                    patch.start()
                deactivate.resume(node.root, node)

            second += killed_in_child(resume)
        bench.recovers(node, work)
    assert second > 3


# --- filesystems -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", SOME)
@pytest.mark.parametrize("work", TRANSACTIONS)
@pytest.mark.parametrize(
    ("number", "names", "code"),
    [
        pytest.param(errno.ENOSPC, (*GROWING, "open"), "no_space", id="full"),
        pytest.param(errno.EROFS, (*CHANGES, "open"), "read_only", id="read-only"),
    ],
)
def test_a_filesystem_that_breaks_half_way_leaves_no_mixture(
    bench: Bench, work: Work, step: int, number: int, names: tuple[str, ...], code: str
) -> None:
    codes = set()
    for first in range(1, MOST_EFFECTS, step):
        node = bench.fresh(work)
        broken = Broken(first, number, names)
        try:
            with opens(broken):
                patches = list(watched(broken))
                for patch in patches:
                    patch.start()
                try:
                    work(node, bench.layer, silent)
                finally:
                    for patch in patches:
                        patch.stop()
        except LayerError as error:
            codes.add(error.code)
            bench.recovers(node, work)
        else:
            break
    assert code in codes
    assert codes <= {code, "activation_unfinished"}


# --- power ---------------------------------------------------------------------------------------------------------------


def cut_at(bench: Bench, work: Work, number: int) -> Disk:
    """What is on the disk after a power cut at effect ``number`` of ``work``."""
    node = bench.fresh(work)
    disk = Disk(node.root, bench.folder, number)
    with contextlib.ExitStack() as stack:
        for patch in watched(disk):
            stack.enter_context(patch)
        with pytest.raises(PowerCut):
            work(node, bench.layer, silent)
    return disk


@pytest.mark.parametrize("step", [pytest.param(61, id="some"), pytest.param(1, id="all", marks=pytest.mark.faults)])
@pytest.mark.parametrize("work", WORKS)
def test_after_a_power_cut_what_was_not_flushed_is_not_missed(bench: Bench, work: Work, step: int) -> None:
    between = set()
    for number in some_numbers(bench, work, step):
        between |= {bench.recovers(bench.on(tree), work) for tree in cut_at(bench, work, number).trees}
    assert between == ends_between(work)


@pytest.mark.parametrize("name", ["sync_filesystem", "sync_folder"])
def test_the_power_cut_would_find_a_flush_that_is_missing(bench: Bench, name: str) -> None:
    """An activation without its flushes does leave a mixture, so the test above can fail."""
    original = Disk._see

    def forgets(self: Disk, effect: str, args: tuple[Any, ...]) -> None:
        original(self, "forgotten" if effect == name else effect, args)

    with mock.patch.object(Disk, "_see", forgets):
        last = reversed(some_numbers(bench, activates, MOST_EFFECTS))
        assert any(not survives(bench, cut_at(bench, activates, number)) for number in last)


def survives(bench: Bench, disk: Disk) -> bool:
    try:
        for tree in disk.trees:
            bench.recovers(bench.on(tree), activates)
    except (AssertionError, LayerError):
        return False
    return True
