"""The names of a transaction's steps: only these are announced, in their order, and all are documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, discard
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation.steps import (
    ACTIVATE,
    DEACTIVATE,
    DISCARD,
    STEPS,
    TAKE_AWAY,
    begin,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest

from tests.kit import layer as layernode
from tests.kit.layer import LayerNode

TOP = Path(__file__).parents[4]


@pytest.fixture
def both() -> Iterator[tuple[LayerNode, Manifest]]:
    with layernode.fast_folder() as folder:
        yield layernode.a_node(folder)


def in_order(said: list[str], operation: str) -> list[str]:
    """The steps of an operation that the lines announce; asserts that they are in their order."""
    found = [line.partition(": ")[2] for line in said if line.startswith(f"{operation}: ")]
    assert found == sorted(found, key=STEPS[operation].index)
    return found


def test_each_transaction_says_its_steps_in_their_order(both: tuple[LayerNode, Manifest]) -> None:
    node, layer = both
    said: list[str] = []
    activate.activate(node.root, node, layer, said.append)
    assert in_order(said, ACTIVATE) == [step for step in STEPS[ACTIVATE] if step != "depmod"]
    deactivate.deactivate(node.root, node, said.append)
    assert in_order(said, DEACTIVATE) == ["journal"]
    assert in_order(said, TAKE_AWAY) == [step for step in STEPS[TAKE_AWAY] if step not in ("depmod", "ldconfig")]
    discard.discard(node.root, node, layer.layer, said.append)
    assert in_order(said, DISCARD) == list(STEPS[DISCARD])
    assert len(said) == sum(len(steps) for steps in STEPS.values()) - 3


def test_other_indexes_are_made_by_depmod(both: tuple[LayerNode, Manifest]) -> None:
    node, layer = both
    said: list[str] = []
    activate.activate(node.root, node, manifest.Manifest(**{**vars(layer), "indexes": ()}), said.append)
    assert in_order(said, ACTIVATE) == [step for step in STEPS[ACTIVATE] if step != "swap-indexes"]


def test_no_other_name_is_said() -> None:
    with pytest.raises(ValueError, match="activate has no step 'plce'"):
        begin(print, ACTIVATE, "plce")


def test_every_step_is_documented() -> None:
    text = (TOP / "docs/manifest.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*`done`|`journal`.*) \|$", text, re.MULTILINE))
    assert rows.keys() == STEPS.keys()
    for operation, row in rows.items():
        words = [word for word in re.findall(r"`([a-z-]+)`", row) if word in STEPS[operation]]
        assert words == list(STEPS[operation]) if operation != DEACTIVATE else words == ["journal"]
