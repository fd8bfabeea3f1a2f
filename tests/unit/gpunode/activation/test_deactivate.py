"""Deactivating a captured layer whose files were changed since, on real files below a fake root."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, verify
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store

from tests.kit import layer as layernode
from tests.kit.layer import (
    BUILT_FROM,
    DELETED,
    LIBRARY,
    MODULE,
    MODULES,
    REPLACED,
    SETUID,
    LayerNode,
    capture,
    flip,
    object_of,
    refused,
    remove,
    set_aside,
    snapshot,
)
from tests.kit.node import FABRIC_MANAGER
from tests.kit.values import DROPIN, KVER, LIBRARIES, LOADER, NEWER, VERSION

DKMS_COPY = f"var/lib/dkms/nvidia/{VERSION}/{KVER}/x86_64/module/nvidia.ko"
DKMS_TREE = f"var/lib/dkms/nvidia/{VERSION}"


# --- files that were changed since --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "change", "why"),
    [
        pytest.param(SETUID, lambda p: p.write_text("other"), "its sha256 was changed", id="copy overwritten"),
        pytest.param(SETUID, lambda p: p.chmod(0o755), "its mode was changed", id="copy chmodded"),
        pytest.param(LIBRARY, lambda p: p.write_text("other"), "its sha256 was changed", id="link overwritten in place"),
        pytest.param(BUILT_FROM, lambda p: p.write_text("other"), "its sha256 was changed", id="linked source overwritten in place"),
        pytest.param(LIBRARY, lambda p: p.chmod(0o4755), "its mode was changed", id="link chmodded"),
        pytest.param(f"{LIBRARIES}/libcuda.so.1", lambda p: (p.unlink(), p.symlink_to("x")), "its target was changed", id="other target"),
        pytest.param(REPLACED, lambda p: p.write_text("mine"), "its sha256 was changed", id="replaced and edited"),
        pytest.param(DELETED, lambda p: p.write_text("mine"), "it was created", id="deleted and created again"),
    ],
)
def test_what_the_owner_changed_is_kept_and_named(
    node: LayerNode, layer: Manifest, active: activation_record.Activation, path: str, change: Callable[[Path], object], why: str
) -> None:
    change(node.root / path)
    changed = snapshot(node.root)[path]
    problems = verify.verify(node.root)
    assert path == DELETED or any(path in problem for problem in problems)
    done = deactivate.deactivate(node.root, node)
    kept = {one.entry.path: one.entry for one in active.originals}
    aside = f"; what was there before is in /{set_aside(kept[path])}" if path in (REPLACED, DELETED) else ""
    assert [word for word in done.kept if f"/{path}: " in word] == [f"/{path}: {why} after the layer was put in place{aside}"]
    assert snapshot(node.root)[path] == changed
    assert not (node.root / MODULE).exists()
    assert activation_record.read(node.root) is None


@pytest.mark.parametrize("change", [lambda p: p.chmod(0o4755), lambda p: p.write_text("other")], ids=["chmod", "overwritten"])
def test_an_object_that_was_altered_through_its_link_is_never_placed_again(
    node: LayerNode, layer: Manifest, active: activation_record.Activation, change: Callable[[Path], None]
) -> None:
    change(node.root / MODULE)
    deactivate.deactivate(node.root, node)
    remove(node, MODULE)
    remove(node, DKMS_COPY)
    refused(node, layer, "layer_damaged", "/usr/lib/modules")


def test_active_and_changed_is_an_error_that_names_the_file(node: LayerNode, layer: Manifest, active: activation_record.Activation) -> None:
    (node.root / SETUID).write_text("other")
    with pytest.raises(LayerError, match=SETUID) as caught:
        activate.activate(node.root, node, layer)
    assert caught.value.code == "activation_changed"


def test_a_file_of_somebody_else_keeps_its_folder(node: LayerNode, active: activation_record.Activation) -> None:
    node.put(f"{LIBRARIES}/mine.txt", "mine")
    done = deactivate.deactivate(node.root, node)
    assert (node.root / LIBRARIES / "mine.txt").read_text() == "mine"
    assert f"/{LIBRARIES}: the folder holds something else" in done.kept


def test_a_missing_file_is_no_matter_and_a_missing_replacement_is_restored(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activate.activate(node.root, node, layer)
    remove(node, LIBRARY)
    remove(node, REPLACED)
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def test_nothing_is_removed_behind_a_link(node: LayerNode, active: activation_record.Activation) -> None:
    """The owner moved a folder and put a link to it in its place."""
    (node.root / "srv").mkdir()
    (node.root / LIBRARIES).rename(node.root / "srv/lib64")
    node.link(LIBRARIES, "/srv/lib64")
    (node.root / LIBRARIES).unlink()
    (node.root / LIBRARIES).symlink_to(node.root / "srv/lib64")
    done = deactivate.deactivate(node.root, node)
    assert (node.root / "srv/lib64" / f"libcuda.so.{VERSION}").exists()
    assert any(f"/{LIBRARY}: its folder became a link" in word for word in done.kept)


def test_second_copies_are_not_looked_for_behind_a_link(node: LayerNode, active: activation_record.Activation) -> None:
    """An absolute link in a mounted image leads into the filesystem of the machine that mounted it."""
    elsewhere = node.root.parent / "elsewhere"
    (node.root / LOADER).rename(elsewhere)
    (node.root / LOADER).symlink_to(elsewhere)
    copy = elsewhere / f"libcuda.so.{VERSION}"
    copy.write_bytes((node.root / LIBRARY).read_bytes())
    deactivate.deactivate(node.root, node)
    assert copy.exists()


def test_second_copies_are_found_by_name_and_content(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activate.activate(node.root, node, layer)
    node.initialise_device()
    layernode.ldconfig(node, [])
    other = node.put(f"{LOADER}/other.txt", "other")
    done = deactivate.deactivate(node.root, node)
    assert set(done.second_copies) == {
        f"{LOADER}/{name}" for lib in ("libcuda", "libnvidia-ml") for name in (f"{lib}.so.1", f"{lib}.so.{VERSION}")
    }
    other.unlink()
    after = snapshot(node.root)
    left = {path for path in {*before, *after} if before.get(path) != after.get(path) and after.get(path, (0,))[0] != stat.S_IFDIR}
    assert left == {DROPIN, "usr/lib/udev/rules.d/71-nvidia-dev-char.rules", *FABRIC_MANAGER}


def test_a_second_copy_with_another_content_or_of_a_package_stays(node: LayerNode, active: activation_record.Activation) -> None:
    node.put(f"{LOADER}/libcuda.so.{VERSION}", "another")
    node.put(f"{LOADER}/libnvidia-ml.so.{VERSION}", f"libnvidia-ml {VERSION}")
    node.put("var/lib/dpkg/info/libnvidia-ml1.list", f"/{LOADER}/libnvidia-ml.so.{VERSION}\n")
    done = deactivate.deactivate(node.root, node)
    assert (node.root / LOADER / f"libcuda.so.{VERSION}").exists()
    assert (node.root / LOADER / f"libnvidia-ml.so.{VERSION}").exists()
    assert any("libnvidia-ml" in word and "package owns" in word for word in done.kept)


@pytest.mark.parametrize("fails", [False, True], ids=["built", "a build that failed"])
def test_what_dkms_has_built_from_the_layers_source_goes_with_it(node: LayerNode, layer: Manifest, fails: bool) -> None:
    node.add_kernel(NEWER)
    before = snapshot(node.root)
    activate.activate(node.root, node, layer)
    node.kernel_hook_builds(NEWER)
    if fails:
        node.put(f"{DKMS_TREE}/build/make.log", "error")
        node.link(f"{DKMS_TREE}/build/source", "nowhere")
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before
    assert ["depmod", "-b", str(node.root), NEWER] in node.calls


def test_a_build_anew_for_the_layers_own_kernel_goes_too(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activate.activate(node.root, node, layer)
    node.kernel_hook_builds(KVER)
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def test_another_kernels_module_that_dkms_has_not_built_stays_and_is_named(node: LayerNode, active: activation_record.Activation) -> None:
    theirs = node.kernel_hook_builds(NEWER)[0]
    node.put(theirs, "the owner's")
    done = deactivate.deactivate(node.root, node)
    assert done.kept_paths == {theirs}
    assert (node.root / theirs).read_text() == "the owner's"


def test_a_registration_whose_sources_are_a_packages_now_stays(node: LayerNode, active: activation_record.Activation) -> None:
    """A distribution's DKMS package of the same version uses the same paths, and its files may be equal to ours."""
    source = f"usr/src/nvidia-{VERSION}"
    node.put("var/lib/dpkg/info/nvidia-dkms-580.list", f"/{source}\n/{source}/dkms.conf\n")
    built = node.kernel_hook_builds(NEWER)
    done = deactivate.deactivate(node.root, node)
    stay = {f"{source}/dkms.conf", f"{DKMS_TREE}/source", MODULE, DKMS_COPY, *built}
    assert {path for path in stay if not os.path.lexists(node.root / path)} == set()
    assert done.kept_paths >= stay - {*built}
    assert "updates/dkms/nvidia.ko" in (node.root / MODULES / "modules.dep").read_text()
    assert not (node.root / LIBRARY).exists()


