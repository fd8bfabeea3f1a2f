"""A fake node with a captured layer in its store, and with that layer in place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest

from tests.kit import layer as layernode
from tests.kit.layer import LayerNode


@pytest.fixture
def both() -> Iterator[tuple[LayerNode, Manifest]]:
    with layernode.fast_folder() as folder:
        yield layernode.a_node(folder)


@pytest.fixture
def node(both: tuple[LayerNode, Manifest]) -> LayerNode:
    return both[0]


@pytest.fixture
def layer(both: tuple[LayerNode, Manifest]) -> Manifest:
    return both[1]


@pytest.fixture
def active(node: LayerNode, layer: Manifest) -> activation_record.Activation:
    return activate.activate(node.root, node, layer)
