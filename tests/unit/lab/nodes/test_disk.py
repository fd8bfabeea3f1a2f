"""The size of a disk, from the space that its root takes."""

from __future__ import annotations

from pathlib import Path

from lab.nodes import disk
from lab.nodes.disk import BYTES_PER_INODE, Usage

MIB = 1 << 20


def test_measures_blocks_and_counts_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 5000)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "folder").mkdir()
    assert disk.measure(tmp_path).inodes == 3


def test_leaves_the_requested_free_space() -> None:
    size = disk.filesystem_bytes(Usage(1000 * MIB, 1000), 500 * MIB)
    assert size % MIB == 0
    assert 1600 * MIB < size < 1750 * MIB


def test_has_inodes_for_many_small_files() -> None:
    usage = Usage(100 * MIB, 1_000_000)
    assert disk.filesystem_bytes(usage, 0) // BYTES_PER_INODE > usage.inodes
