"""Taking a driver of ours out of a fake node."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import marker
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import libraries, modules
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import uninstall
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.uninstall import Accounted, Removal, remove_driver
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import installed_files, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.layers import read_all

from tests.kit.node import FakeNode, bake_layer
from tests.kit.values import KVER, LIBRARIES, LOADER, MARKER, NEWER, VERSION, a_record


def take_out(node: FakeNode) -> Removal:
    """As a boot does: with what is on the node now."""
    layers, _ = read_all(node.root)
    found = marker.read(node.root)
    version = found.version if found else None
    return remove_driver(
        node.root, node, Accounted("x86_64", layers, node_record.read(node.root), installed_files.read(node.root), version)
    )


@pytest.fixture
def before(node: FakeNode) -> dict[str, str]:
    """The node's files before any driver came; another's files of similar names among them."""
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
    assert take_out(node) == Removal()
    assert node.driver_tree() == before


def test_what_only_the_marker_accounts_for_goes_too(node: FakeNode, before: dict[str, str]) -> None:
    node.build()
    take_out(node)
    left = {p for p in node.driver_tree() if p not in before}
    assert left <= {"etc/modprobe.d/blacklist-nouveau.conf", "usr/bin/nvidia-smi", "usr/bin/nvidia-modprobe"}


def test_what_an_install_left_that_was_cut_off_goes_by_its_version(node: FakeNode, before: dict[str, str]) -> None:
    """Its list of placed files is written when it ends."""
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
    assert set(done.kept) == kept
    assert {p for p in node.driver_tree() if p not in before} == kept


def test_a_changed_mode_is_a_change(node: FakeNode) -> None:
    bake_layer(node)
    (node.root / "usr/bin/nvidia-smi").chmod(0o700)
    assert take_out(node).kept == ["usr/bin/nvidia-smi"]


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
    assert take_out(node).kept == [path]
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
    unlink = Path.unlink
    for stop in range(1, 200):
        bake_layer(node)
        initialised(node)
        node.link(f"{LOADER}/libcuda.so", "libcuda.so.1")
        count = 0

        def cut(self: Path, missing_ok: bool = False, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise KeyboardInterrupt
            unlink(self, missing_ok=missing_ok)

        finished = False
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", cut)
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

    monkeypatch.setattr(uninstall, "regenerate", fails)
    with pytest.raises(OSError, match="depmod"):
        take_out(node)
    assert node_record.read(node.root) is not None
    assert len(read_all(node.root)[0]) == 1
    assert not (node.root / MARKER).exists()
    assert not (node.root / LIBRARIES).exists()


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
