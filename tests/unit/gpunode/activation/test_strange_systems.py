"""Deactivating a layer on a system whose folders, links, mounts, kernels or store were changed since."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, discard
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, ORIGINALS
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store

from tests.kit import layer as layernode
from tests.kit import values as support
from tests.kit.faults import Counter, clone, die, killed_in_child, watched
from tests.kit.layer import BUILT_FROM, LIBRARY, MODULES, REPLACED, REPLACED_LINK, STORE, LayerNode, capture, set_aside, snapshot
from tests.kit.values import KVER, LIBRARIES, LOADER, NEWER, VERSION

Change = Callable[[LayerNode], object]


def a_node_with(folder: Path, before: Change, build: Change) -> tuple[LayerNode, Manifest]:
    """A node that ``before`` changes before its layer is captured, and the layer of a build that also does what ``build`` does."""

    class Node(LayerNode):
        def build(self, *args: Any, **options: Any) -> None:
            super().build(*args, **options)
            build(self)

    node = Node(folder / "root")
    before(node)
    return node, capture(node, folder / "scratch", Node)


@pytest.fixture
def folder() -> Iterator[Path]:
    with layernode.fast_folder() as fast:
        yield fast


def nothing(node: LayerNode) -> None:
    pass


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {path for path in {*before, *after} if before.get(path) != after.get(path)}


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["replaced", "deleted"])
def test_a_folder_comes_back_whose_own_folder_is_gone(folder: Path, kind: str) -> None:
    inner = "usr/share/outer/inner"
    build: Change = {
        "replaced": lambda n: (n.root / inner).chmod(0o2770),
        "deleted": lambda n: shutil.rmtree(n.root / inner),
    }[kind]
    node, layer = a_node_with(folder, lambda n: n.put(f"{inner}/x.conf", "x"), build)
    before = snapshot(node.root)[inner]
    activate.activate(node.root, node, layer)
    shutil.rmtree(node.root / "usr/share/outer")
    deactivate.deactivate(node.root, node)
    assert snapshot(node.root)[inner] == before


def test_a_loop_of_links_where_a_folder_of_the_layer_was_stops_nothing(node: LayerNode, active: activation_record.Activation) -> None:
    shutil.rmtree(node.root / LIBRARIES)
    (node.root / LIBRARIES).symlink_to("lib64")
    deactivate.deactivate(node.root, node)
    assert activation_record.read(node.root) is None
    assert (node.root / LIBRARIES).is_symlink()


def test_a_filesystem_that_is_mounted_on_a_folder_of_the_layer_stays(node: LayerNode, active: activation_record.Activation) -> None:
    folder = node.root / "usr/lib/firmware/nvidia"
    libc = ctypes.CDLL(None)
    if libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, None):
        pytest.skip("mounting takes root")
    try:
        done = deactivate.deactivate(node.root, node)
    finally:
        libc.umount(str(folder).encode())
    assert done.kept == ["/usr/lib/firmware/nvidia: the folder holds something else", "/usr/lib/firmware: the folder holds something else"]


@pytest.mark.parametrize("name", ["chown", "setxattr", "chmod"])
def test_a_folder_that_was_left_between_two_of_its_changes_becomes_what_it_was(name: str) -> None:
    """Setting an access control list also changes the permission bits, so for a moment the mode is neither the old one nor the new one."""
    folder = "usr/share/listed"
    users = [(0x01, 7, -1), (0x02, 7, 44), (0x04, 5, -1), (0x10, 7, -1), (0x20, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *user) for user in users)

    def before(node: LayerNode) -> None:
        node.put(f"{folder}/x", "x")
        (node.root / folder).chmod(0o2755)

    def build(node: LayerNode) -> None:
        (node.root / folder).chmod(0o770)
        os.setxattr(node.root / folder, "system.posix_acl_access", acl)

    with layernode.fast_folder() as fast:
        node, layer = a_node_with(fast, before, build)
        was, real = snapshot(node.root), getattr(os, name)

        def dies(target: Any, *args: Any, **options: Any) -> None:
            real(target, *args, **options)
            if str(target).endswith(folder):
                die()

        def activates() -> None:
            setattr(os, name, dies)
            activate.activate(node.root, node, layer)

        assert killed_in_child(activates)
        deactivate.resume(node.root, node)
        assert differing(was, snapshot(node.root)) == set()


# --- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [False, True], ids=["whole", "but for what is ours"])
def test_a_kernel_that_was_removed_leaves_no_ghost(folder: Path, left: bool) -> None:
    """dpkg does not remove the folder of a removed kernel while the layer's modules are in it."""
    own = f"{MODULES}/kernel/own.ko"

    def before(node: LayerNode) -> None:
        node.put(own, "the kernel's own")
        layernode.depmod(node, [KVER])

    def build(node: LayerNode) -> None:
        (node.root / own).unlink()
        layernode.depmod(node, [KVER])

    node, layer = a_node_with(folder, before, build)
    activate.activate(node.root, node, layer)
    shutil.rmtree(node.root / MODULES / "kernel" if left else node.root / MODULES)
    (node.root / MODULES / "build").unlink(missing_ok=True)
    node.calls.clear()
    done = deactivate.deactivate(node.root, node)
    assert not (node.root / MODULES).exists()
    assert done.kept == []
    assert not [call for call in node.calls if call[0] == "depmod"]


