"""A boot of a node whose activation record or journal is damaged or has a newer layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import deactivate as activation_deactivate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION,
    ACTIVATION_JOURNAL,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store

from tests.kit import layer as layernode
from tests.kit.boot import INSTALL, flow_boot, lose_gpu, placed
from tests.kit.layer import MODULE, LayerNode, snapshot


def damage(node: LayerNode, document: str, text: str = "{") -> Path:
    return node.put(document, text, 0o600)


def journal_of(node: LayerNode, operation: str) -> str:
    """The text of a journal about the active layer."""
    active = activation_record.read(node.root)
    assert active
    activation_record.write_journal(node.root, activation_record.Journal(operation, active))
    text = (node.root / ACTIVATION_JOURNAL).read_text()
    (node.root / ACTIVATION_JOURNAL).unlink()
    return text


def shapes(text: str, number: int) -> Iterator[str]:
    """The text cut off at many places, alone and filled up with zeros, as after a power cut."""
    for at in range(0, len(text) - 1, len(text) // number):
        yield text[:at]
        yield text[:at] + "\0" * (len(text) - at)


def test_a_node_that_is_already_right_stays_so_with_a_damaged_activation_record(layered: LayerNode) -> None:
    flow_boot(layered)
    bad = damage(layered, ACTIVATION)
    before = snapshot(layered.root, "none")
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.containers) == ("ready", 0)
    assert any(str(bad.relative_to(layered.root)) in warning for warning in outcome.warnings)
    assert snapshot(layered.root, "none") == before


@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
@pytest.mark.parametrize("operation", [activation_record.ACTIVATE, activation_record.DEACTIVATE])
def test_a_damaged_document_costs_a_compile_once(layered: LayerNode, layer: Manifest, document: str, operation: str) -> None:
    """Active, not initialised: the manifests' files are removed, a full install follows, and the next boot finds nothing wrong."""
    before = placed(layered)
    activate.activate(layered.root, layered, layer)
    if document == ACTIVATION_JOURNAL:
        journal_of(layered, operation)
        if operation == activation_record.ACTIVATE:
            (layered.root / ACTIVATION).unlink()
    bad = damage(layered, document)
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "activation_invalid")
    assert document in outcome.reason
    assert layered.driver_runs == [INSTALL]
    assert bad.with_name(bad.name + ".damaged").read_text() == "{"
    assert (activation_record.read(layered.root), activation_record.read_journal(layered.root)) == (None, None)
    assert layernode.REPLACED in before
    assert Store(layered.root).problems(layer.files) == (), "the install did not write through a link into the store"
    again = flow_boot(layered)
    assert (again.result, again.changed, again.warnings) == ("ready", False, [])


@pytest.mark.parametrize("damaged", [ACTIVATION, ACTIVATION_JOURNAL])
def test_without_a_gpu_the_files_of_the_manifests_are_removed(layered: LayerNode, layer: Manifest, damaged: str) -> None:
    before = placed(layered)
    activate.activate(layered.root, layered, layer)
    damage(layered, damaged)
    lose_gpu(layered)
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("removed", "no_gpu")
    assert placed(layered) == before
    assert (flow_boot(layered).result, flow_boot(layered).warnings) == ("nothing", [])


def test_with_no_layer_active_a_damaged_record_is_only_a_warning(layered: LayerNode) -> None:
    damage(layered, ACTIVATION)
    lose_gpu(layered)
    before = snapshot(layered.root, "none")
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("nothing", "no_gpu")
    assert any(ACTIVATION in warning for warning in outcome.warnings)
    assert snapshot(layered.root, "none") == before


def test_files_that_no_manifest_lists_unchanged_are_not_deleted(layered: LayerNode, layer: Manifest) -> None:
    activate.activate(layered.root, layered, layer)
    damage(layered, ACTIVATION)
    mine, packages = f"{MODULE.rpartition('/')[0]}/mine.ko", "usr/lib/firmware/nvidia/gsp.bin"
    layered.put(mine, "mine")
    (layered.root / layernode.SETUID).unlink()
    layered.put(layernode.SETUID, "changed", 0o755)
    layered.put("var/lib/dpkg/info/libcuda1.list", f"/{packages}\n")
    lose_gpu(layered)
    outcome = flow_boot(layered)
    assert outcome.result == "removed"
    assert (layered.root / mine).read_text() == "mine"
    assert (layered.root / layernode.SETUID).read_text() == "changed"
    assert (layered.root / packages).exists()
    assert any(f"/{layernode.SETUID}" in warning for warning in outcome.warnings)
    assert not (layered.root / MODULE).exists()


def test_a_replaced_file_stays_where_its_original_cannot_be_put_back(layered: LayerNode, layer: Manifest) -> None:
    activate.activate(layered.root, layered, layer)
    original = next(entry for entry in layer.originals if entry.path == layernode.REPLACED)
    Path(Store(layered.root).file(original)).unlink()
    damage(layered, ACTIVATION)
    lose_gpu(layered)
    outcome = flow_boot(layered)
    assert outcome.result == "removed"
    assert any(f"/{layernode.REPLACED}: what was there" in warning for warning in outcome.warnings)
    assert (layered.root / layernode.REPLACED).read_text() == "options nvidia\n"
    assert (layered.root / layernode.DELETED).read_text() == "/old\n"


def test_where_signatures_are_enforced_the_damage_is_named_and_a_deactivation_repairs_it(layered: LayerNode, layer: Manifest) -> None:
    activate.activate(layered.root, layered, layer)
    damage(layered, ACTIVATION)
    layered.put("sys/module/module/parameters/sig_enforce", "Y\n")
    with pytest.raises(BootError, match=ACTIVATION) as caught:
        flow_boot(layered)
    assert caught.value.code == "signatures_enforced"
    assert activation_deactivate.deactivate(layered.root, layered).layer == layer.layer
    assert activation_record.problems(layered.root) == ()


@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
def test_a_document_of_a_newer_layout_is_left_to_the_program_that_wrote_it(layered: LayerNode, layer: Manifest, document: str) -> None:
    activate.activate(layered.root, layered, layer)
    damage(layered, document, '{"schema": 2}')
    before = snapshot(layered.root, "none")
    with pytest.raises(BootError, match="a newer version of this program") as caught:
        flow_boot(layered)
    assert caught.value.code == "activation_invalid"
    lose_gpu(layered)
    assert flow_boot(layered).result == "nothing"
    after = snapshot(layered.root, "none")
    assert {path: after.get(path) for path in before if path.startswith(layernode.STORE)} == {
        path: before[path] for path in before if path.startswith(layernode.STORE)
    }
    assert (layered.root / MODULE).exists()


def test_however_a_document_is_damaged_the_node_boots(layered: LayerNode, layer: Manifest) -> None:
    """Wherever it is cut off, the boot removes the whole layer and leaves everything else as it was."""
    before = placed(layered)
    activate.activate(layered.root, layered, layer)
    record_text, journal_text = (layered.root / ACTIVATION).read_text(), journal_of(layered, activation_record.DEACTIVATE)
    lose_gpu(layered)
    assert activation_record.read(layered.root)
    for document, text in ((ACTIVATION, record_text), (ACTIVATION_JOURNAL, journal_text)):
        for shape in shapes(text, 10):
            (layered.root / ACTIVATION).write_text(record_text)
            damage(layered, document, shape)
            outcome = flow_boot(layered)
            assert outcome.result == "removed"
            assert placed(layered) == before
            activate.activate(layered.root, layered, layer)