def test_links_that_ldconfig_made_go_with_their_libraries(node: LayerNode, active: activation_record.Activation) -> None:
    node.link(f"{LIBRARIES}/libcuda.so", f"libcuda.so.{VERSION}")
    node.link(f"{LIBRARIES}/libmine.so", "libmine.so.1")
    deactivate.deactivate(node.root, node)
    assert sorted(p.name for p in (node.root / LIBRARIES).iterdir()) == ["libmine.so"]


# --- what cannot be restored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["damaged", "gone"])
@pytest.mark.parametrize("path", [REPLACED, DELETED])
def test_an_original_that_is_lost_is_named_and_all_else_goes(
    node: LayerNode, active: activation_record.Activation, path: str, how: str
) -> None:
    before = snapshot(node.root)
    spoil(node, active, path, how)
    done = deactivate.deactivate(node.root, node)
    reason = "what was there before the layer is missing or damaged in the store, so it is not restored"
    kept = {one.entry.path: one.entry for one in active.originals}
    aside = f"; what is left of it is in /{set_aside(kept[path])}" if how == "damaged" else ""
    assert done.kept == [f"/{path}: {reason}{aside}"]
    after = snapshot(node.root)
    assert after.get(path) == (before[path] if path == REPLACED else None), "the layer's file must stay, and no file may be invented"
    assert not (node.root / MODULE).exists()
    assert activation_record.read(node.root) is activation_record.read_journal(node.root) is None


