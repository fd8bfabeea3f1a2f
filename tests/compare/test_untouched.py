"""A captured bake against the same preparation without a bake: apart from the store, the images are the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.builds import bakedimage
from tests.compare import nodes
from tests.compare.comparison import Excuse, compare, report
from tests.lab.snapshot import difference

CONTAINERD = "var/lib/containerd/io.containerd"

# Nothing else is excused, and each must excuse something.
EXCUSES = (
    Excuse("var/lib/gpu-prebake", ("added",), "the store"),
    Excuse("var/lib/gpu-prebake/*", ("added",), "the store"),
    Excuse("var/log/gpu-prebake", ("added",), "logs: the bake's own"),
    Excuse("var/log/gpu-prebake/*", ("added",), "logs: the bake's own"),
    Excuse("var/log/journal/*", ("added", "missing"), "logs: the journal, by machine id"),
    Excuse("var/log/lastlog", ("content",), "logs: times of logins"),
    Excuse("var/log/wtmp", ("content",), "logs: times of logins"),
    Excuse("etc/machine-id", ("content",), "machine id: made on the first boot"),
    Excuse("var/lib/systemd/random-seed", ("content",), "random seed: written at power-off"),
    Excuse(f"{CONTAINERD}.grpc.v1.introspection/uuid", ("content",), "containerd's own: a random id of its own"),
    Excuse(f"{CONTAINERD}.metadata.v1.bolt/meta.db", ("content",), "containerd's own: times"),
    Excuse(f"{CONTAINERD}.snapshotter.v1.overlayfs/metadata.db", ("content",), "containerd's own: times"),
    Excuse(f"{CONTAINERD}.runtime.v2.task/k8s.io", ("added",), "containerd's own: the empty folder of a namespace that has had a task"),
)
PLANTED = {
    "etc/cron.d/planted": "added",
    "etc/hostname": "content",
    "usr/bin/env": "mode",
    "usr/bin/gzip": "missing",
    "usr/lib/modules-load.d": "owner",
    "usr/sbin/init": "content",
    "var/lib/dpkg/status": "attributes",
    "var/log/faillog": "type, device, content",
}


def plant(root: Path) -> None:
    """Makes one change of each kind, as listed in PLANTED."""
    (root / "etc/cron.d/planted").write_text("")
    (root / "etc/hostname").write_text("planted\n")
    (root / "usr/bin/env").chmod(0o4755)
    (root / "usr/bin/gzip").unlink()
    os.chown(root / "usr/lib/modules-load.d", 1, 0)
    (root / "usr/sbin/init").unlink()
    (root / "usr/sbin/init").symlink_to("/lib/planted")
    os.setxattr(root / "var/lib/dpkg/status", "user.planted", b"1")
    (root / "var/log/faillog").unlink()
    os.mknod(root / "var/log/faillog", 0o020644, os.makedev(1, 3))


@pytest.fixture(scope="module")
def files(image: str) -> dict[str, nodes.Files]:
    """The files of both images after a boot without a GPU, left alone; and those of the captured one after `plant`."""
    disks = {"captured": bakedimage.bake(image, mode=bakedimage.CAPTURED).disk, "prepared": bakedimage.prepare(image)}

    def run(which: str) -> tuple[nodes.Files, nodes.Files]:
        then = plant if which == "captured" else lambda _: None
        return nodes.left_alone(f"compare-{which}-{image}", disks[which], then)

    (captured, planted), (prepared, _) = nodes.side_by_side(run, ("captured", "prepared"))
    return {"captured": captured, "prepared": prepared, "planted": planted}


def test_a_captured_bake_leaves_nothing_outside_the_store(image: str, files: dict[str, nodes.Files]) -> None:
    found = compare(files["prepared"], files["captured"], EXCUSES)
    report(f"{image}: captured, against prepared and not baked; each booted without a GPU and left alone", found)
    assert found.left == ()
    assert found.idle == (), "excuses nothing: remove it from the list"
    store = files["captured"]["var/lib/gpu-prebake"]
    assert (store.mode, store.owner) == (0o700, (0, 0))


def test_planted_differences_are_found(files: dict[str, nodes.Files]) -> None:
    assert difference(files["captured"], files["planted"]) == sorted(PLANTED)
    found = compare(files["prepared"], files["planted"], EXCUSES)
    assert dict(line.split(": ") for line in found.left) == PLANTED
