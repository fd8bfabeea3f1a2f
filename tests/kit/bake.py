"""Bakes on a fake node: requests, what driver images build, and what is compared afterwards."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.flow import Baked
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.request import BakeRequest, request_from
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, BAKE_REPORT, INSTALLED_FILES, NODE_RECORD, STORE

from tests.kit.node import FakeNode
from tests.kit.reply import Reply, Script
from tests.kit.values import DATA, IMAGE

OTHER = "580.159.04"  # the version of another driver image
COMPILE_LOG = (DATA / "dkms/make-3.0.10-pci_resize_resource.log").read_text(encoding="utf-8")


def request(**changes: Any) -> BakeRequest:
    """A captured bake with nothing to wait for, or with the ``changes`` to that."""
    return request_from({"image": IMAGE, "min_free_mb": 0, "delay_s": 0, **changes})


def bake(node: FakeNode, **changes: Any) -> Baked:
    return flow.bake(node, request(**changes), root=node.root)


def builds(**options: Any) -> Script:
    """A driver image that builds for the node's kernel, or as ``options`` of FakeNode.build say."""

    def script(node: FakeNode, action: str) -> Reply:
        assert action == "build-only"
        node.build(**options)
        return Reply(out="done\n", seconds=92)

    return script


def builds_newest(more: Script | None = None, **options: Any) -> Script:
    """An unmodified driver image: it builds for the newest kernel with visible headers, then runs ``more``."""

    def script(node: FakeNode, action: str) -> Reply:
        in_sight = sorted(p.parent.name for p in (node.root / "lib/modules").glob("*/build"))
        node.build(kver=in_sight[-1], **options)
        return more(node, action) if more else Reply(out="done\n", seconds=92)

    return script


def outside(node: FakeNode) -> dict[str, str]:
    """All files except the store, logs, and run/gpu-prebake."""
    return {p: t for p, t in node.tree().items() if not p.startswith((STORE, "var/log", "run/gpu-prebake"))}


def in_store(node: FakeNode) -> dict[str, Any]:
    """Everything in the store, temporary files included; of documents only what is the same in every run."""
    found: dict[str, Any] = {}
    for path, text in node.tree(STORE).items():
        if path.endswith("/manifest.json"):
            found[path] = {key: value for key, value in json.loads(text.partition(" ")[2]).items() if key not in ("created", "build_s")}
        elif path == ACTIVATION:
            record = json.loads(text.partition(" ")[2])
            found[path] = {key: record[key] for key in ("layer", "machine_id", "identity", "how", "verified")}
        elif path == BAKE_REPORT:
            found[path] = [layer["identity"] for layer in json.loads(text.partition(" ")[2])["layers"]]
        else:
            found[path] = "" if path in (NODE_RECORD, INSTALLED_FILES) else text
    return found
