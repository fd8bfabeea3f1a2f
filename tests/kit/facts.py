"""Facts of nodes that the tests of the decision share: with a layer in the store or in place, signed, or half removed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts

from tests.kit.values import (
    MACHINE,
    SIGNER,
    VERSION,
    baked,
    captured,
    identity,
    manifest,
    module,
    never_baked,
)

OTHER_IMAGE = f"registry.lab:5000/aks/aks-gpu-cuda:{VERSION}-20260501000000"
GRID = f"registry.lab:5000/aks/aks-gpu-grid:{VERSION}-20260430040408"


def layer(**changes: str) -> Any:
    return manifest(identity(**changes))


def with_layer(**changes: str) -> Facts:
    return baked(layers=(layer(**changes),))


CAPTURED = captured()


def inert(**changes: Any) -> Facts:
    """A node with a captured layer in its store, and nothing of it in place."""
    return never_baked(**{"layers": (CAPTURED,), "layer_contents": (), "module": module(), "uvm": module("nvidia-uvm"), **changes})


def active(**changes: Any) -> Facts:
    """The same node with the layer put in place on this machine."""
    return baked(
        **{"layers": (CAPTURED,), "active_layer": CAPTURED.layer, "active_machine_id": MACHINE, "active_version": VERSION, **changes}
    )


def in_image(**changes: Any) -> Facts:
    """The same node with the layer put in place in its image, and not adopted."""
    return active(active_machine_id="", **changes)


SIGNED = baked(layers=(manifest(signer=SIGNER),))


def enforced(facts: Facts, *trusted: str) -> Facts:
    """The same node, where signatures are enforced and the keys ``trusted`` are trusted: that of ``SIGNED``, unless others are given."""
    return replace(facts, signatures_enforced=True, trusted_keys=trusted or (SIGNER.key_id,))


LEAVING: dict[str, Any] = {"removal_under_way": True}
