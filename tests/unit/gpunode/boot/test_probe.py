"""Reading the facts of a node: what containerd is asked, which drivers are foreign, and the keys where signatures are enforced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Action
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import certificate, keyrings

from tests.kit.keyrings import BUILT_IN, KEYS, ring
from tests.kit.node import FakeNode, bake_layer
from tests.kit.signer import SigningNode, make_pair
from tests.kit.values import CONFIG_DIGEST, VERSION, captured, policy


def look(node: FakeNode) -> Facts:
    node.add_gpu()
    return probe(node.root, node, Containerd(node), policy().wanted)


def test_containerd_is_asked_for_nothing_twice(node: FakeNode) -> None:
    facts = look(node)
    assert (facts.containerd_ready, facts.image_present, facts.config_digest) == (True, True, CONFIG_DIGEST)
    asked = [tuple(argv[3:5]) for argv in node.calls if argv[0] == "ctr"]
    assert asked == [("images", "ls"), ("content", "get"), ("content", "get")], "the image, its index, its manifest"


def test_a_containerd_that_does_not_answer_is_a_fact(node: FakeNode) -> None:
    node.daemon_ready = False
    facts = look(node)
    assert (facts.containerd_ready, facts.image_present, facts.config_digest) == (False, False, "")


def test_an_image_that_is_not_there_is_a_fact(node: FakeNode) -> None:
    node.images.clear()
    facts = look(node)
    assert (facts.containerd_ready, facts.image_present, facts.config_digest) == (True, False, "")


def test_a_loaded_module_of_a_version_that_is_not_ours_is_foreign(node: FakeNode) -> None:
    node.insert("nvidia", "580.159.04")
    assert look(node).foreign == ("module nvidia 580.159.04 in the kernel",)


def test_so_is_one_of_another_version_than_the_layer(node: FakeNode) -> None:
    bake_layer(node)
    node.insert("nvidia", "580.159.04")
    assert look(node).foreign == ("module nvidia 580.159.04 in the kernel",)


@pytest.mark.parametrize("version", [VERSION, ""], ids=["its version", "no version known"])
def test_a_loaded_module_that_may_be_of_a_layer_is_not_foreign(node: FakeNode, version: str) -> None:
    bake_layer(node)
    node.insert("nvidia", version)
    assert look(node).foreign == ()


def test_nor_is_one_that_stayed_in_use_when_its_layer_was_deactivated(node: FakeNode) -> None:
    layers.write(node.root, captured())
    node.insert("nvidia", VERSION)
    assert look(node).foreign == ()
    node.insert("nvidia", "580.159.04")
    assert look(node).foreign == ("module nvidia 580.159.04 in the kernel",)


@pytest.mark.parametrize("link", [True, False], ids=["behind a link", "in another tree"])
def test_a_driver_that_is_registered_elsewhere_is_foreign(node: FakeNode, link: bool) -> None:
    node.put("srv/dkms/nvidia/535.1/source/x")
    if link:
        node.link("var/lib/dkms/nvidia", "/srv/dkms/nvidia")
    else:
        node.put("etc/dkms/framework.conf", 'dkms_tree="/srv/dkms"\n')
    facts = look(node)
    assert facts.foreign == (f"DKMS tree /{'var/lib' if link else 'srv'}/dkms/nvidia/535.1",)
    assert [entry.version for entry in facts.dkms] == ["535.1"]


def test_beside_a_foreign_driver_nothing_baked_is_read(node: FakeNode) -> None:
    bake_layer(node)
    node.put("var/lib/dkms/nvidia/535.1/source/x")
    node.calls.clear()
    facts = look(node)
    assert facts.foreign
    assert facts.layer_contents is None
    assert not node.calls, "neither modinfo, which a machine with another's driver may lack, nor containerd"


# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def enforcing(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningNode:
    made = SigningNode(tmp_path / "node")
    made.add_gpu()
    made.put("proc/keys", KEYS)
    made.put("sys/module/module/parameters/sig_enforce", "Y\n")
    monkeypatch.setattr(keyrings, "members", ring)
    return made


def facts(node: SigningNode) -> Facts:
    return probe(node.root, node, None, policy().wanted)


@pytest.mark.subprocess
def test_the_keyrings_are_read_only_where_signatures_are_enforced(enforcing: SigningNode) -> None:
    found = facts(enforcing)
    assert found.trusted_keys
    assert len(found.trusted_keys) == len(BUILT_IN)
    assert found.install_signer == "", "DKMS has no key here, and no kernel trusts the one that it would make"
    enforcing.put("sys/module/module/parameters/sig_enforce", "N\n")
    assert facts(enforcing).trusted_keys is None


@pytest.mark.subprocess
@pytest.mark.parametrize("conf", ["", "mok_signing_key=/etc/own/mok.key\nmok_certificate='/etc/own/mok.pub'\n"])
def test_the_key_that_dkms_signs_with_is_named_by_its_certificate(enforcing: SigningNode, tmp_path: Path, conf: str) -> None:
    pair = make_pair(tmp_path, "DKMS module signing key")
    folder = "etc/own" if conf else "var/lib/dkms"
    enforcing.put("etc/dkms/framework.conf", conf)
    enforcing.put(f"{folder}/mok.pub", pair.certificate.read_text())
    assert facts(enforcing).install_signer == "", "without its private half"
    enforcing.put(f"{folder}/mok.key", pair.key.read_text())
    assert facts(enforcing).install_signer == certificate.read(enforcing, pair.certificate).signer.key_id
    enforcing.put(f"{folder}/mok.pub", "words")
    assert facts(enforcing).install_signer == ""


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({}, "module_unsigned", id="as baked"),
        pytest.param({"signer": "somebody"}, "module_untrusted", id="no manifest says by whom"),
    ],
)
def test_a_baked_node_that_enforces_signatures_compiles_nothing(enforcing: SigningNode, changes: dict[str, Any], code: str) -> None:
    bake_layer(enforcing)
    for name, text in changes.items():
        for file in (enforcing.root / "usr/lib/modules").rglob("nvidia*.ko"):
            file.write_text(file.read_text() + f"{name}: {text}\n")
    found = probe(enforcing.root, enforcing, None, policy().wanted)
    plan = decide(Facts(**{**vars(found), "containerd_ready": True, "image_present": False, "layer_contents": ()}), policy())
    assert (plan.action, plan.code, plan.fails) == (Action.NONE, "signatures_enforced", True)
    assert [refusal.code for refusal in plan.refused] == ["never_initialised", code, "signatures_enforced"]
