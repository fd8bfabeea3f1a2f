"""Activation on real filesystems: what is linked, cloned or copied, and what happens if one fills up or becomes read-only halfway.

The node is a fake (its depmod and ldconfig too); its filesystems are real, on loop devices of this session.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, discard, verify
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import setuid, tree

from tests.kit import layer as layernode
from tests.kit.layer import LIBRARY, MODULE, REPLACED, SETUID, LayerNode, snapshot

# Version 2 of struct vfs_cap_data (capability.h): effective, CAP_NET_ADMIN.
CAPABILITY = bytes.fromhex("0100000200100000000000000000000000000000")
LARGE = 300_000
PROGRAM = "usr/bin/nvidia-smi"


class LargeNode(LayerNode):
    """A layer whose payload is large enough to be cloned; a program has a capability, a file another group, a folder a special mode."""

    def build(self, *args: Any, **options: Any) -> None:
        super().build(*args, **options)
        self.put(LIBRARY, "x" * LARGE)
        os.setxattr(self.root / PROGRAM, "security.capability", CAPABILITY)
        os.chown(self.root / MODULE, 0, 5)
        (self.root / "opt/azure/aks-gpu").chmod(0o2750)


def do(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_the_seal_also_reads_a_usr_on_its_own_filesystem(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path / "disk", tmp_path / "root/usr"):
        program = tmp_path / "root/usr/bin/evil"
        program.parent.mkdir()
        program.touch(0o755)
        program.chmod(0o4755)
        assert setuid.setuid(tmp_path / "root") == ("usr/bin/evil",)


@contextmanager
def mounted(kind: str, image: Path, at: Path) -> Iterator[None]:
    """Mounts a new filesystem of 400 MB, on a file."""
    with image.open("wb") as stream:
        stream.truncate(400 << 20)
    quiet = {"ext4": ["-q", "-F"], "xfs": ["-q"], "btrfs": ["-q"]}[kind]
    do(f"mkfs.{kind}", *quiet, str(image))
    at.mkdir(parents=True, exist_ok=True)
    do("mount", "-o", "loop", str(image), str(at))
    try:
        yield
    finally:
        do("umount", "-R", str(at))
        image.unlink()


@contextmanager
def mounted_inside(root: Path, folder: str, *options: str) -> Iterator[Path]:
    """Mounts something over a folder of the node, and copies what was in the folder to it."""
    at, copy = root / folder, root.parent / "copy"
    shutil.copytree(at, copy, symlinks=True)
    do("mount", *options, str(at))
    if not any(at.iterdir()):
        shutil.copytree(copy, at, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(copy)
    try:
        yield at
    finally:
        do("umount", str(at))


def prepared(folder: Path) -> tuple[LargeNode, Manifest]:
    node = LargeNode(folder / "root")
    return node, layernode.capture(node, folder / "scratch", kind=LargeNode)


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with mounted(request.param, tmp_path / "image", tmp_path / "disk"):
        yield request.param, tmp_path / "disk"


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    with mounted("ext4", tmp_path / "image", tmp_path / "disk"):
        yield tmp_path / "disk"


def test_a_layer_is_activated_and_deactivated_on_each_kind_of_filesystem(disk: tuple[str, Path]) -> None:
    kind, folder = disk
    node, layer = prepared(folder)
    before = snapshot(node.root)
    active = activate.activate(node.root, node, layer)
    assert tree.problems(node.root, layer.files) == ()
    assert os.getxattr(node.root / PROGRAM, "security.capability") == CAPABILITY
    assert (node.root / MODULE).stat().st_gid == 5
    assert (node.root / "opt/azure/aks-gpu").stat().st_mode & 0o7777 == 0o2750
    assert (node.root / SETUID).stat().st_mode & 0o7777 == 0o4755
    ways = (active.how[LIBRARY], active.how[MODULE], active.how[SETUID])
    assert ways == (("link", "link", "copy") if kind == "ext4" else ("reflink", "copy", "copy"))
    if kind != "ext4":
        do("sync", "-f", str(folder))
        assert "shared" in do("filefrag", "-v", str(node.root / LIBRARY))
    assert verify.verify(node.root) == ()
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before
    assert discard.discard(node.root, node, layer.layer)
    assert layernode.store_files(node.root) == set()


def test_what_is_on_another_filesystem_is_copied(ext4: Path) -> None:
    node, layer = prepared(ext4)
    with mounted_inside(node.root, "usr", "-t", "tmpfs", "tmpfs"):
        before = snapshot(node.root)
        active = activate.activate(node.root, node, layer)
        assert {active.how[path] for path in (LIBRARY, MODULE, SETUID)} == {"copy"}
        assert tree.problems(node.root, layer.files) == ()
        deactivate.deactivate(node.root, node)
        assert snapshot(node.root) == before


def test_what_is_below_a_bind_mount_of_the_same_filesystem_is_copied_too(ext4: Path) -> None:
    node, layer = prepared(ext4)
    with mounted_inside(node.root, "usr/bin", "--bind", str(node.root / "usr/bin")):
        before = snapshot(node.root)
        active = activate.activate(node.root, node, layer)
        assert (active.how[LIBRARY], active.how[MODULE]) == ("copy", "link")
        deactivate.deactivate(node.root, node)
        assert snapshot(node.root) == before


def test_a_filesystem_that_is_too_small_is_reported_before_anything_changes(ext4: Path) -> None:
    node, layer = prepared(ext4)
    with mounted_inside(node.root, "usr", "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        before = snapshot(node.root)
        with pytest.raises(LayerError, match="MB are needed") as caught:
            activate.activate(node.root, node, layer)
        assert caught.value.code == "no_space"
        assert snapshot(node.root) == before


def at(step: str, work: Callable[[], object]) -> Callable[[str], None]:
    """Calls ``work`` when an activation announces ``step``."""

    def say(line: str) -> None:
        if line == step:
            work()

    return say


def test_an_activation_whose_filesystem_fills_up_is_rolled_back(ext4: Path) -> None:
    node, layer = prepared(ext4)
    with mounted_inside(node.root, "usr", "-t", "tmpfs", "-o", "size=20m", "tmpfs"):
        before = snapshot(node.root)
        filler = node.root / "usr/filler"

        def fill() -> None:
            with filler.open("wb", buffering=0) as stream:
                free = os.statvfs(filler).f_bavail * os.statvfs(filler).f_frsize
                os.posix_fallocate(stream.fileno(), 0, free)

        with pytest.raises(LayerError, match="No space") as caught:
            activate.activate(node.root, node, layer, at("activate: stage", fill))
        assert caught.value.code == "no_space"
        filler.unlink()
        assert snapshot(node.root) == before
        assert activation_record.read_journal(node.root) is None
        activate.activate(node.root, node, layer)


@pytest.mark.parametrize("step", ["activate: stage", "activate: place", "activate: register", "activate: record"])
def test_an_activation_whose_filesystem_becomes_read_only_is_rolled_back_once_it_is_writable(ext4: Path, step: str) -> None:
    node, layer = prepared(ext4)
    before = snapshot(node.root)
    with pytest.raises(LayerError, match="Read-only") as caught:
        activate.activate(node.root, node, layer, at(step, lambda: do("mount", "-o", "remount,ro", str(ext4))))
    assert caught.value.code == "activation_unfinished"
    do("mount", "-o", "remount,rw", str(ext4))
    deactivate.resume(node.root, node)
    assert snapshot(node.root) == before
    activate.activate(node.root, node, layer)
    assert (node.root / REPLACED).read_text() == "options nvidia\n"
