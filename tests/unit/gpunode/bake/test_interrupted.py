"""Bakes, boots and removals that are killed at every step: the process ends at its n-th effect, for every n, and the next run recovers.

An effect is the start or the end of a program, a file that is renamed, removed or synced, and in the store also a folder that is made and
a content that is written. The process ends as after SIGKILL: no handler and no clean-up runs. The node keeps only what is in its files.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION_JOURNAL,
    STORE,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow as removal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import request
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import installed_files, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import Result

from tests.kit.bake import bake, builds, builds_newest, in_store
from tests.kit.boot import boot
from tests.kit.node import FakeNode, bake_layer, behave
from tests.kit.values import IMAGE, KVER, NEWER, VERSION

KILLED, DONE = 9, 0
MOST_EFFECTS = 700


class DyingNode(FakeNode):
    """A node on which the process exits at effect number ``last``."""

    effects = 0
    last = 0

    def copy(self, root: Path) -> DyingNode:
        """The same node with its own copy of the files."""
        shutil.copytree(self.root, root, symlinks=True)
        other = copy.deepcopy(self)
        other.root, other.effects = root, 0
        return other

    def effect(self) -> None:
        self.effects += 1
        if self.effects == self.last:
            os._exit(KILLED)

    def run(self, *args: Any, **options: Any) -> Result:
        self.effect()
        result = super().run(*args, **options)
        self.effect()
        return result


def dies_at(node: DyingNode, number: int, work: Callable[[FakeNode], object]) -> bool:
    """Runs ``work`` in a process of its own that exits at effect ``number``; returns whether the work was complete before that."""
    child = os.fork()
    if child == 0:
        node.last = number
        _count_effects(node)
        work(node)
        os._exit(DONE)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (KILLED, DONE)
    return code == DONE


def _count_effects(node: DyingNode) -> None:
    for name in ("unlink", "rename", "replace", "rmdir", "fsync"):  # pathlib and shutil call these too
        original = getattr(os, name)

        def counted(*args: Any, original: Callable[..., Any] = original, **options: Any) -> Any:
            node.effect()
            return original(*args, **options)

        setattr(os, name, counted)
    for name in ("mkdir", "write"):
        _count_in_store(node, name)


def _count_in_store(node: DyingNode, name: str) -> None:
    original, store, captures = getattr(os, name), str(node.root / STORE), str(node.root / sandbox.CAPTURES)

    def counted(at: Any, *args: Any, **options: Any) -> Any:
        path = str(Path(f"/proc/self/fd/{at}").readlink()) if isinstance(at, int) else os.fspath(at)
        if path.startswith(store) and not path.startswith(captures) and not (name == "mkdir" and os.path.lexists(path)):
            node.effect()
        return original(at, *args, **options)

    setattr(os, name, counted)


def every_kill(tmp_path: Path, prepare: Callable[[FakeNode], object], work: Callable[[FakeNode], object], stride: int) -> int:
    """Kills ``work`` at every effect, or every ``stride``-th, runs it again, and compares the node with that of an uninterrupted run.
    Returns the number of effects at which it could be killed."""
    prepared = DyingNode(tmp_path / "prepared")
    prepare(prepared)
    clean = prepared.copy(tmp_path / "clean")
    work(clean)
    wanted = state(clean)
    for number in range(1, MOST_EFFECTS, stride):
        node = prepared.copy(tmp_path / str(number))
        if dies_at(node, number, work):
            return number - 1
        work(node)
        assert differences(state(node), wanted) == {}, f"killed at effect {number}"
        shutil.rmtree(tmp_path / str(number))
    raise AssertionError(f"more than {MOST_EFFECTS} effects")


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What differs, by name: found, wanted."""
    both = {key: (found.get(key), wanted.get(key)) for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)}
    return {key: differences(*pair) if all(isinstance(part, dict) for part in pair) else pair for key, pair in both.items()}


