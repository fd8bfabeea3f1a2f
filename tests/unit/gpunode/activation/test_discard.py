"""Discarding a captured layer, and stores with a newer layout, on real files below a fake root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, discard
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError, GpuNodeError, LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, ACTIVATION_JOURNAL, LAYERS, OBJECTS
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store

from tests.kit import layer as layernode
from tests.kit.layer import (
    LayerNode,
    snapshot,
)
from tests.kit.values import KVER, VERSION

DKMS_COPY = f"var/lib/dkms/nvidia/{VERSION}/{KVER}/x86_64/module/nvidia.ko"
DKMS_TREE = f"var/lib/dkms/nvidia/{VERSION}"


# --- discard -----------------------------------------------------------------------------------------------------------


def test_discard_leaves_nothing_of_the_layer(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    assert discard.discard(node.root, node, layer.layer)
    assert layernode.store_files(node.root) == set()
    assert list((node.root / LAYERS).iterdir()) == []
    assert snapshot(node.root) == before
    assert not discard.discard(node.root, node, layer.layer)


def test_discard_keeps_what_another_layer_needs(node: LayerNode, layer: Manifest) -> None:
    other = replace(layer, identity=replace(layer.identity, flavour="proprietary"), layer=f"cuda-{VERSION}-proprietary-{KVER}")
    layers.write(node.root, other)
    objects = {f for f in layernode.store_files(node.root) if f.startswith("objects/")}
    discard.discard(node.root, node, layer.layer)
    assert {f for f in layernode.store_files(node.root) if f.startswith("objects/")} == objects
    assert activate.activate(node.root, node, other).layer == other.layer


def test_an_active_layer_is_not_discarded(node: LayerNode, layer: Manifest, active: activation_record.Activation) -> None:
    before = snapshot(node.root, "none")
    with pytest.raises(LayerError, match="deactivate it first") as caught:
        discard.discard(node.root, node, layer.layer)
    assert caught.value.code == "layer_active"
    assert snapshot(node.root, "none") == before


@pytest.mark.parametrize("name", ["", ".", "..", "../layers", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(node: LayerNode, name: str) -> None:
    with pytest.raises(LayerError):
        discard.discard(node.root, node, name)


def test_a_layer_in_place_is_not_discarded(node: LayerNode, layer: Manifest) -> None:
    layers.write(node.root, replace(layer, mode="in_place", originals=(), indexes=()))
    with pytest.raises(LayerError, match="baked in place"):
        discard.discard(node.root, node, layer.layer)


def test_a_broken_layer_can_be_discarded(node: LayerNode, layer: Manifest) -> None:
    layers.path_of(node.root, layer.layer).write_text("{")
    assert discard.discard(node.root, node, layer.layer)
    assert layernode.store_files(node.root) == set()


# --- a store with a newer layout ----------------------------------------------------------------------------------------


def make_newer(path: Path) -> None:
    text = path.read_text()
    newer = text.replace('"schema": 3', '"schema": 4').replace('"schema":1', '"schema":2')
    assert newer != text
    path.write_text(newer)


def test_a_manifest_of_a_newer_layout_is_neither_used_nor_dropped(node: LayerNode, layer: Manifest) -> None:
    make_newer(layers.path_of(node.root, layer.layer))
    before = snapshot(node.root, "none")
    for call in (lambda: layers.find(node.root, layer.layer), lambda: discard.discard(node.root, node, layer.layer)):
        with pytest.raises(LayerError, match="layout version 4") as caught:
            call()
        assert caught.value.code == "store_newer"
    assert snapshot(node.root, "none") == before


def test_while_a_manifest_cannot_be_read_no_object_is_dropped(node: LayerNode, layer: Manifest) -> None:
    other = replace(layer, identity=replace(layer.identity, flavour="proprietary"), layer=f"cuda-{VERSION}-proprietary-{KVER}")
    make_newer(layers.write(node.root, other))
    objects = {f for f in layernode.store_files(node.root) if f.startswith("objects/")}
    said: list[str] = []
    assert discard.discard(node.root, node, layer.layer, said.append)
    assert {f for f in layernode.store_files(node.root) if f.startswith("objects/")} == objects
    assert any("objects stay" in line and "layout version 4" in line for line in said)
    with pytest.raises(DataError):
        Store(node.root).collect()


@pytest.mark.parametrize("work", ["activate", "deactivate", "discard", "resume"])
@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
def test_documents_of_a_newer_layout_stop_everything(
    node: LayerNode, layer: Manifest, active: activation_record.Activation, document: str, work: str
) -> None:
    if document == ACTIVATION_JOURNAL:
        activation_record.write_journal(node.root, activation_record.Journal(activation_record.ACTIVATE, active))
    make_newer(node.root / document)
    before = snapshot(node.root, "none")
    works: dict[str, Callable[[], object]] = {
        "activate": lambda: activate.activate(node.root, node, layer),
        "deactivate": lambda: deactivate.deactivate(node.root, node),
        "discard": lambda: discard.discard(node.root, node, layer.layer),
        "resume": lambda: deactivate.resume(node.root, node),
    }
    if work == "resume" and document == ACTIVATION:
        return  # without a journal there is nothing to resume
    with pytest.raises(GpuNodeError, match="layout version 2") as caught:
        works[work]()
    assert caught.value.code == "activation_invalid"
    assert snapshot(node.root, "none") == before


def test_store_knows_a_layer_by_name(node: LayerNode, layer: Manifest) -> None:
    assert layers.find(node.root, layer.layer) == layer
    with pytest.raises(LayerError, match=layer.layer) as caught:
        layers.find(node.root, "cuda-1.2-open-6.1")
    assert caught.value.code == "layer_missing"
    assert OBJECTS == "var/lib/gpu-prebake/objects"
