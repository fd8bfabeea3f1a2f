"""Facts about signatures: looked at where they are enforced, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Action
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import certificate, keyrings

from tests.kit.node import FakeNode, bake_layer
from tests.kit.signer import SigningNode, make_pair
from tests.kit.values import policy
from tests.unit.gpunode.system.test_keyrings import BUILT_IN, KEYS, ring

pytestmark = pytest.mark.subprocess


@pytest.fixture
def node(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningNode:
    made = SigningNode(tmp_path / "node")
    made.add_gpu()
    made.put("proc/keys", KEYS)
    made.put("sys/module/module/parameters/sig_enforce", "Y\n")
    monkeypatch.setattr(keyrings, "members", ring)
    return made


def facts(node: SigningNode) -> Facts:
    return probe(node.root, node, None, policy().wanted)


def test_what_the_kernel_trusts_is_asked_where_it_enforces_signatures(node: SigningNode) -> None:
    found = facts(node)
    assert found.trusted_keys
    assert len(found.trusted_keys) == len(BUILT_IN)
    assert found.install_signer == "", "DKMS has no key here; the one that it would make is trusted by nobody"
    node.put("sys/module/module/parameters/sig_enforce", "N\n")
    assert facts(node).trusted_keys is None


@pytest.mark.parametrize("conf", ["", "mok_signing_key=/etc/own/mok.key\nmok_certificate='/etc/own/mok.pub'\n"])
def test_the_key_that_dkms_signs_with_is_named_by_its_certificate(node: SigningNode, tmp_path: Path, conf: str) -> None:
    pair = make_pair(tmp_path, "DKMS module signing key")
    folder = "etc/own" if conf else "var/lib/dkms"
    node.put("etc/dkms/framework.conf", conf)
    node.put(f"{folder}/mok.pub", pair.certificate.read_text())
    assert facts(node).install_signer == "", "without its private half"
    node.put(f"{folder}/mok.key", pair.key.read_text())
    assert facts(node).install_signer == certificate.read(node, pair.certificate).signer.key_id
    node.put(f"{folder}/mok.pub", "words")
    assert facts(node).install_signer == ""


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({}, "module_unsigned", id="as baked"),
        pytest.param({"signer": "somebody"}, "module_untrusted", id="by whom is not recorded"),
    ],
)
def test_a_baked_node_that_enforces_signatures_compiles_nothing(node: SigningNode, changes: dict[str, Any], code: str) -> None:
    bake_layer(node)
    for name, text in changes.items():
        for file in (node.root / "usr/lib/modules").rglob("nvidia*.ko"):
            file.write_text(file.read_text() + f"{name}: {text}\n")
    found = probe(node.root, node, None, policy().wanted)
    plan = decide(Facts(**{**vars(found), "containerd_ready": True, "image_present": False, "layer_contents": ()}), policy())
    assert (plan.action, plan.code, plan.fails) == (Action.NONE, "signatures_enforced", True)
    assert [refusal.code for refusal in plan.refused] == ["never_initialised", code, "signatures_enforced"]
