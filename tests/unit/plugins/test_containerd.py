"""containerd through ctr."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import containerd, imageref
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.containerd import Containerd, ensure_image
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.deadline import Deadline
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DeadlineError, ImageError, InputError

from tests.unit.plugins.fakenode import FakeNode, Reply
from tests.unit.plugins.support import CONFIG_DIGEST, IMAGE, digest

MIRROR = IMAGE.replace("registry.lab:5000", "mirror.local")
UNREACHABLE = Reply(1, err='ctr: failed to do request: Head "https://registry.lab:5000": dial tcp 10.0.0.1:5000: i/o timeout\n')


def ensure(node: FakeNode, pull: str | None = None, total_s: float = 600) -> bool:
    return ensure_image(Containerd(node, ""), imageref.wanted(IMAGE, pull), Deadline(total_s, node.clock, node.clock.sleep))


def pulls(node: FakeNode) -> list[str]:
    return [argv[-1] for argv in node.calls if argv[3:5] == ["images", "pull"]]


def test_finds_an_image_by_its_exact_name(node: FakeNode) -> None:
    node.add_image(IMAGE + "1")
    assert Containerd(node, "").target_digest(IMAGE) == digest("index " + IMAGE)
    assert Containerd(node, "").target_digest(IMAGE[:-1]) is None


def test_a_longer_name_in_the_listing_is_another_image(node: FakeNode) -> None:
    listing = f"REF TYPE DIGEST SIZE PLATFORMS LABELS\n{IMAGE}-x application/x {digest('a')} 1.0 MiB linux/amd64 -\n"
    node._do_ctr = lambda words: Reply(out=listing)  # type: ignore[method-assign]
    assert Containerd(node, "").target_digest(IMAGE) is None


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
    assert Containerd(node, "").config_digest(IMAGE, arch) == found


def test_an_index_is_asked_for_the_machines_platform(node: FakeNode) -> None:
    assert Containerd(node, "").config_digest(IMAGE, "x86_64") == CONFIG_DIGEST
    assert Containerd(node, "").config_digest(IMAGE, "aarch64") is None
    assert Containerd(node, "").config_digest(MIRROR, "x86_64") is None
    node.content.clear()
    assert Containerd(node, "").config_digest(IMAGE, "x86_64") is None


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


def test_an_image_that_is_here_is_not_pulled(node: FakeNode) -> None:
    assert not ensure(node)
    assert pulls(node) == []


def test_what_may_pass_is_tried_three_times(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [UNREACHABLE, UNREACHABLE]
    assert ensure(node)
    assert pulls(node) == [IMAGE] * 3


def test_three_tries_are_all(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [UNREACHABLE] * 9
    with pytest.raises(ImageError, match=r"after 3 tries: .*i/o timeout") as caught:
        ensure(node)
    assert caught.value.code == "image_unreachable"
    assert len(pulls(node)) == 3


def test_a_registry_that_says_nothing_is_called_that_and_not_by_ctrs_progress(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [Reply(out="resolving\nelapsed: 11.8s  total: 0.0 B (0.0 B/s)\n", seconds=500)] * 9
    with pytest.raises(ImageError, match=r"after 3 tries: the pull did not end within 120 s\. Check that this machine") as caught:
        ensure(node)
    assert caught.value.code == "image_unreachable"


@pytest.mark.parametrize(
    "answer",
    [
        f'failed to resolve reference "{IMAGE}": {IMAGE}: not found',
        "unexpected status from HEAD request to https://registry.lab:5000/v2/x/manifests/1: 404 Not Found",
        "401 Unauthorized",
        "403 Forbidden",
        "pull access denied, repository does not exist or may require authorization",
        "no match for platform in manifest: not found",
    ],
)
def test_a_registry_that_says_no_is_asked_once(node: FakeNode, answer: str) -> None:
    node.images.clear()
    node.pulls = [Reply(1, err=f"ctr: {answer}\n")] * 3
    with pytest.raises(ImageError, match="was not tried again") as caught:
        ensure(node)
    assert (caught.value.code, len(pulls(node))) == ("image_refused", 1)


@pytest.mark.parametrize(
    "answer",
    [
        f'failed to resolve reference "{IMAGE}": failed to do request: Head "https://x": dial tcp: lookup x on 10.0.0.2:53: no such host',
        f'failed to resolve reference "{IMAGE}": failed to do request: Head "https://x": dial tcp: lookup x: not found: server misbehaving',
        "content digest sha256:0123: not found",
    ],
)
def test_what_is_not_the_registrys_no_is_tried_again(node: FakeNode, answer: str) -> None:
    node.images.clear()
    node.pulls = [Reply(1, err=f"ctr: {answer}\n")] * 2
    assert ensure(node)
    assert len(pulls(node)) == 3


def test_a_full_filesystem_is_no_matter_of_the_reference(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [Reply(1, err="ctr: write /var/lib/containerd/x/ingest/1/data: no space left on device\n")] * 3
    with pytest.raises(ImageError, match=r"filesystem is full.*\(/var/lib/containerd") as caught:
        ensure(node)
    assert (caught.value.code, len(pulls(node))) == ("no_space", 1)
    assert "reference" not in str(caught.value)


@pytest.mark.parametrize("tries", [0, -1])
def test_less_than_one_try_is_a_mistake(node: FakeNode, tries: int) -> None:
    node.images.clear()
    with pytest.raises(InputError, match=f"tries: {tries}"):
        ensure_image(Containerd(node, ""), imageref.wanted(IMAGE, None), Deadline(600, node.clock, node.clock.sleep), tries=tries)


def test_a_pull_is_cut_to_the_deadline(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [Reply(seconds=1000)] * 3
    with pytest.raises((ImageError, DeadlineError)):
        ensure(node, total_s=150)
    assert node.clock.now <= 1150


def test_another_pull_reference_ends_up_under_the_canonical_name(node: FakeNode) -> None:
    node.images.clear()
    assert ensure(node, MIRROR)
    assert pulls(node) == [MIRROR]
    assert node.images[IMAGE] == node.images[MIRROR]
    assert node.called("ctr", "-n", "k8s.io", "images", "tag") == [["ctr", "-n", "k8s.io", "images", "tag", "--force", MIRROR, IMAGE]]


def test_what_is_here_under_the_pull_reference_is_only_tagged(node: FakeNode) -> None:
    node.images.clear()
    node.add_image(MIRROR)
    assert ensure(node, MIRROR)
    assert pulls(node) == []
    assert IMAGE in node.images


@pytest.mark.parametrize(
    ("text", "imports"),
    [
        ('imports = ["/etc/containerd/config.d/*.toml"]\n', True),
        ('imports = [\n  "/x/y.toml",\n  "/etc/containerd/config.d/*.toml",\n]\n', True),
        ('# imports = ["/etc/containerd/config.d/*.toml"]\n', False),
        ("imports = []\n", False),
        ('imports = ["/etc/other.d/*.toml"]\n', False),
        ("", False),
    ],
)
def test_sees_whether_the_dropins_are_imported(node: FakeNode, text: str, imports: bool) -> None:
    node.put("etc/containerd/config.toml", text)
    assert containerd.imports_dropins(node.root) is imports


def test_a_daemon_that_is_away_or_missing_is_not_ready(node: FakeNode) -> None:
    assert Containerd(node, "").is_ready()
    node.daemon_ready = False
    assert not Containerd(node, "").is_ready()
    node.missing_programs.add("ctr")
    assert not Containerd(node, "").is_ready()


def test_a_daemon_that_does_not_come_back_is_an_error(node: FakeNode) -> None:
    node.daemon_ready = False
    with pytest.raises(ImageError) as caught:
        Containerd(node, "").restart(Deadline(5, node.clock, node.clock.sleep))
    assert caught.value.code == "containerd_unavailable"
