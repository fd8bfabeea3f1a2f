"""Uninstalling everything of ours from a fake node: what is removed, what stays and is reported, and interruptions at every point."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import report
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.request import BakeRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import holders, nouveau_blacklist
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.nouveau_blacklist import Blacklist
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError, GpuNodeError, InputError, PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION,
    ACTIVATION_JOURNAL,
    BAKE_JOURNAL_OF_0_1,
    DRIVER_IMAGES,
    LOGS,
    NODE_RECORD,
    REMOVAL_JOURNAL,
    STORE,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import Removed, RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import driver_images, installed_files, layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import host
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit import layer as layernode
from tests.kit import systemd
from tests.kit.boot import boot
from tests.kit.layer import LayerNode
from tests.kit.node import FakeNode, bake_layer, behave
from tests.kit.reply import Reply
from tests.kit.values import DROPIN, IMAGE, KVER, LIBRARIES, LOADER, MARKER, NEWER, VERSION, policy

RULES = "usr/lib/udev/rules.d/71-nvidia-dev-char.rules"
TOOLKIT = "Package: nvidia-container-toolkit\nVersion: 1\nStatus: install ok installed\n\n"


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LOCK", tmp_path / "locks/remove.lock")


def take(node: FakeNode, check: bool = False, **request: Any) -> Removed:
    return flow.remove(node, RemoveRequest(**request), check, root=node.root)


def refused(node: FakeNode, error: type[GpuNodeError] = BootError, **request: Any) -> GpuNodeError:
    with pytest.raises(error) as caught:
        take(node, **request)
    return caught.value


def left(done: Removed) -> set[str]:
    return {item.what for item in done.left}


def all_files(node: FakeNode) -> dict[str, str]:
    """All files, except those of the kernel's filesystems and what a program leaves in /run."""
    return {path: text for path, text in node.tree().items() if not path.startswith(("proc/", "sys/", "run/"))}


@pytest.fixture
def before(node: FakeNode) -> dict[str, str]:
    """A node with a GPU, and with other people's files that look like a driver's."""
    node.add_gpu()
    node.put(f"{LOADER}/libnvidia-container.so.1.17.8", "toolkit")
    node.put("etc/modprobe.d/mine.conf", "options nvidia x=1\n")
    node.put("usr/lib/udev/rules.d/70-mine.rules", "mine")
    node.put("etc/containerd/config.d/99-mine.toml", "mine")
    return all_files(node)


def brought_up_baked(node: FakeNode) -> None:
    bake_layer(node)
    boot(node)


def installed(node: FakeNode) -> None:
    boot(node)


COMES = [pytest.param(brought_up_baked, id="baked"), pytest.param(installed, id="never baked"), pytest.param(bake_layer, id="an image")]


@pytest.mark.parametrize("comes", COMES)
def test_everything_goes_and_the_second_run_finds_nothing(
    node: FakeNode, before: dict[str, str], comes: Callable[[FakeNode], object]
) -> None:
    comes(node)
    assert all_files(node) != before
    done = take(node)
    assert all_files(node) == before
    assert not [p for p in (STORE, LOGS, LIBRARIES, "opt/azure", f"usr/src/nvidia-{VERSION}") if (node.root / p).exists()]
    assert done.result == "removed"
    assert left(done) == {f"driver image {IMAGE}"}
    assert not done.reboot_needed
    assert node.loaded_names() == []
    again = take(node)
    assert (again.result, again.removed, again.left) == ("nothing", [], [])


@pytest.mark.parametrize("comes", COMES)
def test_check_mode_says_exactly_what_goes_and_touches_nothing(
    node: FakeNode, before: dict[str, str], comes: Callable[[FakeNode], object]
) -> None:
    comes(node)
    node.put("etc/modprobe.d/blacklist-nouveau.conf", "edited\n")
    there = node.tree()
    calls = len(node.calls)
    planned = take(node, check=True)
    assert node.tree() == there
    assert {argv[0] for argv in node.calls[calls:]} <= {"ctr", "modinfo", "systemctl"}
    done = take(node)
    gone = {path for path in done.removed if not path.startswith("dev/")}
    assert set(planned.removed) == gone
    assert (planned.result, planned.left, planned.modules) == ("planned", done.left, done.modules)


