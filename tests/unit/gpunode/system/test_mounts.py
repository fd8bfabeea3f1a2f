"""The mount table."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import mounts

from tests.kit.node import FakeNode
from tests.kit.values import DATA

TABLE = (DATA / "mounts/mountinfo-after-killed-build.txt").read_text(encoding="utf-8")


def test_reads_mountinfo() -> None:
    found = {m.point: m for m in mounts.parse(TABLE)}
    assert found["/"].fstype == "ext4"
    assert found["/mnt/a b"].source == "/dev/sdb1"
    assert len(found) == len(TABLE.splitlines()) - 2  # one line is cut off, one point is there twice


def test_only_the_contracts_mounts_are_taken_newest_first() -> None:
    assert [m.point for m in mounts.left_by_container(mounts.parse(TABLE))] == [
        "/usr/lib/x86_64-linux-gnu",
        "/tmp/overlay",
        "/opt/gpu",
    ]


def test_unmounts_lazily(node: FakeNode) -> None:
    points = mounts.unmount(node, mounts.left_by_container(mounts.parse(TABLE)))
    assert [argv[-1] for argv in node.called("umount", "-l")] == list(points)


def test_the_live_table_can_be_read() -> None:
    assert any(m.point == "/" for m in mounts.current()) or not Path("/proc/self/mountinfo").exists()
