"""A store with an older layout is used. With a newer one, bake, boot and seal say so, and delete nothing in it.

Activation and discard: activation/test_discard.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow as bake_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import flow as boot_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import GpuNodeError, SealError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, ACTIVATION_JOURNAL
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal import flow as seal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal.request import SealRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest

from tests.kit import layer as layernode
from tests.kit.bake import request
from tests.kit.layer import BUILT_FROM, STORE, LayerNode
from tests.kit.values import policy


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LayerNode, Manifest]]:
    with layernode.fast_folder() as folder:
        monkeypatch.setattr(paths, "LOCK", folder / "lock")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        node, layer = layernode.a_node(folder)
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=node.kver, machine="x86_64"))
        yield node, layer


def make_newer(path: Path) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema": document["schema"] + 1, "what this program does not know": []}))


def in_store(node: LayerNode) -> dict[str, str]:
    return node.tree(STORE)


@pytest.mark.parametrize("mode", ["captured", "in_place"])
@pytest.mark.parametrize("document", ["manifest", ACTIVATION, ACTIVATION_JOURNAL])
def test_a_bake_ends_before_it_begins(both: tuple[LayerNode, Manifest], document: str, mode: str) -> None:
    node, layer = both
    path = layers.path_of(node.root, layer.layer) if document == "manifest" else node.root / document
    if document in (ACTIVATION, ACTIVATION_JOURNAL):
        active = activate.activate(node.root, node, layer)
        activation_record.write_journal(node.root, activation_record.Journal(activation_record.ACTIVATE, active))
    make_newer(path)
    before = node.tree()
    with pytest.raises(GpuNodeError, match="layout version") as caught:
        bake_flow.bake(node, request(mode=mode), root=node.root)
    assert caught.value.code == ("store_newer" if document == "manifest" else "activation_invalid")
    assert path.name in str(caught.value)
    assert node.driver_runs == []
    assert node.tree() == before


def test_a_boot_uses_a_layer_of_0_1_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also one with objects that a bake of today would let be linked."""
    monkeypatch.setattr(paths, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with layernode.fast_folder() as folder:
        node, _layer = layernode.a_node(folder, says_linked=False)
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=node.kver, machine="x86_64"))
        node.add_gpu()
        _facts, outcome = boot_flow.boot(node, policy(delay_s=0), root=node.root)
        assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
        active = activation_record.read(node.root)
    assert active
    assert (active.how[BUILT_FROM], active.verified) == (activation_record.COPY, True)


def test_a_boot_does_without_a_newer_layer_and_says_why(both: tuple[LayerNode, Manifest]) -> None:
    node, layer = both
    node.add_gpu()
    make_newer(layers.path_of(node.root, layer.layer))
    before = in_store(node)
    _facts, outcome = boot_flow.boot(node, policy(delay_s=0), root=node.root)
    assert (outcome.result, outcome.code) == ("compiled", "manifest_invalid")
    assert "layout version 4, this program reads 3" in outcome.reason
    assert before.items() <= in_store(node).items()


@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
def test_a_boot_touches_nothing_that_a_newer_program_has_put_in_place(both: tuple[LayerNode, Manifest], document: str) -> None:
    node, layer = both
    node.add_gpu()
    active = activate.activate(node.root, node, layer)
    if document == ACTIVATION_JOURNAL:
        activation_record.write_journal(node.root, activation_record.Journal(activation_record.ACTIVATE, active))
    make_newer(node.root / document)
    before = node.tree()
    with pytest.raises(GpuNodeError, match="layout version 2") as caught:
        boot_flow.boot(node, policy(delay_s=0), root=node.root)
    assert caught.value.code == "activation_invalid"
    assert node.driver_runs == []
    assert node.tree() == before


def test_a_seal_refuses_and_names_it(both: tuple[LayerNode, Manifest]) -> None:
    node, layer = both
    make_newer(layers.path_of(node.root, layer.layer))
    before = in_store(node)
    with pytest.raises(SealError, match="layout version 4, this program reads 3"):
        seal_flow.seal(node.root, node, Containerd(node), SealRequest())
    assert before.items() <= in_store(node).items()
