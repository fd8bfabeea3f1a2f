"""Looking at a node: what it asks containerd."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers

from tests.kit.node import FakeNode, bake_layer
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


def test_a_module_in_the_kernel_that_nothing_here_accounts_for_is_foreign(node: FakeNode) -> None:
    node.insert("nvidia", "580.159.04")
    assert look(node).foreign == ("module nvidia 580.159.04 in the kernel",)


def test_a_module_beside_a_layer_of_another_version(node: FakeNode) -> None:
    bake_layer(node)
    node.insert("nvidia", "580.159.04")
    assert look(node).foreign == ("module nvidia 580.159.04 in the kernel",)


@pytest.mark.parametrize("version", [VERSION, ""], ids=["its version", "no version told"])
def test_a_module_that_may_be_a_layers_is_not(node: FakeNode, version: str) -> None:
    bake_layer(node)
    node.insert("nvidia", version)
    assert look(node).foreign == ()


def test_nor_is_one_that_stayed_in_use_when_its_layer_was_taken_away(node: FakeNode) -> None:
    layers.write(node.root, captured())
    node.insert("nvidia", VERSION)
    assert look(node).foreign == ()
    node.insert("nvidia", "580.159.04")
    assert look(node).foreign == ("module nvidia 580.159.04 in the kernel",)


def test_beside_a_foreign_driver_nothing_that_was_baked_is_looked_at(node: FakeNode) -> None:
    bake_layer(node)
    node.put("var/lib/dkms/nvidia/535.1/source/x")
    node.calls.clear()
    facts = look(node)
    assert facts.foreign
    assert facts.layer_contents is None
    assert not node.calls, "neither modinfo, which a machine with another's driver may lack, nor containerd"
