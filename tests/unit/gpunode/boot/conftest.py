"""Nodes with a GPU on which the tests of a boot begin: baked in place, never baked, and with an inert captured layer."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest

from tests.kit import layer as layernode
from tests.kit.layer import LayerNode
from tests.kit.node import FakeNode, bake_layer
from tests.kit.values import LOADER


@pytest.fixture
def baked(node: FakeNode) -> FakeNode:
    """A node whose image was baked in place."""
    node.add_gpu()
    bake_layer(node)
    return node


@pytest.fixture
def fresh(node: FakeNode) -> FakeNode:
    """A node whose image was never baked."""
    node.add_gpu()
    return node


@pytest.fixture
def node_and_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LayerNode, Manifest]]:
    with layernode.fast_folder() as folder:
        monkeypatch.setattr(paths, "LOCK", folder / "lock")
        monkeypatch.setattr("os.geteuid", lambda: 0)
        node, layer = layernode.a_node(folder)
        node.add_gpu()
        node.put(f"{LOADER}/libc.so.6", "the system")
        monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=node.kver, machine="x86_64"))
        yield node, layer


@pytest.fixture
def layered(node_and_layer: tuple[LayerNode, Manifest]) -> LayerNode:
    """A node with an inert captured layer, ``layer``, in its store."""
    return node_and_layer[0]


@pytest.fixture
def layer(node_and_layer: tuple[LayerNode, Manifest]) -> Manifest:
    return node_and_layer[1]
