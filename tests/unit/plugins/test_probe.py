"""Looking at a node: what it asks containerd."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.model import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.probe import probe

from tests.unit.plugins.fakenode import FakeNode
from tests.unit.plugins.support import CONFIG_DIGEST, policy


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
