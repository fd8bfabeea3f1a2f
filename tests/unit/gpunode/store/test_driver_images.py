"""The list of driver images: written before a pull, so that each image that we brought is found again and dropped when nothing needs it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.pull import Tries
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError, ImageError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import DRIVER_IMAGES, LAYERS, NODE_RECORD, STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import driver_images, layers, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.driver_images import DriverImages
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit import faults
from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import IMAGE, a_record, digest, manifest

MIRROR = IMAGE.replace("registry.lab:5000", "mirror.lab")
OTHER = IMAGE.replace("580.126.09", "580.159.04")
THEIRS = "registry.k8s.io/pause:3.9"


def fetch(node: FakeNode, image: str = IMAGE, pull: str | None = None) -> bool:
    wanted = reference.wanted(image, pull)
    return driver_images.fetch(node.root, Containerd(node), wanted, Deadline(600, node.clock, node.clock.sleep), tries=Tries(1))


def drop(node: FakeNode, *wanted: str) -> str:
    return driver_images.drop_unneeded(node.root, Containerd(node), wanted)[1]


def listed(node: FakeNode) -> DriverImages:
    return driver_images.read(node.root)


@pytest.fixture
def bare(node: FakeNode) -> FakeNode:
    """A node whose containerd has one image, which is not ours."""
    node.images.clear()
    node.add_image(THEIRS)
    return node


def test_what_is_fetched_is_listed_by_all_its_names(bare: FakeNode) -> None:
    assert fetch(bare, pull=MIRROR)
    assert listed(bare) == DriverImages((IMAGE, MIRROR))
    assert not fetch(bare, pull=MIRROR)
    assert (bare.root / DRIVER_IMAGES).stat().st_mode & 0o777 == 0o600


def test_an_image_that_was_there_is_not_ours(bare: FakeNode) -> None:
    bare.add_image(IMAGE)
    assert not fetch(bare)
    driver_images.pin(bare.root, Containerd(bare), IMAGE)
    assert (listed(bare), bare.pinned) == (DriverImages((), (IMAGE,)), {IMAGE})
    assert drop(bare, OTHER) == ""
    assert (set(bare.images), bare.pinned, listed(bare)) == ({THEIRS, IMAGE}, set(), DriverImages())


def test_what_somebody_else_has_pinned_stays_pinned(bare: FakeNode) -> None:
    bare.add_image(IMAGE)
    bare.pinned.add(IMAGE)
    driver_images.pin(bare.root, Containerd(bare), IMAGE)
    assert drop(bare, OTHER) == ""
    assert (bare.pinned, listed(bare)) == ({IMAGE}, DriverImages())


def test_a_fetch_that_fails_leaves_nothing(bare: FakeNode) -> None:
    before = bare.tree()
    bare.pulls = [Reply(1, err="ctr: 404 Not Found\n")]
    with pytest.raises(ImageError):
        fetch(bare)
    assert bare.tree() == before
    assert not (bare.root / STORE).exists()


def layer(node: FakeNode) -> None:
    layers.write(node.root, manifest(stored=True))


def record(node: FakeNode) -> None:
    node_record.write(node.root, a_record())


@pytest.mark.parametrize(
    ("names_it", "wanted"),
    [
        pytest.param(layer, (OTHER,), id="a layer"),
        pytest.param(record, (OTHER,), id="the node record"),
        pytest.param(lambda node: None, (OTHER, IMAGE), id="the caller"),
        pytest.param(lambda node: node.put(f"{LAYERS}/x/manifest.json", "{"), (OTHER,), id="perhaps a damaged layer"),
        pytest.param(lambda node: node.put(NODE_RECORD, "{"), (OTHER,), id="perhaps a damaged record"),
    ],
)
def test_an_image_that_is_named_stays_by_all_its_names(
    bare: FakeNode, names_it: Callable[[FakeNode], object], wanted: tuple[str, ...]
) -> None:
    fetch(bare, pull=MIRROR)
    names_it(bare)
    assert drop(bare, *wanted) == ""
    assert {IMAGE, MIRROR} <= set(bare.images)
    assert listed(bare).pulled == (IMAGE, MIRROR)


def test_what_nothing_names_is_dropped_and_nothing_else(bare: FakeNode) -> None:
    for image in (IMAGE, OTHER):
        fetch(bare, image, image.replace("registry.lab:5000", "mirror.lab"))
        driver_images.pin(bare.root, Containerd(bare), image)
    del bare.images[MIRROR]  # somebody has removed this name
    assert drop(bare, OTHER) == ""
    assert set(bare.images) == {THEIRS, OTHER, OTHER.replace("registry.lab:5000", "mirror.lab")}
    assert bare.pinned == {OTHER}
    assert IMAGE not in listed(bare).names
    assert MIRROR not in listed(bare).names


def test_nothing_is_asked_where_all_is_needed(bare: FakeNode) -> None:
    fetch(bare)
    bare.calls.clear()
    assert drop(bare, IMAGE) == ""
    assert bare.calls == []


def test_what_cannot_be_dropped_is_said_and_stays_listed(bare: FakeNode) -> None:
    fetch(bare)
    bare.daemon_ready = False
    assert "old driver images stay in containerd until the next run" in drop(bare, OTHER)
    assert listed(bare).pulled == (IMAGE,)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 1, "pulled": [7], "pinned": []}', '{"schema": 1, "pulled": {}, "pinned": []}', '{"schema": 1}']
)
def test_a_damaged_list_is_replaced_by_the_next_fetch(bare: FakeNode, text: str) -> None:
    bare.put(DRIVER_IMAGES, text)
    with pytest.raises(DataError) as caught:
        listed(bare)
    assert caught.value.code == "images_invalid"
    assert drop(bare, OTHER) == ""
    assert fetch(bare)
    assert listed(bare).pulled == (IMAGE,)


def test_the_list_of_a_newer_version_is_left_alone(bare: FakeNode) -> None:
    text = json.dumps({"schema": 2, "images": {}})
    bare.put(DRIVER_IMAGES, text)
    assert fetch(bare)
    assert (bare.root / DRIVER_IMAGES).read_text() == text


class Killed(BaseException):
    """The process was killed: what it still does has no effect."""


class Killing:
    """Kills at effect number ``last``: a change of a file, or a call of ``ctr``."""

    def __init__(self, node: FakeNode, last: int) -> None:
        self.last = last
        self.count = 0
        self.run = node.run

    def __call__(self, *_: Any) -> None:
        self.count += 1
        if self.count >= self.last:
            raise Killed

    def runs(self, *args: Any, **options: Any) -> Any:
        self()
        found = self.run(*args, **options)
        self()
        return found


def killed_at(node: FakeNode, last: int, work: Callable[[], object]) -> bool:
    """Does ``work`` until it is killed; returns whether it was."""
    killing = Killing(node, last)
    with contextlib.ExitStack() as stack:
        for patch in faults.watched(killing):
            stack.enter_context(patch)
        node.run = killing.runs  # type: ignore[method-assign]
        try:
            work()
        except Killed:
            pass
        finally:
            node.run = killing.run  # type: ignore[method-assign]
    return killing.count >= last


def test_killed_anywhere_no_image_is_lost_or_kept_for_ever(tmp_path: Path) -> None:
    """Fetches an image and drops an old one, killed at each effect, then does both again."""
    number, was_killed = 0, True
    while was_killed:
        number += 1
        node = FakeNode(tmp_path / f"{number}")
        node.images.clear()
        node.add_image(THEIRS)
        fetch(node, OTHER)

        def both(node: FakeNode = node) -> None:
            fetch(node, pull=MIRROR)
            driver_images.pin(node.root, Containerd(node), IMAGE)
            assert drop(node, IMAGE) == ""

        was_killed = killed_at(node, number, both)
        assert set(node.images) - {THEIRS} <= set(listed(node).names), number
        both()
        assert set(node.images) == {THEIRS, IMAGE, MIRROR}
        assert (node.pinned, set(listed(node).names)) == ({IMAGE}, {IMAGE, MIRROR})
        assert node.images[THEIRS] == digest(f"index {THEIRS}")
    assert number > 15
