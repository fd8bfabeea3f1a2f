"""Documents that version 0.1.0 wrote are read by this one: an image that 0.1.0 baked must boot and be removable.

tests/data/documents-0.1.0/ holds each document as 0.1.0 wrote it, in the folder of what the node had just done.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION_JOURNAL,
    BAKE_JOURNAL_OF_0_1,
    BOOT_REMOVAL_JOURNAL,
    REMOVAL_JOURNAL,
    STORE,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import (
    activation_record,
    installed_files,
    layers,
    node_record,
    reports,
)

from tests.kit.values import DATA, KVER, NEWER, VERSION

DOCUMENTS = DATA / "documents-0.1.0"


def node(tmp_path: Path, done: str) -> Path:
    """The root of a system whose store holds the documents of what was ``done``."""
    shutil.copytree(DOCUMENTS / done, tmp_path / STORE)
    return tmp_path


@pytest.mark.parametrize(("done", "is_stored", "kernels"), [("captured-booted", True, {KVER, NEWER}), ("in-place-booted", False, {KVER})])
def test_manifests(tmp_path: Path, done: str, is_stored: bool, kernels: set[str]) -> None:
    found, problems = layers.read_all(node(tmp_path, done))
    assert problems == ()
    assert {layer.stored for layer in found} == {is_stored}
    assert {layer.identity.kver for layer in found} == kernels
    assert all(layer.modules and layer.module_facts for layer in found)
    assert all(bool(layer.indexes) is is_stored for layer in found)


@pytest.mark.parametrize(
    ("done", "built_here", "files"), [("captured-booted", False, 1), ("in-place-booted", False, 1), ("compiled", True, 6)]
)
def test_node_records_and_lists_of_installed_files(tmp_path: Path, done: str, built_here: bool, files: int) -> None:
    root = node(tmp_path, done)
    record, installed = node_record.read(root), installed_files.read(root)
    assert record
    assert installed
    assert (record.state, record.identity.version, record.built_here) == (node_record.INITIALISED, VERSION, built_here)
    assert set(record.modules) == {KVER}
    assert sum(entry.type == "file" for entry in installed.entries) >= files
    assert not any(entry.is_whole for entry in installed.entries)


def test_the_record_of_an_activation(tmp_path: Path) -> None:
    active = activation_record.read(node(tmp_path, "captured-booted"))
    assert active
    assert (active.identity.kver, active.verified) == (KVER, True)
    assert active.activated_ns > 0
    assert {one.program for one in active.derived} == {activation_record.DEPMOD, activation_record.LDCONFIG}
    assert {entry.linked for entry in active.placed} == {None}, "0.1.0 did not say which files are linked: its own rule decides"


@pytest.mark.parametrize(
    ("done", "operation"),
    [("captured-activating", activation_record.ACTIVATE), ("captured-boot-removing", activation_record.DEACTIVATE)],
)
def test_journals_of_an_activation(tmp_path: Path, done: str, operation: str) -> None:
    root = node(tmp_path, done)
    assert (root / ACTIVATION_JOURNAL).exists()
    journal = activation_record.read_journal(root)
    assert journal
    assert (journal.operation, journal.activation.identity.version) == (operation, VERSION)


def test_a_layer_that_was_judged_bad(tmp_path: Path) -> None:
    root = node(tmp_path, "captured-booted")
    layer = next(layer for layer in layers.read_all(root)[0] if layer.identity.kver == KVER)
    record = node_record.read(root)
    assert record
    assert layers.why_judged_bad(root, layer, record.machine_id) is None
    shutil.copy(DOCUMENTS / "captured-judged-bad/judged-bad.json", layers.path_of(root, layer.layer).parent)
    assert layers.why_judged_bad(root, layer, record.machine_id) == "nvidia-smi: status 18"


@pytest.mark.parametrize("done", ["captured-booted", "in-place-booted"])
def test_bake_reports(tmp_path: Path, done: str) -> None:
    assert reports.setuid_before(node(tmp_path, done)) == ()
    assert json.loads((tmp_path / STORE / "bake-report.json").read_text())["layers"]


@pytest.mark.parametrize(
    ("done", "path", "keys"),
    [
        ("captured-boot-removing", BOOT_REMOVAL_JOURNAL, {"schema", "why"}),
        ("captured-removing", REMOVAL_JOURNAL, {"boot_id", "containerd_config"}),
        ("in-place-baking", BAKE_JOURNAL_OF_0_1, {"schema", "kver", "paths"}),
    ],
)
def test_journals_of_a_removal_and_of_a_bake_keep_their_names(tmp_path: Path, done: str, path: str, keys: set[str]) -> None:
    assert set(json.loads((node(tmp_path, done) / path).read_text())) == keys
