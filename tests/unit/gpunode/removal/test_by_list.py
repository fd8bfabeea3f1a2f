"""A removal deletes what is ours by name, in store, log folder and for the marker; originals and what is others' stay and are named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import flow as boot_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Step
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION,
    BAKE_REPORT,
    LAYERS,
    LOGS,
    NODE_RECORD,
    OBJECTS,
    ORIGINALS,
    RELEASE_NOTES,
    SEAL_REPORT,
    STORE,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import Removed, RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.contents import CAPTURES

from tests.kit import layer as layernode
from tests.kit.bake import OTHER
from tests.kit.boot import boot
from tests.kit.layer import LayerNode, snapshot
from tests.kit.node import ROOT_MOUNT, FakeNode, bake_layer
from tests.kit.values import MARKER, policy


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LOCK", tmp_path / "locks/remove.lock")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[LayerNode]:
    """A node with an active captured layer."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with layernode.fast_folder() as folder:
        node, layer = layernode.a_node(folder)
        activate.activate(node.root, node, layer)
        yield node


def take(node: FakeNode, check: bool = False, **request: Any) -> Removed:
    return flow.remove(node, RemoveRequest(**request), check, root=node.root)


def left(done: Removed) -> set[str]:
    return {item.what for item in done.left if item.what.startswith((f"/{STORE}", f"/{LOGS}"))}


def in_folder(node: FakeNode, folder: str) -> set[str]:
    return {f"/{path}" for path in node.tree(folder)}


OURS = (  # whatever we may have written there
    *(BAKE_REPORT, SEAL_REPORT, f"{ACTIVATION}.damaged", f"{STORE}/activation-journal.json.damaged-2", f"{STORE}/.node-record.json.1.tmp"),
    *(
        f"{OBJECTS}/ab/{'ab' * 32}",
        f"{OBJECTS}/ab/.{'ab' * 32}.12.tmp",
        f"{LAYERS}/gone/judged-bad.json",
        f"{LAYERS}/gone/.manifest.json.7.tmp",
    ),
    *(f"{CAPTURES}/12-0a1b2c3d/upper/0/usr/bin/x", f"{STORE}/scratch-folders.json"),
)
LOG_NAMES = ("bake.log", "boot.log", "layer.log", "remove.log", "gpuprebuild-1.log", "gpuinstall-12.log", ".boot.log.new")
STRANGE = (  # names that are not ours, in every place
    *(f"{STORE}/notes.txt", f"{STORE}/backup/disk.img", f"{STORE}/node-record.json.bak", f"{OBJECTS}/README", f"{OBJECTS}/ab/mine"),
    *(f"{OBJECTS}/other/file", f"{LAYERS}/gone/notes", f"{LAYERS}/file", f"{CAPTURES}/mine/x", f"{ORIGINALS}/0123456789abcdef-fstab"),
    *(f"{LOGS}/boot.log.1.gz", f"{LOGS}/audit/x.log"),
)


def named(path: str) -> str:
    """How a removal names what stays: a folder of others as a whole."""
    for folder in (f"{STORE}/backup", f"{OBJECTS}/other", f"{CAPTURES}/mine", f"{LOGS}/audit"):
        if path.startswith(f"{folder}/"):
            return f"/{folder}"
    return f"/{path}"


def test_all_that_is_ours_goes(captured: LayerNode) -> None:
    for path in (*OURS, *(f"{LOGS}/{name}" for name in LOG_NAMES)):
        captured.put(path, "{}")
    captured.put(RELEASE_NOTES, "nvidia-prebake: cuda\n")
    planned, done = take(captured, check=True), take(captured)
    assert {STORE, LOGS} <= set(done.removed)
    assert set(planned.removed) == set(done.removed)
    assert not (captured.root / STORE).exists()
    assert not (captured.root / LOGS).exists()
    assert left(done) == set()