def state(node: FakeNode) -> dict[str, Any]:
    """What a later run and an operator would find: the driver's files, loaded modules, records, scratch."""
    found, noted = node_record.read(node.root), installed_files.read_or_empty(node.root)
    return {
        "files": {p: t for p, t in node.driver_tree().items() if "node-record" not in p and "manifest.json" not in p and "report" not in p},
        "loaded": sorted((node.root / "proc/modules").read_text().splitlines()),
        "record": found and (found.state, found.identity, dict(found.modules), dict(found.libraries)),
        "placed": {entry.path: (entry.sha256, entry.target) for entry in noted.entries if entry.type != "folder"},
        "containerd": (node.root / "run/containerd-config").exists() and (node.root / "run/containerd-config").read_text(),
        "journal": (node.root / ACTIVATION_JOURNAL).exists(),
        "store": (node.root / STORE).exists(),
        "layers": sorted(p.parent.name for p in (node.root / "var/lib/gpu-prebake/layers").glob("*/manifest.json")),
        "in store": in_store(node),
        "scratch": [p for p in ("opt/gpu", "opt/actions") if (node.root / p).exists()],
    }


def gpu(node: FakeNode) -> None:
    node.add_gpu()


def baked(node: FakeNode) -> None:
    node.add_gpu()
    bake_layer(node)


def baked_with_another_version(node: FakeNode) -> None:
    node.add_gpu()
    bake_layer(node, version="550.90.07")
    node.insert("nvidia", "550.90.07")


def newer_kernel(node: FakeNode) -> None:
    node.add_kernel(NEWER)


def another_in_place(node: FakeNode) -> None:
    """Another driver is in place, by an earlier bake."""
    newer_kernel(node)
    other = IMAGE.replace(VERSION, "550.90.07")
    node.add_image(other)
    node.scripts = [builds(version="550.90.07")]
    bake(node, mode="in_place", image=other, kernels=KVER)


def from_an_image_in_place(node: FakeNode) -> None:
    bakes(node)
    node.add_gpu()
    node.scripts = [behave]


def boots(node: FakeNode) -> object:
    return boot(node)


def bakes(node: FakeNode) -> object:
    node.scripts = [builds()]
    return bake(node, mode="in_place", kernels=KVER)


def brought_up(node: FakeNode) -> None:
    baked(node)
    boots(node)


def brought_up_by_install(node: FakeNode) -> None:
    node.add_gpu()
    boots(node)


def removes(node: FakeNode) -> object:
    return removal_flow.remove(node, request.RemoveRequest(), root=node.root)


def captured_before(node: FakeNode) -> None:
    """Two kernels, and a layer of another driver for one of them."""
    node.add_kernel(NEWER)
    other = IMAGE.replace(VERSION, "550.90.07")
    node.add_image(other)
    node.scripts = [builds_newest(version="550.90.07")]
    bake(node, mode="captured", image=other, kernels=KVER)


def captures(node: FakeNode) -> object:
    node.scripts = [builds_newest()]
    return bake(node, mode="captured", kernels="all")


# A fault at some effects; an odd stride reaches each kind of those that repeat. With the marker at every effect.
@pytest.mark.parametrize("every", [pytest.param(False, id="some"), pytest.param(True, id="all", marks=pytest.mark.faults)])
@pytest.mark.parametrize(
    ("prepare", "work", "at_least", "stride"),
    [
        pytest.param(baked, boots, 40, 11, id="fast path"),
        pytest.param(from_an_image_in_place, boots, 40, 11, id="fast path over a layer that the image has in place"),
        pytest.param(gpu, boots, 40, 11, id="full install"),
        pytest.param(baked_with_another_version, boots, 60, 11, id="another version out, a full install"),
        pytest.param(newer_kernel, bakes, 100, 29, id="bake in place"),
        pytest.param(another_in_place, bakes, 100, 29, id="bake in place over another"),
        pytest.param(brought_up, removes, 60, 11, id="removal after the fast path"),
        pytest.param(brought_up_by_install, removes, 60, 11, id="removal after a full install"),
        pytest.param(captured_before, captures, 200, 59, id="captured bake for two kernels over another"),
    ],
)
def test_killed_at_every_effect_the_next_run_recovers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[FakeNode], object],
    work: Callable[[FakeNode], object],
    at_least: int,
    stride: int,
    every: bool,
) -> None:
    monkeypatch.setattr(paths, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("sync", "fsync"):  # the process is killed, the machine keeps running
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "node", KVER, "#1 SMP", "x86_64")))
    assert every_kill(tmp_path, prepare, work, 1 if every else stride) >= at_least