def test_of_a_tree_of_dkms_behind_a_link_nothing_goes(node: FakeNode, before: dict[str, str]) -> None:
    (node.root / "srv/nvidia").mkdir(parents=True)
    node.link("var/lib/dkms/nvidia", "../../../srv/nvidia")
    boot(node)  # its driver container registers the driver behind the link
    there = {path: text for path, text in all_files(node).items() if path.startswith("srv/")}
    assert any(VERSION in path for path in there)
    take(node)
    assert {path: text for path, text in all_files(node).items() if path.startswith("srv/")} == there


def test_a_node_that_was_never_touched_says_so(node: FakeNode) -> None:
    node.put("etc/modprobe.d/blacklist-nouveau.conf", "the owner's\n")
    there = node.tree()
    done = take(node)
    assert done.result == "nothing"
    assert "nothing of ours is here" in done.reason
    assert done.left == []
    assert node.tree() == there


def test_modules_go_dependents_first_and_services_are_stopped(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    systemd.add_unit(node, "nvidia-persistenced")
    done = take(node)
    assert [argv[-1] for argv in node.called("modprobe", "-r")] == ["nvidia", "nvidia-uvm"] or done.modules[-1] == "nvidia"
    assert done.services == ("nvidia-persistenced",)
    assert node.called("systemctl", "stop") == [["systemctl", "stop", "nvidia-persistenced"]]


def test_a_holder_is_named_and_nothing_goes(node: FakeNode, before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    brought_up_baked(node)
    there = all_files(node)
    monkeypatch.setattr(holders, "device_holders", lambda _root: ("python3 (4711)",))
    for check in (True, False):
        with pytest.raises(BootError, match=r"python3 \(4711\)") as caught:
            take(node, check)
        assert caught.value.code == "driver_in_use"
    assert all_files(node) == there
    assert "nvidia" in node.loaded_names()


def test_a_module_that_cannot_go_leaves_everything_as_it_was(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    there = all_files(node)
    loaded = sorted(node.loaded_names())
    node.held_modules = {"nvidia"}
    assert refused(node).code == "driver_in_use"
    assert all_files(node) == there
    assert sorted(node.loaded_names()) == loaded


def test_until_reboot_takes_the_files_and_says_that_a_reboot_is_needed(
    node: FakeNode, before: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    brought_up_baked(node)
    monkeypatch.setattr(holders, "device_holders", lambda _root: ("python3 (4711)",))
    assert take(node, check=True, in_use="until_reboot").reboot_needed
    done = take(node, in_use="until_reboot")
    assert done.reboot_needed
    assert done.modules == ()
    assert "python3 (4711)" in next(item.why for item in done.left if item.what == "modules")
    assert "nvidia" in node.loaded_names()
    assert {p: t for p, t in all_files(node).items() if not p.startswith("dev/")} == before


def test_edited_files_stay_and_are_named(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    node.put(DROPIN, "mine now")
    node.put(RULES, "other rules")
    node.put("usr/bin/nvidia-smi", "another")
    done = take(node)
    assert {f"/{DROPIN}", f"/{RULES}", "/usr/bin/nvidia-smi"} <= left(done)
    assert "handler" in next(item.why for item in done.left if item.what == f"/{DROPIN}")
    assert {p for p in all_files(node) if p not in before} == {DROPIN, RULES, "usr/bin/nvidia-smi"}


def test_a_file_that_was_there_before_the_first_container_stays(node: FakeNode) -> None:
    node.add_gpu()
    bake_layer(node)
    node.put(DROPIN, "the image builder's")
    boot(node)
    take(node)
    assert (node.root / DROPIN).exists()


@pytest.mark.parametrize(("mode", "restarts"), [("auto", 1), ("never", 0)])
def test_containerd_is_restarted_once_because_its_drop_in_went(node: FakeNode, before: dict[str, str], mode: str, restarts: int) -> None:
    brought_up_baked(node)
    count = len(node.called("systemctl", "restart", "containerd"))
    done = take(node, restart_containerd=mode)
    assert len(node.called("systemctl", "restart", "containerd")) - count == restarts
    assert done.containerd_restarted == bool(restarts)
    assert ("containerd" in left(done)) == (not restarts)


def test_a_hash_that_0_1_0_recorded_is_no_reason_for_a_restart(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    (node.root / DROPIN).unlink()
    node.put(REMOVAL_JOURNAL, json.dumps({"boot_id": host.boot_id(), "containerd_config": "0" * 64}))
    assert not take(node).containerd_restarted


def test_without_a_drop_in_containerd_is_left_alone(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node)
    take(node)
    assert node.called("systemctl", "restart", "containerd") == []


def test_packages_stay_and_are_named(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    node.put("var/lib/dpkg/status", TOOLKIT + "Package: bash\nStatus: install ok installed\n\n")
    assert "package nvidia-container-toolkit" in left(take(node))


def test_driver_images_go_only_where_asked_for_by_every_name(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    node.images["mirror/x:1"] = node.images[IMAGE]
    node.images["other/y:1"] = "sha256:" + "0" * 64
    done = take(node, images=True)
    assert sorted(done.images) == sorted([IMAGE, "mirror/x:1"])
    assert set(node.images) == {"other/y:1"}
    assert done.left == []


def with_images(node: FakeNode) -> list[str]:
    """Names of driver images that were fetched for bakes that failed, and so are in no other document."""
    names = [IMAGE.replace(VERSION, version) for version in ("580.159.04", "580.200.01")]
    for name in names:
        wanted = reference.wanted(name)
        driver_images.fetch(node.root, Containerd(node), wanted, Deadline(600, node.clock, node.clock.sleep))
        driver_images.pin(node.root, Containerd(node), name)
    return names


@pytest.mark.parametrize("scope", ["everything", "driver"])
def test_every_driver_image_of_ours_goes_where_that_is_asked_for(node: FakeNode, before: dict[str, str], scope: str) -> None:
    names = with_images(node)
    node.add_image("registry.k8s.io/pause:3.9")
    node.add_image("theirs/driver:1")
    driver_images.pin(node.root, Containerd(node), "theirs/driver:1")
    done = take(node, images=True, scope=scope)
    assert sorted(done.images) == sorted(names)
    assert set(node.images) == {IMAGE, "registry.k8s.io/pause:3.9", "theirs/driver:1"}
    if scope == "everything":
        assert node.pinned == set()
        assert all_files(node) == before
    assert take(node, images=True, scope=scope).result == "nothing"


def test_images_that_stay_are_unpinned_before_the_list_of_them_goes(node: FakeNode, before: dict[str, str]) -> None:
    names = with_images(node)
    done = take(node)
    assert {item.what: item.why for item in done.left} == {
        f"driver image {name}": "kept for a later boot or bake, and no longer pinned (gpu_remove_images removes it)" for name in names
    }
    assert (set(node.images), node.pinned) == ({IMAGE, *names}, set())
    assert all_files(node) == before


def test_with_the_scope_driver_images_stay_pinned_and_listed(node: FakeNode, before: dict[str, str]) -> None:
    names = with_images(node)
    bake_layer(node)
    take(node, scope="driver")
    assert node.pinned == {*names}
    assert set(driver_images.read(node.root).pulled) == {*names}


def test_a_damaged_list_of_images_stays_and_is_named(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    node.put(DRIVER_IMAGES, "{")
    done = take(node, images=True)
    assert any(DRIVER_IMAGES in item.why for item in done.left if item.what == "a damaged document")
    assert (node.root / DRIVER_IMAGES).read_text() == "{"


def test_scope_driver_keeps_the_history(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    node.put(f"{STORE}/bake-report.json", "{}")
    done = take(node, scope="driver")
    assert {p for p in all_files(node) if p not in before} >= {f"{STORE}/bake-report.json"}
    assert not [p for p in all_files(node) if "node-record" in p or "manifest.json" in p or "placed" in p or "removal" in p]
    assert {f"/{STORE}", f"/{LOGS}"} <= left(done)
    assert take(node, scope="driver").result == "nothing"
    assert take(node).result == "removed"
    assert all_files(node) == before


def test_our_line_goes_from_release_notes_of_the_image_builder(node: FakeNode, before: dict[str, str]) -> None:
    layer = bake_layer(node)
    node.put("etc/release-notes", f"built by us\n{report.release_note(layer, BakeRequest(policy().wanted))}\n")
    take(node, release_notes="/etc/release-notes")
    assert (node.root / "etc/release-notes").read_text() == "built by us\n"


def test_other_lines_of_the_release_notes_stay_byte_for_byte(node: FakeNode) -> None:
    layer = bake_layer(node)
    ours = report.release_note(layer, BakeRequest(policy().wanted)).encode()
    (node.root / "etc/release-notes").write_bytes(b"caf\xe9\x0b\n" + ours + b"\nlast\n")
    take(node, release_notes="/etc/release-notes")
    assert (node.root / "etc/release-notes").read_bytes() == b"caf\xe9\x0b\nlast\n"


def test_an_initramfs_that_holds_what_went_is_made_anew_and_others_are_not(node: FakeNode, before: dict[str, str]) -> None:
    node.add_kernel("6.12.1-amd64")
    node.put("usr/bin/lsinitramfs")
    bake_layer(node)
    node.put(f"boot/initrd.img-{KVER}", "init\netc/modprobe.d/blacklist-nouveau.conf\n")
    node.put("boot/initrd.img-6.12.1-amd64", "init\nusr/lib/modules/6.12.1-amd64/kernel/nvidiafb.ko\n")
    take(node)
    assert node.called("update-initramfs") == [["update-initramfs", "-u", "-k", KVER]]
    assert "nouveau" not in (node.root / f"boot/initrd.img-{KVER}").read_text()


# --- the bake's file about nouveau -----------------------------------------------------------------------------------


@pytest.fixture
def blacklisted(node: FakeNode, before: dict[str, str]) -> FakeNode:
    """A baked image with nouveau's blacklist, also in the initramfs. Nothing else requires a new initramfs."""
    bake_layer(node)
    (node.root / "etc/modprobe.d/blacklist-nouveau.conf").unlink()
    node.put("usr/bin/lsinitramfs")
    node.put(nouveau_blacklist.PATH, nouveau_blacklist.TEXT)
    node.put(f"boot/initrd.img-{KVER}", f"init\n{nouveau_blacklist.PATH}\n")
    return node


def in_initramfs(node: FakeNode) -> bool:
    return nouveau_blacklist.PATH in (node.root / f"boot/initrd.img-{KVER}").read_text()


def test_the_bakes_blacklist_goes_with_everything_also_from_the_initramfs(blacklisted: FakeNode) -> None:
    assert nouveau_blacklist.PATH in take(blacklisted, check=True).removed
    assert (blacklisted.root / nouveau_blacklist.PATH).exists()
    assert nouveau_blacklist.PATH in take(blacklisted).removed
    assert not (blacklisted.root / nouveau_blacklist.PATH).exists()
    assert not in_initramfs(blacklisted)
    assert take(blacklisted).result == "nothing"


@pytest.mark.parametrize("one", nouveau_blacklist.BLACKLISTS, ids=["nouveau", "nova"])
def test_the_bakes_blacklist_goes_also_where_nothing_else_is_left(node: FakeNode, one: Blacklist) -> None:
    node.put(one.path, one.text)
    assert f"/{one.path}" in left(take(node, scope="driver"))
    assert take(node).removed == [one.path]
    assert take(node).result == "nothing"


def test_with_the_driver_alone_the_blacklist_stays_and_is_named(blacklisted: FakeNode) -> None:
    assert f"/{nouveau_blacklist.PATH}" in left(take(blacklisted, scope="driver"))
    assert (blacklisted.root / nouveau_blacklist.PATH).exists()
    assert in_initramfs(blacklisted)


def test_a_blacklist_that_somebody_changed_stays_and_is_named(blacklisted: FakeNode) -> None:
    blacklisted.put(nouveau_blacklist.PATH, "blacklist nouveau\n")
    assert f"/{nouveau_blacklist.PATH}" in left(take(blacklisted))
    assert (blacklisted.root / nouveau_blacklist.PATH).exists()


def test_a_removal_that_was_killed_before_the_initramfs_is_finished(blacklisted: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(node: FakeNode, words: list[str]) -> Reply:
        raise KeyboardInterrupt

    monkeypatch.setitem(blacklisted.programs, "update-initramfs", killed)
    with pytest.raises(KeyboardInterrupt):
        take(blacklisted)
    assert not (blacklisted.root / nouveau_blacklist.PATH).exists()
    monkeypatch.undo()
    monkeypatch.setattr(paths, "LOCK", blacklisted.root / "run/remove.lock")
    take(blacklisted)
    assert not in_initramfs(blacklisted)


def test_a_foreign_driver_and_another_provisioners_marker_stay(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    node.build(version="535.1.2", kver=KVER, without=("modules", "libraries"))
    take(node)
    assert (node.root / "var/lib/dkms/nvidia/535.1.2").is_dir()
    assert "535.1.2" in (node.root / MARKER).read_text()


def test_with_a_distributions_driver_only_listed_files_go_and_modules_stay(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    theirs = f"usr/lib/modules/{KVER}/updates/dkms/nvidia-drm.ko"
    node.put(theirs, f"version:        {VERSION}\n")
    node.put("var/lib/dpkg/status", "Package: nvidia-driver\nStatus: install ok installed\n\n")
    done = take(node)
    assert (node.root / theirs).exists()
    assert "nvidia" in node.loaded_names()
    assert {"package nvidia-driver", "module nvidia"} <= left(done)


def test_a_damaged_document_stays_and_is_named(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    bad = node.put(f"{STORE}/layers/cuda-1.2-open-{KVER}/manifest.json", "{")
    done = take(node)
    assert bad.exists()
    assert any("not valid JSON" in item.why for item in done.left)
    assert not (node.root / NODE_RECORD).exists()
    again = take(node)
    assert again.result == "nothing"
    assert "damaged" in again.reason


def test_a_bake_of_0_1_0_that_was_killed_is_refused(node: FakeNode) -> None:
    node.put(BAKE_JOURNAL_OF_0_1, "{}")
    assert refused(node, PreflightError).code == "bake_unfinished"


def test_a_deadline_that_cannot_be_meant_is_refused(node: FakeNode) -> None:
    assert refused(node, InputError, deadline_s=0).code == "bad_input"


def test_device_nodes_and_the_cdi_specification_go_with_the_modules(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    node.put("dev/nvidia0")
    node.link("dev/char/195:0", "../nvidia0")
    node.link("dev/char/1:3", "../null")
    node.put("run/cdi/nvidia.yaml", "{}")
    take(node)
    assert not list((node.root / "dev").glob("nvidia*"))
    assert [p.name for p in (node.root / "dev/char").iterdir()] == ["1:3"]
    assert not (node.root / "run/cdi/nvidia.yaml").exists()


def test_a_boot_afterwards_installs_from_the_start(node: FakeNode, before: dict[str, str]) -> None:
    brought_up_baked(node)
    take(node)
    assert boot(node).code == "never_baked"
    take(node)
    assert all_files(node) == before


def test_what_a_full_install_over_a_layer_wrote_goes_too(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node, version="550.90.07")
    installed(node)
    assert installed_files.read_or_empty(node.root).entries
    take(node)
    assert all_files(node) == before


def test_what_a_container_compiled_over_a_layer_goes_too(node: FakeNode, before: dict[str, str]) -> None:
    bake_layer(node)

    def compiles_all_the_same(made: FakeNode, action: str) -> Any:
        made.build(marker={"extra": "1"})
        made.put("usr/bin/nvidia-smi", "compiled here", 0o755)
        return behave(made, "install-skip-build")

    node.scripts = [compiles_all_the_same]
    assert boot(node).code == "skip_refused"
    done = take(node)
    assert left(done) == {f"driver image {IMAGE}"}
    assert all_files(node) == before
    assert layers.read_all(node.root) == ((), ())


# --- a captured layer ----------------------------------------------------------------------------------------------------


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[LayerNode]:
    """A node with an active captured layer."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with layernode.fast_folder() as folder:
        node, layer = layernode.a_node(folder)
        activate.activate(node.root, node, layer)
        yield node


@pytest.mark.parametrize("scope", ["everything", "driver"])
def test_an_active_layer_is_taken_away_and_what_it_replaced_is_back(captured: LayerNode, scope: str) -> None:
    there = layernode.snapshot(captured.root)
    planned = take(captured, check=True, scope=scope)
    assert layernode.snapshot(captured.root) == there
    done = take(captured, scope=scope)
    assert set(planned.removed) == set(done.removed)
    assert set(planned.restored) == set(done.restored)
    assert {layernode.REPLACED, layernode.DELETED} <= set(done.restored)
    assert not (captured.root / layernode.MODULE).exists()
    assert (captured.root / layernode.REPLACED).read_text() == "options system\n"
    assert (captured.root / STORE).exists() == (scope == "driver")
    assert bool(layers.read_all(captured.root)[0]) == (scope == "driver")
    assert any(item.what.startswith("layer ") for item in done.left) == (scope == "driver")
    assert take(captured, scope=scope).result == "nothing"


def test_a_deactivation_has_made_the_indexes_so_they_are_not_made_again(captured: LayerNode) -> None:
    captured.calls.clear()
    take(captured)
    assert captured.called("depmod") == captured.called("ldconfig") == []


def test_what_dkms_has_built_since_goes_and_what_an_owner_changed_stays(captured: LayerNode) -> None:
    built = captured.kernel_hook_builds(NEWER)
    (captured.root / layernode.LIBRARY).chmod(0o600)
    planned = take(captured, check=True)
    done = take(captured)
    assert set(planned.removed) == set(done.removed)
    assert {path for path in built if os.path.lexists(captured.root / path)} == set()
    assert f"/{layernode.LIBRARY}" in left(planned) & left(done)
    assert (captured.root / layernode.LIBRARY).exists()


@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
def test_where_the_record_of_a_layer_is_damaged_the_manifests_say_what_goes(captured: LayerNode, document: str) -> None:
    there = layernode.snapshot(captured.root)
    captured.put(document, "{")
    planned = take(captured, check=True, scope="driver")
    assert layernode.snapshot(captured.root) == there
    done = take(captured, scope="driver")
    assert set(planned.removed) <= set(done.removed)
    assert not (captured.root / layernode.MODULE).exists()
    assert (captured.root / layernode.REPLACED).read_text() == "options system\n"
    assert any(document in item.why for item in done.left)
    assert (captured.root / f"{document}.damaged").exists()
    assert take(captured, scope="driver").result == "nothing"
    assert take(captured).result == "removed"
    assert not (captured.root / STORE).exists()


def test_an_inert_layer_goes_with_everything_only(captured: LayerNode) -> None:
    deactivate.deactivate(captured.root, captured)
    assert take(captured, scope="driver").result == "nothing"
    assert take(captured).result == "removed"
    assert not (captured.root / STORE).exists()