# --- the store -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o700])
def test_an_original_is_put_back_whatever_mode_its_object_has_by_now(
    node: LayerNode, active: activation_record.Activation, mode: int
) -> None:
    before = next(kept.entry for kept in active.originals if kept.entry.path == REPLACED)
    Path(Store(node.root).file(before)).chmod(mode)
    assert deactivate.deactivate(node.root, node).kept == []
    assert (node.root / REPLACED).read_text() == "options system\n"
    assert (node.root / REPLACED).stat().st_mode & 0o7777 == before.mode


def test_an_original_that_is_not_put_back_is_not_lost(node: LayerNode, active: activation_record.Activation) -> None:
    folder = node.root / Path(REPLACED).parent
    folder.rename(node.root / "etc/moved")
    folder.symlink_to("moved")
    before = next(kept.entry for kept in active.originals if kept.entry.path == REPLACED)
    done = deactivate.deactivate(node.root, node)
    assert any(f"what was there before is in /{set_aside(before)}" in word for word in done.kept)
    Store(node.root).collect()
    aside = node.root / set_aside(before)
    assert aside.read_text() == "options system\n"
    assert (aside.stat().st_mode & 0o7777, aside.parent.stat().st_mode & 0o7777) == (0o600, 0o700)


def test_a_link_that_is_not_put_back_is_told(node: LayerNode, active: activation_record.Activation) -> None:
    (node.root / REPLACED_LINK).unlink()
    (node.root / REPLACED_LINK).symlink_to("the-owners.so")
    done = deactivate.deactivate(node.root, node)
    assert [word for word in done.kept if word.endswith("; it was a link to libGL-system.so")] != []


def test_what_was_not_put_back_twice_is_there_twice(folder: Path) -> None:
    node, layer = layernode.a_node(folder)
    for text in ("the owner's, 1", "the owner's, 2"):
        activate.activate(node.root, node, layer)
        (node.root / REPLACED).write_text(text)
        deactivate.deactivate(node.root, node)
        discard.discard(node.root, node, layer.layer)
        layer = capture(node, folder / "again")
    found = {path.read_text() for path in (node.root / ORIGINALS).iterdir()}
    assert found == {"options system\n", "the owner's, 1"}


@pytest.mark.parametrize("what", ["object is a folder", "originals is a file", "name is a folder"])
def test_what_is_in_the_way_of_setting_aside_stops_nothing(node: LayerNode, active: activation_record.Activation, what: str) -> None:
    before = next(kept.entry for kept in active.originals if kept.entry.path == REPLACED)
    if what == "object is a folder":
        Path(Store(node.root).file(before)).unlink()
        Path(Store(node.root).file(before)).mkdir()
    elif what == "originals is a file":
        node.put(ORIGINALS, "a file")
    else:
        (node.root / set_aside(before)).mkdir(parents=True)
    (node.root / REPLACED).write_text("the owner's")
    done = deactivate.deactivate(node.root, node)
    assert [word for word in done.kept if word.startswith(f"/{REPLACED}: ")] == [
        f"/{REPLACED}: its sha256 was changed after the layer was put in place"
    ]
    assert activation_record.read(node.root) is activation_record.read_journal(node.root) is None


