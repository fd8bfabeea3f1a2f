"""Puts folders of a native node's root on filesystems of their own: disks in files, loop-mounted while the node is down.

The mounts live in the session's mount namespace and end with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.machine import host
from lab.nodes.native import NativeNode

SIZE = "6G"  # sparse: it takes only the space of what is written
MAKE = {"ext4": ["mke2fs", "-q", "-t", "ext4"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}
"""The command that makes a filesystem, by the kernel's name for its kind."""


@contextmanager
def separate(node: NativeNode, folders: Mapping[str, str]) -> Iterator[None]:
    """Moves folders of a running node's root ("" for all of it) to disks of the given kinds, and starts the node again.

    At the end the disks are deleted: the node is down then, and its root is what it was before.
    """
    node.stop()
    with ExitStack() as stack:
        for number, (folder, kind) in enumerate(sorted(folders.items())):
            stack.enter_context(_mounted(node.root / folder, kind, Path(node.state.folder) / f"disk-{number}.img"))
        stack.callback(node.kill)
        node.start()
        yield


@contextmanager
def _mounted(folder: Path, kind: str, image: Path) -> Iterator[None]:
    aside = image.with_suffix(".mnt")
    aside.mkdir()
    host.run(["truncate", "-s", SIZE, str(image)], timeout_s=20)
    host.run([*MAKE[kind], str(image)], timeout_s=120)
    host.run(["mount", "-o", "loop", str(image), str(aside)], timeout_s=60)
    try:
        host.run(["cp", "-a", f"{folder}/.", str(aside)], timeout_s=600)
        host.run(["mount", "--bind", str(aside), str(folder)], timeout_s=20)
        try:
            yield
        finally:
            host.run(["umount", str(folder)], timeout_s=60)
    finally:
        host.run(["umount", str(aside)], timeout_s=120)
        image.unlink()
        aside.rmdir()
