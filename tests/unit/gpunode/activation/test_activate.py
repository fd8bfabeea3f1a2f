"""Activating a captured layer, on real files below a fake root."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate, discard, staging, verify
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import CommandError, LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, ACTIVATION_JOURNAL, LOGS
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import ProgressLog

from tests.kit import layer as layernode
from tests.kit.layer import (
    BUILT_FROM,
    DELETED,
    DELETED_FOLDER,
    LIBRARY,
    MODULE,
    MODULES,
    REPLACED,
    REPLACED_LINK,
    SETUID,
    SHARED_FOLDER,
    LayerNode,
    alter,
    capture,
    flip,
    object_of,
    refused,
    remove,
    snapshot,
)
from tests.kit.reply import Reply
from tests.kit.values import KVER, LIBRARIES, MACHINE, VERSION

DKMS_COPY = f"var/lib/dkms/nvidia/{VERSION}/{KVER}/x86_64/module/nvidia.ko"
DKMS_TREE = f"var/lib/dkms/nvidia/{VERSION}"


# --- activated and deactivated -----------------------------------------------------------------------------------------


def test_activation_puts_exactly_the_layer_in_place(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activate.activate(node.root, node, layer)
    assert tree.problems(node.root, layer.files) == ()
    after = snapshot(node.root)
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    derived = {index.path for index in layer.indexes} | {"etc/ld.so.cache"}
    assert changed == {entry.path for entry in layer.files} | set(layer.deleted) | derived
    assert set(layer.deleted) == {DELETED, DELETED_FOLDER, f"{DELETED_FOLDER}/sub", f"{DELETED_FOLDER}/sub/old.conf"}
    assert stat.S_IMODE((node.root / SETUID).stat().st_mode) == 0o4755
    assert not (node.root / ACTIVATION_JOURNAL).exists()


def test_deactivation_leaves_the_node_as_it_was(node: LayerNode, layer: Manifest) -> None:
    before, times = snapshot(node.root), (node.root / REPLACED).stat().st_mtime_ns
    kept_before = layernode.store_files(node.root)
    activate.activate(node.root, node, layer)
    done = deactivate.deactivate(node.root, node)
    assert snapshot(node.root) == before
    assert (node.root / REPLACED).stat().st_mtime_ns == times
    assert (done.layer, done.kept, done.second_copies) == (layer.layer, [], [])
    assert {REPLACED, REPLACED_LINK, DELETED} <= set(done.restored)
    assert MODULE in done.removed
    assert layernode.store_files(node.root) == kept_before


def test_the_record_says_what_was_done(node: LayerNode, layer: Manifest, active: activation_record.Activation) -> None:
    assert activation_record.read(node.root) == active
    assert (active.layer, active.identity, active.machine_id, active.verified) == (layer.layer, layer.identity, MACHINE, True)
    assert {kept.entry.path for kept in active.originals} == {REPLACED, REPLACED_LINK, SHARED_FOLDER, *layer.deleted}
    assert LIBRARIES in active.folders
    assert "etc" not in active.folders
    assert active.placed[-1].path == f"var/lib/dkms/nvidia/kernel-{KVER}-x86_64"
    assert {(d.program, d.swapped) for d in active.derived} == {("depmod", True), ("ldconfig", False)}
    assert (node.root / ACTIVATION).stat().st_mode & 0o777 == 0o600


def test_only_the_large_payload_is_linked(node: LayerNode, active: activation_record.Activation) -> None:
    shared = {path for path in active.how if (node.root / path).lstat().st_nlink > 1}
    assert {MODULE, LIBRARY, DKMS_COPY, BUILT_FROM, "usr/lib/firmware/nvidia/gsp.bin"} <= shared
    assert shared == {path for path, how in active.how.items() if how == activation_record.LINK}
    assert active.how[SETUID] == active.how[REPLACED] == activation_record.COPY
    assert (node.root / MODULE).stat().st_ino == (node.root / DKMS_COPY).stat().st_ino


def test_a_layer_of_0_1_0_is_activated_from_its_own_objects(tmp_path: Path) -> None:
    node = LayerNode(tmp_path / "root")
    capture(node, tmp_path / "scratch", says_linked=False)
    (layer,), _problems = layers.read_all(node.root)
    before = snapshot(node.root)
    active = activate.activate(node.root, node, layer)
    assert (active.how[BUILT_FROM], active.how[LIBRARY]) == (activation_record.COPY, activation_record.LINK)
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def test_the_same_again_changes_nothing(node: LayerNode, layer: Manifest, active: activation_record.Activation) -> None:
    before, calls = snapshot(node.root, "none"), len(node.calls)
    assert activate.activate(node.root, node, layer) == active
    assert snapshot(node.root, "none") == before
    assert len(node.calls) == calls


def test_deactivating_nothing_changes_nothing(node: LayerNode) -> None:
    before = snapshot(node.root, "none")
    assert deactivate.deactivate(node.root, node).layer == ""
    assert snapshot(node.root, "none") == before


def test_with_selinux_everything_is_copied(node: LayerNode, layer: Manifest) -> None:
    node.put("sys/fs/selinux/enforce", "1")
    active = activate.activate(node.root, node, layer)
    assert set(active.how.values()) == {activation_record.COPY, activation_record.MADE}


def test_with_selinux_what_is_in_place_is_labelled_by_the_policy() -> None:
    """SELinux's policy is that of the system at /, so only there is restorecon called; a fake one records the paths."""
    with layernode.fast_folder() as folder:
        node, asked = LayerNode(folder / "root"), list[list[str]]()
        here = staging.Staging(node.root, Store(node.root))
        node.programs["restorecon"] = lambda node, words: (asked.append(words), Reply())[1]
        here.label(node, ["etc/x"], print)
        here.selinux = True
        here.label(node, ["etc/x"], print)
        assert asked == []
        here._prefix = "/"
        here.label(node, [f"etc/{number}" for number in range(201)], print)
        assert [len(words) for words in asked] == [201, 2]
        assert asked[1] == ["-F", "/etc/200"]
        node.missing_programs = {"restorecon"}
        said: list[str] = []
        here.label(node, ["etc/x"], said.append)
        assert "restorecon" in said[0]