def test_what_is_not_ours_stays_and_is_named(captured: LayerNode) -> None:
    for path in (*OURS, *STRANGE):
        captured.put(path, "{}")
    captured.put(RELEASE_NOTES, "nvidia-prebake: cuda\nthe builder's\n")
    captured.link(f"{STORE}/data", "/srv")
    stays = {f"/{path}" for path in (*STRANGE, RELEASE_NOTES, f"{STORE}/data")}
    names = {named(path) for path in (*STRANGE, RELEASE_NOTES, f"{STORE}/data")}
    planned, done = take(captured, check=True), take(captured)
    assert in_folder(captured, STORE) | in_folder(captured, LOGS) == stays
    assert left(done) == left(planned) == names
    assert set(planned.removed) == set(done.removed)
    assert f"{STORE}" not in done.removed
    assert {BAKE_REPORT, SEAL_REPORT} <= set(done.removed)
    again = take(captured)
    assert (again.result, again.removed, left(again)) == ("nothing", [], names)


def test_an_original_that_is_not_put_back_is_where_the_removal_says(captured: LayerNode) -> None:
    captured.put(layernode.REPLACED, "the owner's\n")
    planned, done = take(captured, check=True), take(captured)
    (why,) = (item.why for item in done.left if item.what == f"/{layernode.REPLACED}")
    kept = why.rpartition(" is in /")[2]
    assert kept.startswith(ORIGINALS)
    assert (captured.root / kept).read_text() == "options system\n"
    assert in_folder(captured, STORE) == {f"/{kept}"}
    assert f"/{kept}" in left(done)
    assert set(planned.removed) == set(done.removed)
    assert take(captured).result == "nothing"
    assert (captured.root / kept).exists()


def test_a_sandbox_in_which_something_is_mounted_stays(captured: LayerNode) -> None:
    inside = f"{CAPTURES}/12-0a1b2c3d/merged"
    captured.put(f"{inside}/etc/passwd", "the machine's")
    captured.put("proc/self/mountinfo", f"{ROOT_MOUNT}29 28 8:2 / /{inside} rw shared:1 - ext4 /dev/sda2 rw\n")
    done = take(captured)
    assert (captured.root / inside / "etc/passwd").exists()
    assert f"/{CAPTURES}/12-0a1b2c3d" in left(done)


def test_a_log_folder_that_is_a_link_stays_with_what_it_leads_to(captured: LayerNode) -> None:
    captured.put("srv/logs/boot.log", "somebody's")
    captured.link(LOGS, "/srv/logs")
    done = take(captured)
    assert (captured.root / "srv/logs/boot.log").exists()
    assert (captured.root / LOGS).is_symlink()
    assert f"/{LOGS}" in left(done)


def test_a_folder_of_a_layer_keeps_what_is_not_ours_where_it_was_baked_in_place(node: FakeNode) -> None:
    node.add_gpu()
    layer = bake_layer(node)
    notes = node.put(f"{LAYERS}/{layer.layer}/notes", "mine")
    boot(node)
    take(node)
    assert notes.read_text() == "mine"
    assert not (node.root / NODE_RECORD).exists()


# --- the marker ------------------------------------------------------------------------------------------------------

TYPO = "/etc/important.conf"


@pytest.mark.parametrize("text", ["listen=80\n", "", "kernel=\n", "kernel=a b\n", "\0\0\0"])
def test_a_marker_path_that_is_no_marker_is_not_deleted(node: FakeNode, text: str) -> None:
    node.add_gpu()
    bake_layer(node, version=OTHER)
    file = node.put(TYPO.strip("/"), text)
    _facts, outcome = boot_flow.boot(node, policy(delay_s=0), marker_path=TYPO, root=node.root)
    assert Step.REMOVE_DRIVER in outcome.plan.steps
    take(node, marker_path=TYPO)
    assert file.read_text() == text


def test_a_marker_that_names_our_driver_goes(node: FakeNode) -> None:
    node.add_gpu()
    boot(node)
    assert (node.root / MARKER).exists()
    take(node)
    assert not (node.root / MARKER).exists()


def test_nothing_of_the_system_changes(captured: LayerNode) -> None:
    """Strangers in the store change nothing else about a removal."""
    captured.put(f"{STORE}/notes.txt")
    take(captured)
    assert not [path for path in snapshot(captured.root) if "nvidia" in path]
