"""A boot of a node with a captured layer, killed at any effect: the next boot ends as an uninterrupted one does.

An effect is one change of the filesystem, one flush, or the start or end of a program, those of the container included. The whole
series run with the marker ``faults`` (``make test-all PART=faults``), a part of each always.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import deactivate as activation_deactivate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import apply
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.context import BootRun
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import leftovers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION,
    ACTIVATION_JOURNAL,
    BOOT_REMOVAL_JOURNAL,
    INSTALLED_FILES,
    NODE_RECORD,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow as removal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import request, uninstall
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import Removed
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, installed_files, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.activation_record import Activation
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

from tests.kit import layer as layernode
from tests.kit.boot import INSTALL, SKIP, boot, flow_boot, lose_gpu, refuses, restarts
from tests.kit.faults import SOME, Counter, clone, die, killed_in_child, watched
from tests.kit.layer import LIBRARY, LayerNode, alter, snapshot
from tests.kit.node import FakeNode
from tests.kit.values import LIBRARIES, LOADER, VERSION, policy

# What differs from boot to boot: the kernel's files, logs with times, and documents that are compared by their fields.
PASSING = ("proc/", "sys/", "dev/", "run/", "var/log/", *(f"{path}/" for path in (NODE_RECORD, INSTALLED_FILES, ACTIVATION)))


class Bench:
    """A node with a GPU and a layer in its store, to be copied for each kill."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.node, _ = layernode.a_node(folder)
        self.node.add_gpu()
        self.node.put(f"{LOADER}/libc.so.6", "the system")
        monkeypatch.setattr(paths, "LOCK", folder / "lock")
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=self.node.kver, machine="x86_64"))

    def prepared(self, name: str, prepare: Callable[[LayerNode], object]) -> Path:
        """A node as it is before the boot that is killed."""
        root = self.folder / name
        clone(self.node.root, root)
        prepare(self.on(root))
        return root

    def on(self, root: Path, scripts: tuple[Any, ...] = ()) -> LayerNode:
        node = copy.deepcopy(self.node)
        node.root, node.scripts = root, list(scripts or node.scripts)
        return node


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with layernode.fast_folder() as folder:
        yield Bench(folder, monkeypatch)


def opted_out(node: LayerNode) -> Outcome:
    return flow_boot(node, policy(delay_s=0, managed=False))


def removes(node: LayerNode) -> Removed:
    return removal_flow.remove(node, request.RemoveRequest(), root=node.root)


def counted(node: LayerNode, count: Callable[[str, tuple[Any, ...]], None]) -> LayerNode:
    """The node, with the starts and ends of its programs counted as effects."""
    run = node.run

    def effects(*args: Any, **options: Any) -> Any:
        count("start", ())
        result = run(*args, **options)
        count("end", ())
        return result

    node.run = effects  # type: ignore[method-assign]
    return node


def nothing(node: LayerNode) -> None:
    pass


def brought_up(node: LayerNode) -> None:
    flow_boot(node)


def lost_its_gpu(node: LayerNode) -> None:
    flow_boot(node)
    lose_gpu(node)


def anothers_disk(node: LayerNode) -> None:
    flow_boot(node)
    node.put("etc/machine-id", "f" * 32 + "\n")
    node.put("proc/modules")


def look(node: LayerNode) -> dict[str, Any]:
    """Everything that a later run or an operator would find."""
    Store(node.root).collect()  # what no document names stays until the next bake or discard
    done, noted, active = node_record.read(node.root), installed_files.read_or_empty(node.root), activation_record.read(node.root)
    return {
        **{path: what for path, what in snapshot(node.root, "none").items() if not f"{path}/".startswith(PASSING)},
        "loaded": sorted(node.loaded_names()),
        "record": done and (done.machine_id, done.state, done.identity, done.built_here, done.modules, done.libraries),
        # Folders of an interrupted compile are known only by their place: an empty one may stay after a later removal.
        **{f"placed: {path}": what for path, what in ((e.path, (e.sha256, e.target)) for e in noted.entries if e.type != "folder")},
        **{f"active: {name}": what for name, what in (_without_times(active) if active else {}).items()},
    }


