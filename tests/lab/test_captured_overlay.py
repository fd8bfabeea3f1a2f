"""Captured layers against the kernel's own overlay: whatever is changed in it, the activated layer makes the same changes on a copy.

Overlays and filesystems are real, on loop devices of this session; the node is a fake, and so are the changes of a driver's build.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, discard, verify
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import overlay_diff, sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.sandbox import Sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers, manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, objects_of

from tests.kit import layer as layernode
from tests.kit import values as support
from tests.kit.layer import MODULE, LayerNode, snapshot
from tests.kit.values import KVER
from tests.lab.test_activation_filesystems import CAPABILITY, do, mounted

TOP = "usr/share/vulkan"
NAMES = ["a", "b", "c d", "e\nf", os.fsdecode(b"\xff")]
# Version 2 of posix_acl_xattr.h: user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r--.
ACCESS = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, mode, who)
    for tag, mode, who in ((1, 6, 0xFFFFFFFF), (2, 6, 1000), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF))
)


class Overlaid:
    """A node, and an overlay over its root like that of a sandbox."""

    def __init__(self, folder: Path) -> None:
        self.node = LayerNode(folder / "root")
        self.merged, self.upper, work = folder / "merged", folder / "upper", folder / "work"
        for path in (self.merged, self.upper, work):
            path.mkdir()
        for path in ("a", "b/a", "b/b/c d", "c d/a"):
            self.node.put(f"{TOP}/{path}", f"the distribution's {path}")
        self.before = snapshot(self.node.root)
        do(
            "mount",
            "-t",
            "overlay",
            "o",
            "-o",
            f"{sandbox._OPTIONS},lowerdir={self.node.root},upperdir={self.upper},workdir={work}",
            str(self.merged),
        )

    def changes_a_kind(self) -> bool:
        """Whether a folder has become something else, or something else a folder."""
        root = self.node.root
        was = {p.relative_to(root): p.is_dir() and not p.is_symlink() for p in (root / TOP).rglob("*")}
        now = {path: self.merged / path for path in was if os.path.lexists(self.merged / path)}
        return any((p.is_dir() and not p.is_symlink()) != was[path] for path, p in now.items())

    def capture(self) -> manifest.Manifest:
        (self.merged / MODULE).parent.mkdir(parents=True, exist_ok=True)
        (self.merged / MODULE).write_text("module")
        found = overlay_diff.read(self.node.root, Sandbox(os.getpid(), self.merged, {"": self.upper}), KVER)
        layer = support.manifest(stored=True, files=found.files, replaced=found.replaced, deleted=found.deleted, originals=found.originals)
        store = Store(self.node.root)
        for entry in objects_of(layer):
            store.put(self.merged / entry.path, entry)
        layers.write(self.node.root, layer)
        return layer


@pytest.fixture
def overlaid(tmp_path: Path) -> Iterator[Overlaid]:
    with mounted("ext4", tmp_path / "disk", tmp_path / "mnt"):
        made = Overlaid(tmp_path / "mnt")
        try:
            yield made
        finally:
            do("umount", str(made.merged))


def change(merged: Path, chance: random.Random) -> None:
    """Makes one random change that a driver's build could make to a path."""
    there = sorted(p for p in (merged / TOP).rglob("*") if not p.is_symlink())
    path = chance.choice(there or [merged / TOP / "a"])
    if chance.random() < 0.3:
        path = path.with_name(chance.choice(NAMES))
    impossible = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, shutil.Error)
    with contextlib.suppress(*impossible):  # with what is at this path
        CHANGES[chance.choice(sorted(CHANGES))](path)


def again(path: Path) -> None:
    """Like ``rm -r`` and ``mkdir -p``: overlayfs marks the topmost new folder as opaque, and none below it."""
    if path.is_dir() and not path.is_symlink():
        inside = [p.relative_to(path) for p in path.rglob("*") if p.is_dir() and not p.is_symlink()]
        shutil.rmtree(path)
        path.mkdir()
        for folder in inside:
            (path / folder).mkdir(parents=True, exist_ok=True)
            (path / folder / "new").write_text("new")


def move(path: Path) -> None:
    shutil.move(path, path.with_name("moved"))


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def fold(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("x")


CHANGES = {
    "access list": lambda p: os.setxattr(p, "system.posix_acl_access", ACCESS) if p.is_file() else None,
    "again": again,
    "capability": lambda p: os.setxattr(p, "security.capability", CAPABILITY) if p.is_file() else None,
    "folder": fold,
    "hard link": lambda p: os.link(p, p.with_name("hard")),
    "link": to_link,
    "mode": lambda p: p.chmod(0o4711),
    "move": move,
    "new link": lambda p: p.symlink_to("a"),
    "owner": lambda p: os.chown(p, 5, 7, follow_symlinks=False),
    "remove": lambda p: shutil.rmtree(p) if p.is_dir() and not p.is_symlink() else p.unlink(),
    "write": lambda p: p.write_text("the driver's"),
}


@pytest.mark.parametrize("seed", range(40))
def test_the_activated_layer_equals_what_the_overlay_showed(overlaid: Overlaid, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 12)):
        change(overlaid.merged, chance)
    if overlaid.changes_a_kind():
        with pytest.raises(BuildError, match="such a change cannot be part of a layer"):
            overlaid.capture()
        return
    layer = overlaid.capture()
    shown = snapshot(overlaid.merged)
    node = overlaid.node
    activate.activate(node.root, node, layer)
    node_has = snapshot(node.root)
    layernode.depmod(node, [KVER])
    for path in (MODULE, *(p for p in {**shown, **node_has} if p.startswith(TOP))):
        assert node_has.get(path) == shown.get(path), path
    assert verify.verify(node.root) == ()
    assert deactivate.deactivate(node.root, node).kept == []
    after = snapshot(node.root)
    assert {p for p in {**after, **overlaid.before} if after.get(p) != overlaid.before.get(p) and "modules." not in p} == set()
    assert discard.discard(node.root, node, layer.layer)
