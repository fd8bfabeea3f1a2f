"""A layer that the node activates, and one that the bake activated in the image, each booted with a GPU and managed: the same end."""

from __future__ import annotations

from lab.builds import bakedimage
from tests.compare.comparison import Excuse, compare, note, report, setuid
from tests.compare.nodes import Managed

CONTAINERD = "var/lib/containerd/io.containerd"

# Nothing else is excused, and each must excuse something.
EXCUSES = (
    Excuse("var/lib/gpu-prebake/*", ("added", "missing", "content"), "the store, and records of what was done when"),
    Excuse("var/lib/dkms/nvidia/*/log/make.log", ("content",), "logs: DKMS's, with times"),
    Excuse("var/log/gpu-prebake/*", ("added", "missing", "content"), "logs: ours"),
    Excuse("var/log/dpkg.log", ("content",), "logs: times of the container's packages"),
    Excuse("var/log/journal/*", ("added", "missing"), "logs: the journal, by machine id"),
    Excuse("var/log/lastlog", ("content",), "logs: times of logins"),
    Excuse("var/log/wtmp", ("content",), "logs: times of logins"),
    Excuse("var/cache/ldconfig/aux-cache", ("content",), "cache: by inode and time"),
    Excuse("etc/machine-id", ("content",), "machine id: made on the first boot"),
    Excuse("var/lib/systemd/random-seed", ("content",), "random seed: written at power-off"),
    Excuse(f"{CONTAINERD}.grpc.v1.introspection/uuid", ("content",), "containerd's own: a random id of its own"),
    Excuse(f"{CONTAINERD}.metadata.v1.bolt/meta.db", ("content",), "containerd's own: times"),
    Excuse(f"{CONTAINERD}.snapshotter.v1.overlayfs/metadata.db", ("content",), "containerd's own: times"),
    # The garbage collector removes it; if containerd was restarted first, it stays until the next snapshot is removed.
    Excuse(
        f"{CONTAINERD}.snapshotter.v1.overlayfs/snapshots/*",
        ("added", "missing"),
        "containerd's own: the folder of a removed snapshot",
        by_chance=True,
    ),
)
LIVE = ("modules", "dkms", "libraries", "units", "running", "devices", "packages")


def test_both_nodes_use_what_was_baked(managed: dict[str, Managed]) -> None:
    for node in managed.values():
        result = node.boot.result
        assert (result["action"], result["result"], result["reason_code"]) == ("install-skip-build", "fast", "baked_layer_matches")
        assert "nvidia" in node.boot.node["modules"].split()


def test_both_nodes_have_the_same_modules_registrations_libraries_and_units(image: str, managed: dict[str, Managed]) -> None:
    captured, in_place = (managed[mode].live for mode in (bakedimage.CAPTURED, bakedimage.IN_PLACE))
    for name in LIVE:
        assert captured[name].splitlines() == in_place[name].splitlines(), name
        assert in_place[name] != ""
    note([f"{image}: captured and in place, managed: the same {', '.join(LIVE)}"])


def test_the_whole_filesystem_is_the_same(image: str, managed: dict[str, Managed]) -> None:
    captured, in_place = (managed[mode].files for mode in (bakedimage.CAPTURED, bakedimage.IN_PLACE))
    found = compare(in_place, captured, EXCUSES)
    report(f"{image}: captured, against in place; each booted with a GPU and managed", found)
    assert found.left == ()
    assert found.idle == (), "excuses nothing: remove it from the list"
    assert "usr/bin/nvidia-modprobe" in setuid(captured)
    assert setuid(captured) == setuid(in_place)