def test_what_a_filesystem_can_clone_is_not_linked(node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reflink is replaced by a copy; tests/lab makes real ones, on filesystems that have them."""

    def clone(reading: int, writing: int) -> bool:
        os.sendfile(writing, reading, 0, 1 << 20)
        return True

    monkeypatch.setattr(staging, "_clone", clone)
    monkeypatch.setattr(staging, "CLONE_FROM", 1)
    active = activate.activate(node.root, node, layer)
    assert active.how[MODULE] == active.how[SETUID] == activation_record.REFLINK
    assert tree.problems(node.root, layer.files) == ()
    assert (node.root / MODULE).stat().st_nlink == 1


def test_a_folder_across_which_no_link_goes_gets_copies(node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: str, target: str, **options: bool) -> None:
        if "/updates/dkms/" in str(target) and "objects" in str(source):
            raise OSError(18, "Invalid cross-device link")
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link)
    active = activate.activate(node.root, node, layer)
    assert active.how[MODULE] == activation_record.COPY
    assert active.how[LIBRARY] == activation_record.LINK
    assert tree.problems(node.root, layer.files) == ()


# --- indexes -----------------------------------------------------------------------------------------------------------


def test_indexes_of_the_bake_are_swapped_in_without_depmod(node: LayerNode, layer: Manifest, active: activation_record.Activation) -> None:
    assert node.called("depmod") == []
    assert tree.problems(node.root, [index.after for index in layer.indexes]) == ()
    deactivate.deactivate(node.root, node)
    assert node.called("depmod") == []
    assert len(node.called("ldconfig")) == 1  # the deactivation restored the cache from its backup


def test_an_index_that_the_layer_left_as_it_was_is_no_difference(node: LayerNode, layer: Manifest) -> None:
    node.put(f"{MODULES}/modules.softdep", "the same with and without the layer")
    before = snapshot(node.root)
    active = activate.activate(node.root, node, layer)
    assert activate.indexes_were_swapped(active)
    deactivate.deactivate(node.root, node)
    assert snapshot(node.root) == before
    assert node.called("depmod") == []


def other_module(node: LayerNode) -> None:
    node.put(f"{MODULES}/updates/other.ko", "other")
    layernode.depmod(node, [KVER])


def index_gone(node: LayerNode) -> None:
    (node.root / MODULES / "modules.alias").unlink()


@pytest.mark.parametrize("change", [other_module, index_gone])
def test_on_other_indexes_depmod_runs(node: LayerNode, layer: Manifest, change: Callable[[LayerNode], None]) -> None:
    change(node)
    before = snapshot(node.root)
    active = activate.activate(node.root, node, layer)
    assert node.called("depmod") == [["depmod", "-b", str(node.root), KVER]]
    assert "updates/dkms/nvidia.ko:" in (node.root / MODULES / "modules.dep").read_text()
    assert active.derived[0].after
    deactivate.deactivate(node.root, node)
    assert snapshot(node.root) == before
    assert len(node.called("depmod")) == 1


def test_a_layer_without_indexes_runs_depmod(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activate.activate(node.root, node, replace(layer, indexes=()))
    assert len(node.called("depmod")) == 1
    deactivate.deactivate(node.root, node)
    assert snapshot(node.root) == before


def test_a_module_that_came_later_stays_in_the_indexes(node: LayerNode, active: activation_record.Activation) -> None:
    other_module(node)
    deactivate.deactivate(node.root, node)
    assert node.called("depmod") != []
    text = (node.root / MODULES / "modules.dep").read_text()
    assert "updates/other.ko:" in text
    assert "nvidia.ko" not in text


# --- refusals: nothing is changed ---------------------------------------------------------------------------------------


def foreign_file(node: LayerNode) -> None:
    node.put(LIBRARY, "foreign")


def the_same_file(node: LayerNode) -> None:
    node.put(LIBRARY, f"libcuda {VERSION}")


def dangling_link(node: LayerNode) -> None:
    node.link(LIBRARY, "nowhere")


def folder_in_the_way(node: LayerNode) -> None:
    (node.root / LIBRARY).mkdir(parents=True)


def pipe_in_the_way(node: LayerNode) -> None:
    (node.root / LIBRARIES).mkdir(parents=True)
    os.mkfifo(node.root / LIBRARY)


def linked_parent(node: LayerNode) -> None:
    (node.root / "srv/lib64").mkdir(parents=True)
    node.link("usr/bin/lib64", "/srv/lib64")


def file_for_a_folder(node: LayerNode) -> None:
    node.put("usr/bin/lib64", "file")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        pytest.param(foreign_file, (f"/{LIBRARY}: a file is there already",), id="foreign file"),
        pytest.param(the_same_file, (f"/{LIBRARY}: a file is there already",), id="an equal file of somebody else"),
        pytest.param(dangling_link, (f"/{LIBRARY}: a link to nowhere (dangling) is there already",), id="dangling link"),
        pytest.param(folder_in_the_way, (f"/{LIBRARY}: a folder is there already",), id="folder"),
        pytest.param(pipe_in_the_way, (f"/{LIBRARY}: a special file is there already",), id="pipe"),
        pytest.param(linked_parent, ("/usr/bin/lib64: a link to /srv/lib64",), id="parent is a link"),
        pytest.param(file_for_a_folder, ("/usr/bin/lib64: a file is where a folder of the layer belongs",), id="parent is a file"),
    ],
)
def test_nothing_is_overwritten(node: LayerNode, layer: Manifest, prepare: Callable[[LayerNode], None], words: tuple[str, ...]) -> None:
    prepare(node)
    refused(node, layer, "path_taken", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda n: alter(n, REPLACED, text="edited\n"), f"/{REPLACED}: its sha256", id="content"),
        pytest.param(lambda n: alter(n, REPLACED, mode=0o600), f"/{REPLACED}: its mode", id="mode"),
        pytest.param(lambda n: remove(n, DELETED), f"/{DELETED}: No such file", id="gone"),
        pytest.param(lambda n: n.link(REPLACED_LINK, "libGL-other.so"), f"/{REPLACED_LINK}: its target", id="link"),
        pytest.param(lambda n: n.put(REPLACED_LINK, "x"), f"/{REPLACED_LINK}: its type", id="type"),
    ],
)
def test_an_original_that_differs_refuses_the_layer(
    node: LayerNode, layer: Manifest, change: Callable[[LayerNode], None], words: str
) -> None:
    change(node)
    refused(node, layer, "original_changed", words)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(flip, id="content"),
        pytest.param(lambda p: p.write_bytes(b""), id="cut off"),
        pytest.param(lambda p: p.unlink(), id="gone"),
        pytest.param(lambda p: p.chmod(0o4755), id="setuid"),
    ],
)
@pytest.mark.parametrize("path", [MODULE, SETUID])
def test_a_bad_object_is_found_before_anything_is_touched(
    node: LayerNode, layer: Manifest, path: str, change: Callable[[Path], None]
) -> None:
    change(object_of(node, layer, path))
    refused(node, layer, "layer_damaged", path.rpartition("/")[0])  # objects are shared: nvidia.ko's is also DKMS's


@pytest.mark.parametrize("path", [LIBRARY, REPLACED, "usr/lib/firmware/nvidia/gsp.bin"])
def test_another_bad_object_is_found_before_it_is_in_place(node: LayerNode, layer: Manifest, path: str) -> None:
    flip(object_of(node, layer, path))
    before = snapshot(node.root)
    with pytest.raises(LayerError, match=path) as caught:
        activate.activate(node.root, node, layer)
    assert caught.value.code == "layer_damaged"
    assert snapshot(node.root) == before
    assert activation_record.read(node.root) is None
    assert activation_record.read_journal(node.root) is None


@pytest.mark.parametrize("path", [LIBRARY, BUILT_FROM])
def test_without_hashing_user_space_verify_finds_it_and_says_when_all_was_read(node: LayerNode, layer: Manifest, path: str) -> None:
    active = activate.activate(node.root, node, layer, hash_user_space=False)
    assert not active.verified
    assert verify.verify(node.root) == ()
    found = activation_record.read(node.root)
    assert found
    assert found.verified
    deactivate.deactivate(node.root, node)
    flip(object_of(node, layer, path))
    before = snapshot(node.root)
    activate.activate(node.root, node, layer, hash_user_space=False)
    assert verify.verify(node.root) == (f"/{path}: its sha256 changed since it was recorded",)
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def test_a_damaged_object_that_an_interrupted_activation_placed_is_rolled_back(
    node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was to be linked is only in the journal then."""
    flip(object_of(node, layer, BUILT_FROM))
    before = snapshot(node.root)
    with monkeypatch.context() as patch:
        patch.setattr(activation_record, "write", _power_cut)
        patch.setattr(activate, "finish_taking_away", _power_cut)
        with pytest.raises(LayerError):
            activate.activate(node.root, node, layer, hash_user_space=False)
    assert (node.root / BUILT_FROM).exists()
    done = deactivate.resume(node.root, node)
    assert done
    assert done.kept == []
    assert snapshot(node.root) == before


def _power_cut(*_arguments: object, **_named: object) -> None:
    raise OSError(5, "cut")


def test_a_layer_that_0_1_0_baked_in_place_is_not_activated(node: LayerNode, layer: Manifest) -> None:
    refused(node, replace(layer, stored=False), "layer_in_place", layer.layer)


def test_a_second_layer_waits_for_the_first_to_go(node: LayerNode, layer: Manifest, active: activation_record.Activation) -> None:
    other = replace(layer, identity=replace(layer.identity, version="550.90.07"), layer=f"cuda-550.90.07-open-{KVER}")
    refused(node, other, "layer_active", layer.layer)


# Places of f_bfree, f_files, f_ffree and f_flag in what statvfs returns.
BLOCKS, INODES, INODES_FREE, FLAGS = 3, 5, 6, 8


def filesystems(monkeypatch: pytest.MonkeyPatch, values: dict[int, int]) -> None:
    """Makes every filesystem report ``values`` at these places."""
    real = os.statvfs

    def said(path: Path) -> os.statvfs_result:
        found = list(real(path)[:10])
        for place, value in values.items():
            found[place] = value
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", said)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({BLOCKS: 1}, "0 MB free, but 8 MB are needed", id="space"),
        pytest.param({INODES: 1000, INODES_FREE: 66}, "66 inodes free", id="inodes"),
    ],
)
def test_no_room_is_said_before_anything_is_touched(
    node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch, values: dict[int, int], words: str
) -> None:
    filesystems(monkeypatch, values)
    refused(node, layer, "no_space", words)