@pytest.mark.parametrize("how", ["damaged", "gone"])
@pytest.mark.parametrize("path", [f"{MODULES}/modules.dep", "etc/ld.so.cache"])
def test_a_derived_file_that_is_lost_is_made_anew(node: LayerNode, layer: Manifest, path: str, how: str) -> None:
    before = snapshot(node.root)
    spoil(node, activate.activate(node.root, node, layer), path, how)
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def spoil(node: LayerNode, active: activation_record.Activation, path: str, how: str) -> None:
    """Damages or removes the object of a backup."""
    kept = next(kept for kept in active.all_kept if kept.entry.path == path)
    file = Path(Store(node.root).file(kept.entry))
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"x")


def test_a_kernel_that_was_removed_meanwhile_is_not_indexed(node: LayerNode, active: activation_record.Activation) -> None:
    shutil.rmtree(node.root / MODULES)
    node.calls.clear()
    done = deactivate.deactivate(node.root, node)
    assert not node.called("depmod")
    assert not (node.root / MODULES).exists()
    assert (done.kept, (node.root / LIBRARY).exists(), activation_record.read_journal(node.root)) == ([], False, None)


def test_a_file_where_a_folder_was_is_left_and_what_was_in_the_folder_named(node: LayerNode, active: activation_record.Activation) -> None:
    folder = node.root / Path(REPLACED).parent
    shutil.rmtree(folder)
    folder.write_text("the owner's")
    done = deactivate.deactivate(node.root, node)
    assert [word for word in done.kept if f"/{REPLACED}: something else is where its folder was" in word]
    assert folder.read_text() == "the owner's"
    assert activation_record.read(node.root) is activation_record.read_journal(node.root) is None


def test_a_library_that_was_placed_damaged_gives_way_to_the_distributions(tmp_path: Path) -> None:
    """Activates as a boot does, which reads libraries only while the driver container runs."""
    library = "usr/lib/libOpenCL.so.1.0.0"

    class Node(LayerNode):
        def build(self, *arguments: Any, **options: Any) -> None:
            super().build(*arguments, **options)
            self.put(library, "the driver's")

    node = Node(tmp_path / "root")
    node.put(library, "the distribution's")
    layer = capture(node, tmp_path / "scratch", Node)
    before = snapshot(node.root)
    flip(object_of(node, layer, library))
    activate.activate(node.root, node, layer, hash_user_space=False)
    done = deactivate.deactivate(node.root, node)
    assert (done.kept, snapshot(node.root)) == ([], before)
