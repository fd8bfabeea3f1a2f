"""Removing a driver of ours from a fake node."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import generated_files
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation.take_away import TakenAway
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.file_recorder import FileRecorder
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import marker
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import libraries, modules
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import INSTALLED_FILES
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import uninstall
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.uninstall import Accounted, remove_driver
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import installed_files, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.layers import read_all
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.files import sha256

from tests.kit.node import FakeNode, bake_layer
from tests.kit.values import KVER, LIBRARIES, LOADER, MARKER, NEWER, VERSION, a_record


def take_out(node: FakeNode) -> TakenAway:
    """Removes as a boot does: what the documents on the node list."""
    layers, _ = read_all(node.root)
    found = marker.read(node.root)
    version = found.version if found else None
    return remove_driver(
        node.root, node, Accounted("x86_64", layers, node_record.read(node.root), installed_files.read(node.root), version)
    )


@pytest.fixture
def before(node: FakeNode) -> dict[str, str]:
    """The node's files before any driver was installed, with other people's files of similar names among them."""
    node.put(f"{LOADER}/libnvidia-container.so.1.17.8", "toolkit")
    node.put(f"usr/lib/modules/{KVER}/kernel/drivers/video/fbdev/nvidia/nvidiafb.ko", "in tree")
    node.put("etc/modprobe.d/mine.conf", "options nvidia x=1\n")
    node.put("usr/src/other-1.0/dkms.conf", "other")
    return node.driver_tree()


def initialised(node: FakeNode) -> None:
    node.initialise_device(dropin="")
    node_record.write(
        node.root,
        a_record(
            modules={KVER: modules.module_hashes(node.root, KVER)}, libraries=libraries.hashes(node.root, "x86_64"), state="initialised"
        ),
    )


def test_a_baked_and_initialised_driver_goes_without_a_trace(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node)
    initialised(node)
    done = take_out(node)
    assert node.driver_tree() == before
    assert done.kept == []
    assert read_all(node.root) == ((), ())
    assert node_record.read(node.root) is None


def test_a_second_run_finds_nothing(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node)
    initialised(node)
    take_out(node)
    assert take_out(node) == TakenAway("")
    assert node.driver_tree() == before


def test_what_only_the_marker_accounts_for_goes_too(node: FakeNode, before: dict[str, str]) -> None:
    node.build()
    take_out(node)
    left = {p for p in node.driver_tree() if p not in before}
    assert left <= {"etc/modprobe.d/blacklist-nouveau.conf", "usr/bin/nvidia-smi", "usr/bin/nvidia-modprobe"}


def test_what_an_install_left_that_was_cut_off_goes_by_its_version(node: FakeNode, before: dict[str, str]) -> None:
    """The list of installed files is written when the container ends."""
    installed_files.write(node.root, installed_files.InstalledFiles())
    node_record.write(node.root, a_record(state="started", modules={}, libraries={}))
    node.build(without=("marker",))
    take_out(node)
    left = {p for p in node.driver_tree() if p not in before}
    assert left <= {"etc/modprobe.d/blacklist-nouveau.conf", "usr/bin/nvidia-smi", "usr/bin/nvidia-modprobe"}


def test_what_dkmss_hook_has_built_for_another_kernel_goes_by_its_registration(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    before = node.driver_tree()
    bake_layer(node)
    node.build(kver=NEWER, without=("libraries", "marker"))
    take_out(node)
    assert node.driver_tree() == before
    assert not (node.root / "usr/lib/modules" / NEWER / "updates").exists()


def test_sources_that_a_package_owns_stay(node: FakeNode) -> None:
    node.build()
    node.put("var/lib/dpkg/info/some.list", f"/usr/src/nvidia-{VERSION}\n/usr/src/nvidia-{VERSION}/dkms.conf\n")
    done = take_out(node)
    assert (node.root / f"usr/src/nvidia-{VERSION}/dkms.conf").exists()
    assert [path for path in done.removed if not (node.root / path).exists()] == done.removed


def test_an_edited_file_stays_and_is_named(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node)
    node.put("etc/modprobe.d/blacklist-nouveau.conf", "blacklist nouveau\n# mine\n")
    node.put(f"usr/src/nvidia-{VERSION}/dkms.conf", "# patched here\n")
    done = take_out(node)
    kept = {"etc/modprobe.d/blacklist-nouveau.conf", f"usr/src/nvidia-{VERSION}/dkms.conf"}
    assert done.kept_paths == kept
    assert {p for p in node.driver_tree() if p not in before} == kept


def test_a_changed_mode_is_a_change(node: FakeNode) -> None:
    bake_layer(node)
    (node.root / "usr/bin/nvidia-smi").chmod(0o700)
    assert take_out(node).kept == ["/usr/bin/nvidia-smi: its mode was changed after it was installed"]


def test_a_copy_with_other_contents_stays(node: FakeNode) -> None:
    bake_layer(node)
    node.put(f"{LOADER}/libcuda.so.{VERSION}", "somebody else's")
    take_out(node)
    assert (node.root / f"{LOADER}/libcuda.so.{VERSION}").read_text() == "somebody else's"


def test_links_that_lead_nowhere_afterwards_go_and_others_stay(node: FakeNode) -> None:
    bake_layer(node)
    initialised(node)
    node.link(f"{LOADER}/libcuda.so", "libcuda.so.1")
    node.link(f"{LOADER}/libother.so", "libother.so.9")
    take_out(node)
    assert [p.name for p in (node.root / LOADER).glob("lib*.so*") if p.is_symlink()] == ["libother.so"]


def test_another_version_in_the_dkms_tree_stays(node: FakeNode) -> None:
    node.put("var/lib/dkms/nvidia/535.1/source/dkms.conf", "x")
    node.link("var/lib/dkms/nvidia/kernel-9.9-x86_64", "535.1/9.9/x86_64")
    bake_layer(node)
    take_out(node)
    assert sorted(p.name for p in (node.root / "var/lib/dkms/nvidia").iterdir()) == ["535.1", "kernel-9.9-x86_64"]


def test_a_module_of_another_version_stays(node: FakeNode) -> None:
    layer = bake_layer(node)
    path = f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko"
    node.put(path, "version:        535.1\n")
    assert take_out(node).kept_paths == {path}
    assert (node.root / path).exists()
    assert layer


def test_indexes_are_made_anew_for_every_kernel(node: FakeNode) -> None:
    node.add_kernel("6.12.1-amd64")
    bake_layer(node)
    take_out(node)
    assert [argv[-1] for argv in node.called("depmod")] == [KVER, "6.12.1-amd64"]
    assert node.called("ldconfig") == [["ldconfig", "-r", str(node.root)]]


def test_interrupted_anywhere_and_run_again_it_ends_the_same(
    node: FakeNode, before: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink
    for stop in range(1, 200):
        bake_layer(node)
        initialised(node)
        node.link(f"{LOADER}/libcuda.so", "libcuda.so.1")
        count = 0

        def cut(path: str, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise KeyboardInterrupt
            unlink(path)

        finished = False
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", cut)
            try:
                take_out(node)
                finished = True
            except KeyboardInterrupt:
                pass
        take_out(node)
        assert node.driver_tree() == before, f"stopped at removal {stop}"
        assert node_record.read(node.root) is None
        if finished:
            assert stop > 10
            return


def test_the_records_go_last(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    bake_layer(node)
    initialised(node)

    def fails(*_: object) -> None:
        raise OSError("depmod is not to be had")

    monkeypatch.setattr(generated_files, "make", fails)
    with pytest.raises(OSError, match="depmod"):
        take_out(node)
    assert node_record.read(node.root) is not None
    assert len(read_all(node.root)[0]) == 1
    assert not (node.root / MARKER).exists()
    assert list((node.root / LIBRARIES).iterdir()) == []


def test_second_copies_are_not_looked_for_behind_a_link(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node)
    elsewhere = node.root.parent / "elsewhere"
    (node.root / LOADER).rename(elsewhere)
    (node.root / LOADER).symlink_to(elsewhere)
    copy = elsewhere / f"libcuda.so.{VERSION}"
    copy.write_bytes((node.root / LIBRARIES / f"libcuda.so.{VERSION}").read_bytes())
    take_out(node)
    assert copy.exists()


def test_second_copies_go_by_content_where_no_record_lists_them(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node)
    node.initialise_device(dropin="")
    take_out(node)
    assert node.driver_tree() == before


def test_a_list_by_contents_of_0_1_0_is_taken_over(node: FakeNode, before: dict[str, str]) -> None:
    """0.1.0 listed installed files by hash and target. What is still so is removed, what was changed stays and is named."""
    node.build()
    files = {path: sha256(node.root / path) for path in ("usr/bin/nvidia-smi", f"{LIBRARIES}/libcuda.so.{VERSION}")}
    document = {"schema": 1, "files": files, "links": {}, "folders": [LIBRARIES, "usr/bin/lib64"], "absent": []}
    node.put(INSTALLED_FILES, json.dumps(document))
    node.put("usr/bin/nvidia-smi", "the owner's", 0o755)
    done = take_out(node)
    assert done.kept == ["/usr/bin/nvidia-smi: its sha256 was changed after it was installed"]
    assert f"{LIBRARIES}/libcuda.so.{VERSION}" in done.removed
    assert not (node.root / "usr/bin/lib64").exists()
    assert not (node.root / INSTALLED_FILES).exists()


def test_the_next_boot_describes_what_0_1_0_listed_by_contents(node: FakeNode) -> None:
    node.put("usr/bin/nvidia-smi", "smi", 0o755)
    files = {"usr/bin/nvidia-smi": sha256(node.root / "usr/bin/nvidia-smi"), "usr/bin/gone": "0" * 64}
    node.put(INSTALLED_FILES, json.dumps({"schema": 1, "files": files, "links": {}, "folders": [], "absent": []}))
    FileRecorder(node.root, (), interrupted=False).begin()
    found = installed_files.read(node.root)
    assert found
    assert [(e.path, oct(e.mode), e.sha256) for e in found.entries] == [("usr/bin/nvidia-smi", "0o755", files["usr/bin/nvidia-smi"])]


def test_a_list_of_a_later_layout_is_not_used(node: FakeNode) -> None:
    node.put(INSTALLED_FILES, json.dumps({"schema": 3, "entries": [], "absent": []}))
    with pytest.raises(DataError, match="later one"):
        installed_files.read(node.root)


def test_a_changed_mode_of_an_installed_file_is_a_change(node: FakeNode) -> None:
    node.put("usr/bin/nvidia-smi", "smi", 0o755)
    installed_files.write(node.root, installed_files.InstalledFiles(tree.describe(node.root, ["usr/bin/nvidia-smi"])))
    (node.root / "usr/bin/nvidia-smi").chmod(0o700)
    assert take_out(node).kept_paths == {"usr/bin/nvidia-smi"}


def test_a_file_in_two_lists_goes_if_it_is_as_one_of_them_says(node: FakeNode, before: dict[str, str]) -> None:
    """A driver container that compiled over a layer has changed the files of the layer's manifest."""
    bake_layer(node)
    node.put("usr/bin/nvidia-smi", "compiled here", 0o755)
    installed_files.write(node.root, installed_files.InstalledFiles(tree.describe(node.root, ["usr/bin/nvidia-smi"])))
    assert take_out(node).kept == []
    assert node.driver_tree() == before


def test_copies_are_removed_before_the_libraries_that_show_whose_they_are(node: FakeNode) -> None:
    """Without a list, only the library itself shows that a copy of it is ours."""
    node.build()
    node.initialise_device(dropin="")
    planned = uninstall.plan(node.root, node, Accounted("x86_64", marker_version=VERSION))
    copies = [path for path in planned.removed if path.startswith(LOADER)]
    originals = [path for path in planned.removed if path.startswith(LIBRARIES) and path.endswith(VERSION)]
    assert copies
    assert max(map(planned.removed.index, copies)) < min(map(planned.removed.index, originals))