def test_a_filesystem_without_a_fixed_number_of_inodes_has_enough(
    node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystems(monkeypatch, {INODES: 0, INODES_FREE: 0})
    assert activate.activate(node.root, node, layer).layer == layer.layer


def test_a_read_only_filesystem_is_said_before_anything_is_touched(
    node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystems(monkeypatch, {FLAGS: os.ST_RDONLY})
    refused(node, layer, "read_only", "read-only")


@pytest.mark.parametrize("program", ["ldconfig", "depmod"])
def test_a_program_that_fails_takes_it_back(node: LayerNode, layer: Manifest, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(node.root)

    def fails(node: LayerNode, words: list[str]) -> None:
        monkeypatch.undo()
        raise CommandError([program, *words], 1, "", "exit status 1")

    monkeypatch.setitem(node.programs, program, fails)
    with pytest.raises(CommandError):
        activate.activate(node.root, node, replace(layer, indexes=()))
    assert snapshot(node.root) == before
    assert activation_record.read_journal(node.root) is None


def test_a_failure_about_a_name_that_is_not_utf_8_is_taken_back(node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is reported to the log before the rollback begins."""
    before = snapshot(node.root)

    def fails(node: LayerNode, words: list[str]) -> None:
        monkeypatch.undo()
        raise CommandError(["ldconfig", *words], 1, "lib\udcff.so: bad", "exit status 1")

    monkeypatch.setitem(node.programs, "ldconfig", fails)
    with pytest.raises(CommandError):
        activate.activate(node.root, node, replace(layer, indexes=()), ProgressLog(tmp_root := node.root.parent, "x.log"))
    assert snapshot(node.root) == before
    assert activation_record.read_journal(node.root) is None
    assert "lib?.so: bad" in (tmp_root / LOGS / "x.log").read_text()


def test_what_cannot_be_taken_back_yet_is_taken_back_by_the_next_run(
    node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(node.root)

    def breaks(node: LayerNode, words: list[str]) -> None:
        node.put("etc/ld.so.cache", "half")
        raise CommandError(["ldconfig", *words], 1, "", "exit status 1")

    with monkeypatch.context() as patch:
        patch.setitem(node.programs, "ldconfig", breaks)
        with pytest.raises(LayerError, match="ldconfig") as caught:
            activate.activate(node.root, node, layer)
    assert caught.value.code == "activation_unfinished"
    assert activation_record.read_journal(node.root)
    deactivate.resume(node.root, node)
    assert snapshot(node.root) == before
    assert activation_record.read_journal(node.root) is None


# --- what files can be ---


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"\xff\xfe")], ids=["newline", "no UTF-8"])
def test_any_name_goes_all_the_way(tmp_path: Path, name: str) -> None:
    class Builder(LayerNode):
        def build(self, *arguments: Any, **options: Any) -> None:
            super().build(*arguments, **options)
            self.put(f"usr/share/nvidia/{name}", "x")
            self.link(f"{LIBRARIES}/{name}", name)

    node = LayerNode(tmp_path / "root")
    before = snapshot(node.root)
    layer = layernode.capture(node, tmp_path / "scratch", Builder)
    assert layers.read(layers.path_of(node.root, layer.layer)) == layer
    activate.activate(node.root, node, layer)
    assert (node.root / "usr/share/nvidia" / name).read_text() == "x"
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before
    assert discard.discard(node.root, node, layer.layer)


def test_a_folders_default_access_list_changes_nothing_that_is_put_there(tmp_path: Path) -> None:
    """system.posix_acl_default, acl(5): user::rwx, user:1000:rwx, group::r-x, mask::rwx, other::r-x."""
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *one)
        for one in ((1, 7, -1 % 2**32), (2, 7, 1000), (4, 5, -1 % 2**32), (16, 7, -1 % 2**32), (32, 5, -1 % 2**32))
    )
    node, layer = layernode.a_node(tmp_path)
    for folder in ("usr/bin", "usr/src", "var/lib"):
        (node.root / folder).mkdir(parents=True, exist_ok=True)
        try:
            os.setxattr(node.root / folder, "system.posix_acl_default", acl)
        except OSError:
            pytest.skip("this filesystem has no access lists")
    before = snapshot(node.root)
    activate.activate(node.root, node, layer)
    assert verify.verify(node.root) == ()
    assert tree.attributes(node.root / SETUID) == ()
    assert deactivate.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def test_a_copy_of_a_machine_takes_what_is_active_over(node: LayerNode, layer: Manifest, active: activation_record.Activation) -> None:
    node.put("etc/machine-id", "f" * 32 + "\n")
    assert activate.activate(node.root, node, layer) == replace(active, machine_id="f" * 32)
    assert activation_record.read(node.root) == replace(active, machine_id="f" * 32)