def test_a_store_that_cannot_be_swept_is_an_error_with_a_code(
    node: LayerNode, active: activation_record.Activation, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = node.put(f"{STORE}/.activation-journal.json.12.tmp", "")
    unlink = Path.unlink

    def broken(path: Path, missing_ok: bool = False) -> None:
        if path == left:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", broken)
    with pytest.raises(LayerError) as caught:
        deactivate.deactivate(node.root, node)
    assert caught.value.code == "os_error"


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verified", [False, True])
def test_what_an_owner_wrote_through_a_link_stays_also_before_all_was_read(verified: bool) -> None:
    """The object in the store is the same file, so it has the owner's content too."""
    library = "usr/lib/libOpenCL.so.1.0.0"
    with layernode.fast_folder() as fast:
        node, layer = a_node_with(fast, lambda n: n.put(library, "the distribution's"), lambda n: n.put(library, "the driver's"))
        active = activate.activate(node.root, node, layer, hash_user_space=verified)
        assert active.how[library] == "link"
        for path in (library, LIBRARY, BUILT_FROM):
            (node.root / path).write_text("the owner's")
        done = deactivate.deactivate(node.root, node)
        changed = [word.partition(":")[0] for word in done.kept if ": its sha256 was changed after" in word]
        assert {f"/{library}", f"/{LIBRARY}", f"/{BUILT_FROM}"} <= set(changed)
        assert {(node.root / path).read_text() for path in (library, LIBRARY)} == {"the owner's"}
        (before,) = (kept.entry for kept in active.originals if kept.entry.path == library)
        assert (node.root / set_aside(before)).read_text() == "the distribution's"


@pytest.mark.parametrize("owned", [False, True])
def test_a_link_that_led_nowhere_before_stays(folder: Path, owned: bool) -> None:
    link = f"{LOADER}/libcuda.so"

    def before(node: LayerNode) -> None:
        node.link(link, "libcuda.so.1")
        os.utime(node.root / link, (1e9, 1e9), follow_symlinks=False)
        if owned:
            node.put("var/lib/dpkg/info/cuda-dev.list", f"/{link}\n")

    node, layer = a_node_with(folder, before, nothing)
    was = snapshot(node.root)
    activate.activate(node.root, node, layer)
    deactivate.deactivate(node.root, node)
    assert differing(was, snapshot(node.root)) == set()


@pytest.mark.parametrize("how", ["retargeted", "given away"])
def test_a_link_that_is_said_to_stay_stays(node: LayerNode, active: activation_record.Activation, how: str) -> None:
    link = node.root / LIBRARIES / "libcuda.so.1"
    if how == "retargeted":
        link.unlink()
        link.symlink_to(f"../lib64/libcuda.so.{VERSION}")
    elif os.geteuid():
        pytest.skip("only root gives files away")
    else:
        os.lchown(link, 44, 44)
    done = deactivate.deactivate(node.root, node)
    assert [word.partition(": ")[0] for word in done.kept if link.name in word] == [f"/{LIBRARIES}/{link.name}"]
    assert link.is_symlink()


@pytest.mark.parametrize("target", ["./libGL-system.so", "..//lib/libGL-system.so"])
def test_a_links_target_comes_back_byte_for_byte(folder: Path, target: str) -> None:
    def before(node: LayerNode) -> None:
        (node.root / REPLACED_LINK).unlink()
        os.symlink(target, node.root / REPLACED_LINK)  # noqa: PTH211 - a Path would normalise the target

    node, layer = a_node_with(folder, before, nothing)
    activate.activate(node.root, node, layer)
    deactivate.deactivate(node.root, node)
    assert os.readlink(node.root / REPLACED_LINK) == target  # noqa: PTH115 - the same


# --- packages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_packaged", [True, False])
def test_a_packages_own_library_that_the_driver_image_collects_is_no_second_copy(folder: Path, as_packaged: bool) -> None:
    """If a build changes a distribution's library, the contract's overlay collects it, so the layer has a copy of it."""
    library, link = f"{LOADER}/libmenuw.so.1.4", f"{LOADER}/libmenuw.so.1"

    def before(node: LayerNode) -> None:
        node.put(library, "the distribution's")
        node.link(link, "libmenuw.so.1.4")
        layernode.ldconfig(node, [])
        node.put("var/lib/dpkg/info/libncurses6:amd64.list", f"/.\n/{library}\n/{link}\n")
        content = b"the distribution's" if as_packaged else b"another"
        node.put("var/lib/dpkg/info/libncurses6:amd64.md5sums", f"{hashlib.md5(content).hexdigest()}  {library}\n")

    def build(node: LayerNode) -> None:
        node.put(f"{LIBRARIES}/libmenuw.so.1.4", "the distribution's")
        node.link(f"{LIBRARIES}/libmenuw.so.1", "libmenuw.so.1.4")

    node, layer = a_node_with(folder, before, build)
    was = snapshot(node.root)
    activate.activate(node.root, node, layer)
    done = deactivate.deactivate(node.root, node)
    assert done.kept == ([] if as_packaged else [f"/{library}: it is a copy of a file of the layer, and a package owns it"])
    assert differing(was, snapshot(node.root)) == set()


# --- a damaged record ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [pytest.param(7, id="some"), pytest.param(1, id="all", marks=pytest.mark.faults)])
def test_killed_at_any_effect_where_the_record_is_damaged_all_comes_back(node: LayerNode, layer: Manifest, step: int) -> None:
    was = snapshot(node.root)
    activate.activate(node.root, node, layer)
    (node.root / ACTIVATION).write_text("damaged")
    template = node.root.parent / "template"
    clone(node.root, template)
    number = 0
    while True:
        number += step
        root = node.root.parent / "try"
        shutil.rmtree(root, ignore_errors=True)
        clone(template, root)
        if not killed_in_child(lambda root=root, number=number: _taken_away_until(node, root, number)):  # type: ignore[misc]
            break
        node.root = root
        deactivate.deactivate(root, node)
        Store(root).collect()
        assert differing(was, snapshot(root)) == set(), f"killed at {number}"
        assert activation_record.problems(root) == ()
    assert number > 100


def _taken_away_until(node: LayerNode, root: Path, number: int) -> None:
    counted = Counter(number, die)
    for patch in watched(counted):
        patch.start()
    node.root = root
    deactivate.deactivate(root, node)


@pytest.mark.parametrize("at", ["take-away: stage", "take-away: remove", "take-away: end", "never"])
def test_of_layers_for_two_kernels_the_one_that_is_there_goes_first(folder: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers share their user space, so files of each seem to be in place."""

    class Newer(LayerNode):
        def build(self, *args: Any, **options: Any) -> None:
            super().build(kver=NEWER)

    node = LayerNode(folder / "root")
    node.add_kernel(NEWER)
    capture(node, folder / "scratch")
    monkeypatch.setattr(layernode, "MODULES", f"usr/lib/modules/{NEWER}")
    layernode.depmod(node, [NEWER])
    newer = capture(node, folder / "scratch", Newer, who=support.identity(kver=NEWER))
    was = snapshot(node.root)
    activate.activate(node.root, node, newer)
    (node.root / ACTIVATION).write_text("damaged")
    assert killed_in_child(lambda: deactivate.deactivate(node.root, node, lambda line: die() if line == at else None)) == (at != "never")
    deactivate.deactivate(node.root, node)
    assert differing(was, snapshot(node.root)) == set()


def test_a_record_that_is_no_file_is_set_aside_too(node: LayerNode, layer: Manifest) -> None:
    was = snapshot(node.root)
    activate.activate(node.root, node, layer)
    (node.root / ACTIVATION).unlink()
    (node.root / ACTIVATION / "x").mkdir(parents=True)
    deactivate.deactivate(node.root, node)
    assert differing(was, snapshot(node.root)) == set()
    assert (node.root / f"{ACTIVATION}.damaged/x").is_dir()
