"""containerd, driven by ctr."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import ImageError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import CONFIG_DIGEST, IMAGE, digest

MIRROR = IMAGE.replace("registry.lab:5000", "mirror.local")


def test_finds_an_image_by_its_exact_name(node: FakeNode) -> None:
    node.add_image(IMAGE + "1")
    assert Containerd(node).target_digest(IMAGE) == digest("index " + IMAGE)
    assert Containerd(node).target_digest(IMAGE[:-1]) is None


def test_a_longer_name_in_the_listing_is_another_image(node: FakeNode) -> None:
    listing = f"REF TYPE DIGEST SIZE PLATFORMS LABELS\n{IMAGE}-x application/x {digest('a')} 1.0 MiB linux/amd64 -\n"
    node.programs["ctr"] = lambda node, words: Reply(out=listing)
    assert Containerd(node).target_digest(IMAGE) is None


def test_a_name_with_another_digest_is_not_the_image(node: FakeNode) -> None:
    other = f"{IMAGE}@{digest('other')}"
    node.images[other] = node.images[IMAGE]
    containerd = Containerd(node)
    assert containerd.target_digest(other) is None
    assert containerd.target_digest(IMAGE, digest("other")) is None
    assert containerd.config_digest(IMAGE, "x86_64", digest("other")) is None
    assert containerd.target_digest(IMAGE, node.images[IMAGE]) == node.images[IMAGE]


@pytest.mark.parametrize(
    ("document", "arch", "found"),
    [
        pytest.param({"config": {"digest": CONFIG_DIGEST}}, "x86_64", CONFIG_DIGEST, id="a manifest"),
        pytest.param({"config": {}}, "x86_64", None, id="a manifest without a config"),
        pytest.param({"manifests": []}, "x86_64", None, id="an empty index"),
        pytest.param({}, "x86_64", None, id="neither"),
    ],
)
def test_the_config_digest_of_one_document(node: FakeNode, document: dict[str, Any], arch: str, found: str | None) -> None:
    node.content[node.images[IMAGE]] = document
    assert Containerd(node).config_digest(IMAGE, arch) == found


def test_an_index_is_asked_for_the_machines_platform(node: FakeNode) -> None:
    assert Containerd(node).config_digest(IMAGE, "x86_64") == CONFIG_DIGEST
    assert Containerd(node).config_digest(IMAGE, "aarch64") is None
    assert Containerd(node).config_digest(MIRROR, "x86_64") is None
    node.content.clear()
    assert Containerd(node).config_digest(IMAGE, "x86_64") is None


@pytest.mark.parametrize(
    ("index", "found"),
    [
        pytest.param({"manifests": [{"platform": None, "digest": "a"}, {"digest": "b"}]}, None, id="no platform"),
        pytest.param({"manifests": [{"platform": {"os": "unknown", "architecture": "unknown"}, "digest": "a"}]}, None, id="attestation"),
        pytest.param({"manifests": [{"platform": {"os": "linux", "architecture": "amd64"}, "digest": 7}]}, None, id="no digest"),
    ],
)
def test_odd_entries_of_an_index_are_passed_over(index: dict[str, Any], found: str | None) -> None:
    assert containerd.platform_manifest(index, "amd64") == found


def test_a_daemon_that_is_away_or_missing_is_not_ready(node: FakeNode) -> None:
    assert Containerd(node).is_ready()
    node.daemon_ready = False
    assert not Containerd(node).is_ready()
    node.missing_programs.add("ctr")
    assert not Containerd(node).is_ready()


def test_a_daemon_that_does_not_come_back_is_an_error(node: FakeNode) -> None:
    node.daemon_ready = False
    with pytest.raises(ImageError) as caught:
        Containerd(node).restart(Deadline(5, node.clock, node.clock.sleep))
    assert caught.value.code == "containerd_unavailable"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"config": [1]}',
        '{"config": "x"}',
        '{"config": {"digest": "sha256:\\u0000"}}',
        '{"config": {"digest": "\\ud800"}}',
        '{"config": {"digest": "--help"}}',
        '{"manifests": 7}',
        '{"manifests": [7, null, {"platform": "linux"}]}',
        '{"manifests": {"a": 1}}',
        '{"a": 1, "a": 2}',
        '{"config": {"digest": NaN}}',
        "1" * 100_000,
        "\ud800",
    ],
    ids=lambda text: text[:40].encode("ascii", "backslashreplace").decode(),
)
def test_an_odd_document_has_no_config(node: FakeNode, text: str) -> None:
    asked = node.programs["ctr"]
    node.programs["ctr"] = lambda node, words: Reply(out=text) if "content" in words else asked(node, words)
    assert Containerd(node).config_digest(IMAGE, "x86_64") is None