def _without_times(active: Activation) -> dict[str, Any]:
    """The activation record without times, which differ with each run of depmod."""
    untimed = replace(
        active,
        activated="",
        originals=tuple(replace(kept, mtime_ns=0) for kept in active.originals),
        derived=tuple(replace(one, before=tuple(replace(kept, mtime_ns=0) for kept in one.before)) for one in active.derived),
    )
    return vars(untimed)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Each name that differs, with what was found and what should be there, both cut short."""
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    return "\n".join(f"{name}: {str(found.get(name))[:300]}, not {str(wanted.get(name))[:300]}" for name in differing[:10])


@pytest.mark.parametrize("step", SOME)
@pytest.mark.parametrize(
    ("prepare", "work", "scripts"),
    [
        pytest.param(nothing, flow_boot, (), id="fast path"),
        pytest.param(nothing, flow_boot, (refuses,), id="fast path that fails"),
        pytest.param(anothers_disk, flow_boot, (), id="another machine's layer"),
        pytest.param(lost_its_gpu, flow_boot, (), id="lost its gpu"),
        pytest.param(brought_up, opted_out, (), id="opted out"),
        pytest.param(brought_up, removes, (), id="gpu_remove"),
    ],
)
def test_killed_at_any_effect_the_next_boot_ends_as_if_nothing_had_been(
    bench: Bench,
    prepare: Callable[[LayerNode], object],
    work: Callable[[LayerNode], object],
    scripts: tuple[Any, ...],
    step: int,
) -> None:
    prepared = bench.prepared("prepared", prepare)
    clone(prepared, bench.folder / "clean")
    clean = bench.on(bench.folder / "clean", scripts)
    work(clean)
    wanted, number, wrong = look(clean), 0, []
    while True:
        number += step
        root = bench.folder / str(number)
        clone(prepared, root)
        if not killed_in_child(lambda root=root, number=number: _dies(bench.on(root, scripts), work, number)):  # type: ignore[misc]
            break
        node = bench.on(root, scripts)
        work(node)
        if look(node) != wanted:
            wrong.append(f"killed at effect {number}: {differences(look(node), wanted)}")
        shutil.rmtree(root)
    assert not wrong, "\n".join(wrong[:3])
    assert number > 100


def _dies(node: LayerNode, work: Callable[[LayerNode], object], number: int) -> None:
    count = Counter(number, die)
    for patch in watched(count):
        patch.start()
    work(counted(node, count))


def test_the_run_that_finishes_an_interrupted_removal_names_what_an_owner_changed(bench: Bench) -> None:
    """Killed after the layer was deactivated, before the rest of the driver was removed."""
    root = bench.prepared("try", brought_up)
    marker = "opt/azure/aks-gpu/dkms-marker"
    alter(bench.on(root), LIBRARY, mode=0o600)
    alter(bench.on(root), marker, text="the owner's\n")

    dies_once_the_layer_is_deactivated(bench.on(root))
    outcome = opted_out(bench.on(root))
    assert outcome.result == "removed"
    assert (root / marker).read_text() == "the owner's\n"
    kept = next(warning for warning in outcome.warnings if warning.startswith("kept: "))
    assert f"/{LIBRARY}: " in kept
    assert f"/{marker}: " in kept
    assert node_record.read(root) is None


def test_gpu_remove_finishes_a_removal_that_a_boot_began(bench: Bench) -> None:
    root = bench.prepared("try", brought_up)
    dies_once_the_layer_is_deactivated(bench.on(root))
    assert (root / BOOT_REMOVAL_JOURNAL).exists()
    removes(bench.on(root))
    assert [path for path in (BOOT_REMOVAL_JOURNAL, NODE_RECORD, INSTALLED_FILES, leftovers.DROPIN) if (root / path).exists()] == []


@pytest.mark.parametrize("version", [VERSION, "550.54.15"])
def test_what_another_provisioner_has_installed_since_is_not_removed(bench: Bench, version: str) -> None:
    """The other provisioner's driver container leaves a marker too."""
    root = bench.prepared("try", brought_up)
    node = bench.on(root)

    def dies(path: Path, real: Callable[[Path], None] = files.remove_durably) -> None:
        if path.name == Path(BOOT_REMOVAL_JOURNAL).name:
            die()
        real(path)

    def run() -> None:
        with mock.patch.object(uninstall, "remove_durably", dies):
            opted_out(node)

    assert killed_in_child(run)
    assert (root / BOOT_REMOVAL_JOURNAL).exists()
    node.build(version=version)
    before = set(snapshot(root)) - {BOOT_REMOVAL_JOURNAL}
    opted_out(node)
    assert {path for path in before - set(snapshot(root)) if not path.startswith(PASSING)} == set()
    assert not (root / BOOT_REMOVAL_JOURNAL).exists()


def test_modules_that_udev_loaded_before_an_interrupted_removal_is_finished_are_unloaded(bench: Bench) -> None:
    root = bench.prepared("try", brought_up)
    node = bench.on(root)

    def run() -> None:
        with mock.patch.object(activation_deactivate, "take_away", side_effect=lambda *_: die()):
            opted_out(node)

    assert killed_in_child(run)
    for name in ("nvidia", "nvidia-uvm"):  # the power came back, and the files were still there
        if name not in node.loaded_names():
            node.insert(name, VERSION)
    opted_out(node)
    assert node.loaded_names() == []


def dies_once_the_layer_is_deactivated(node: LayerNode) -> None:
    """A boot that is killed just before it deletes the deactivation's journal."""
    unlink = Path.unlink

    def dies(path: Path, missing_ok: bool = False) -> None:
        if path.name == Path(ACTIVATION_JOURNAL).name:
            die()
        unlink(path, missing_ok)

    def run() -> None:
        with mock.patch.object(Path, "unlink", dies):
            opted_out(node)

    assert killed_in_child(run)


# --- killed before one certain step ----------------------------------------------------------------------------------


def killed_before_the_restart(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first run that is killed between the container and the restart."""

    def killed(_: BootRun) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(apply, "restart_containerd", killed)
        with pytest.raises(KeyboardInterrupt):
            boot(node)
    assert restarts(node) == 0


def test_the_next_run_makes_the_restart_that_an_interrupted_run_did_not_make(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_before_the_restart(baked, monkeypatch)
    assert boot(baked).containerd_restarted
    assert boot(baked).code == "already_initialised"
    assert restarts(baked) == 1


def test_the_next_run_makes_that_restart_also_where_it_removes_the_driver_first(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_before_the_restart(baked, monkeypatch)
    baked.put(f"{LIBRARIES}/libcuda.so.{VERSION}", "damaged")
    outcome = boot(baked)
    assert (outcome.code, baked.driver_runs) == ("contents_mismatch", [SKIP, INSTALL])
    assert outcome.containerd_restarted


def test_an_interrupted_activation_is_rolled_back_first(layered: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(activation_record, "write", stop)
        patch.setattr(activate, "finish_taking_away", stop)
        with pytest.raises(KeyboardInterrupt):
            activate.activate(layered.root, layered, layer)
    assert (layered.root / ACTIVATION_JOURNAL).exists()
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    assert not (layered.root / ACTIVATION_JOURNAL).exists()
