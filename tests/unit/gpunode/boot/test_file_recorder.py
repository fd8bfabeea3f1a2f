"""What came to a node while a driver container ran, as it is recorded, and what a removal makes of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.file_recorder import FileRecorder
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.leftovers import (
    FABRIC_MANAGER,
    FABRIC_MANAGER_UNIT,
    INITIALISATION,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import footprint
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import Removed, RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import installed_files, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.installed_files import InstalledFiles

from tests.kit.node import FakeNode
from tests.kit.values import DROPIN, LIBRARIES, LOADER, VERSION, a_record

HEADER = "usr/include/nv_fm_agent.h"
TOOLKIT_UNIT = "usr/lib/systemd/system/nvidia-cdi-refresh.service"
WANTS = "etc/systemd/system/multi-user.target.wants"
FABRIC_MANAGER_LINK = f"{WANTS}/nvidia-fabricmanager.service"


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LOCK", tmp_path / "locks/remove.lock")


def fabric_manager(node: FakeNode) -> None:
    """As the contract's script copies it: every file, and the unit enabled."""
    for path in FABRIC_MANAGER:
        folder = node.root / path
        if path in ("usr/share/nvidia/nvswitch", "usr/share/doc/nvidia-fabricmanager"):
            node.put(f"{folder.relative_to(node.root)}/inside", "fabric manager")
        elif path != FABRIC_MANAGER_LINK and (node.root / path).parent.is_dir():
            node.put(path, "fabric manager")
    node.put(f"usr/{FABRIC_MANAGER_UNIT}", "unit")
    node.link(FABRIC_MANAGER_LINK, f"/{FABRIC_MANAGER_UNIT}")
    node.put(HEADER, "header")


def toolkit(node: FakeNode) -> None:
    """A package with an enabled unit."""
    node.put(TOOLKIT_UNIT, "unit")
    node.put("usr/bin/nvidia-ctk", "program")
    node.put("var/lib/dpkg/info/nvidia-container-toolkit-base.list", f"/.\n/usr/bin\n/usr/bin/nvidia-ctk\n/{TOOLKIT_UNIT}\n")
    node.link(f"{WANTS}/nvidia-cdi-refresh.service", f"/{TOOLKIT_UNIT}")


def ran(node: FakeNode, *came: Callable[[FakeNode], object], compiles: bool = False, interrupted: bool = False) -> InstalledFiles:
    """A run of a driver container during which all that came."""
    recorder = FileRecorder(node.root, (), interrupted)
    recorder.begin()
    if compiles:
        recorder.before_build()
    for one in came:
        one(node)
    recorder.end(compiles)
    return installed_files.read_or_empty(node.root)


def puts(*found: str) -> Callable[[FakeNode], object]:
    return lambda node: [node.put(path, "text") for path in found]


def removed(node: FakeNode) -> Removed:
    if not node_record.read(node.root):
        node_record.write(node.root, a_record(state="initialised", modules={}, libraries={}))
    return flow.remove(node, RemoveRequest(), root=node.root)


def left(done: Removed) -> set[str]:
    return {item.what for item in done.left if not item.what.startswith("driver image")}


def there(node: FakeNode) -> set[str]:
    return {path for path in node.driver_tree() if not path.startswith("var/lib/dpkg")}


BOTH = pytest.mark.parametrize("compiles", [False, True], ids=["fast path", "full install"])


@BOTH
def test_nothing_of_fabric_manager_stays(node: FakeNode, compiles: bool) -> None:
    node.put("usr/share/doc/README", "on every system")
    before, folders = there(node), sorted(str(p) for p in node.root.rglob("*") if p.is_dir())
    node.put("var/lib/dpkg/status", "Package: nvidia-container-toolkit-base\nVersion: 1\nStatus: install ok installed\n\n")
    found = ran(node, fabric_manager, toolkit, compiles=compiles)
    assert found.packages == ("nvidia-container-toolkit-base",)
    assert {HEADER, FABRIC_MANAGER_LINK, f"usr/{FABRIC_MANAGER_UNIT}", "usr/share/nvidia/nvswitch/inside"} <= found.paths
    assert found.others == ()
    done = removed(node)
    assert left(done) == {"package nvidia-container-toolkit-base"}
    assert any("of ours installed it" in item.why for item in done.left)
    assert there(node) - before == {"usr/bin/nvidia-ctk", TOOLKIT_UNIT, f"{WANTS}/nvidia-cdi-refresh.service"}
    stay = {str(node.root / path) for path in ("usr/lib/systemd", "usr/lib/systemd/system", "etc/systemd", "etc/systemd/system", WANTS)}
    assert {str(p) for p in node.root.rglob("*") if p.is_dir()} - {*folders, *stay} <= {
        str(node.root / p) for p in ("var", "var/lib/dpkg/info", "var/log")
    }


@BOTH
def test_what_anybody_may_have_written_stays_and_is_named(node: FakeNode, compiles: bool) -> None:
    strange = ("usr/bin/nv-tool", "etc/nvidia-of-mine.conf", "usr/share/thing/a", "usr/share/thing/b/c", "usr/share/doc/cuda/x")
    found = ran(node, fabric_manager, puts(*strange), compiles=compiles)
    others = {"usr/bin/nv-tool", "etc/nvidia-of-mine.conf", "usr/share/thing", "usr/share/doc/cuda"}
    assert set(found.others) == others
    assert left(removed(node)) == {f"/{path}" for path in others}
    assert [path for path in strange if not (node.root / path).exists()] == []


@BOTH
def test_what_a_package_took_over_later_and_what_went_is_not_named(node: FakeNode, compiles: bool) -> None:
    ran(node, puts("usr/bin/one", "usr/bin/two"), compiles=compiles)
    (node.root / "usr/bin/one").unlink()
    node.put("var/lib/dpkg/info/two.list", "/usr/bin/two\n")
    assert left(removed(node)) == set()


def test_other_peoples_files_in_a_drivers_folders_stay(node: FakeNode) -> None:
    """Other tools build modules and register them with DKMS too, and others have files in /opt/azure."""
    mine = {f"usr/lib/modules/{node.kver}/updates/dkms/nvidia-uvm.ko", "var/lib/dkms/nvidia/1/source", "opt/azure/aks-gpu/dkms-marker"}
    theirs = {
        f"usr/lib/modules/{node.kver}/updates/dkms/zfs.ko",
        "var/lib/dkms/zfs/2/source",
        "opt/azure/containers/provision.complete",
        "etc/modprobe.d/nvidia-mine.conf",
    }
    found = ran(node, puts(*mine, *theirs), compiles=True)
    assert found.paths >= mine
    assert not found.paths & theirs
    others = {"var/lib/dkms/zfs", "opt/azure/containers", "etc/modprobe.d", f"usr/lib/modules/{node.kver}/updates/dkms/zfs.ko"}
    assert set(found.others) == others


def test_a_file_that_was_there_before_is_nobodys_arrival(node: FakeNode) -> None:
    fabric_manager(node)
    node.put(DROPIN, "mine")
    found = ran(node, fabric_manager)
    assert (found.entries, found.others) == ((), ())


def test_a_file_of_an_earlier_run_that_is_written_again_is_recorded_as_it_is_now(node: FakeNode) -> None:
    ran(node, puts(DROPIN))
    found = ran(node, lambda node: node.put(DROPIN, "of another image"))
    assert DROPIN in found.paths
    assert left(removed(node)) == set()
    assert not (node.root / DROPIN).exists()


def test_what_an_owner_made_between_two_runs_is_his(node: FakeNode) -> None:
    ran(node)
    node.put(HEADER, "the owner's")
    found = ran(node, puts(DROPIN))
    assert HEADER not in found.paths
    removed(node)
    assert (node.root / HEADER).exists()


@BOTH
def test_after_a_kill_a_removal_knows_what_the_container_wrote(node: FakeNode, compiles: bool) -> None:
    recorder = FileRecorder(node.root, (), interrupted=False)
    recorder.begin()
    if compiles:
        recorder.before_build()
    before = there(node)
    fabric_manager(node)
    node.put("etc/containerd/config.d/99-mine.toml", "mine")
    node_record.write(node.root, a_record(state="started", modules={}, libraries={}))
    done = removed(node)
    assert there(node) - before == {"etc/containerd/config.d/99-mine.toml"}
    assert left(done) == set()


@BOTH
def test_after_a_kill_the_next_run_records_what_the_killed_one_wrote(node: FakeNode, compiles: bool) -> None:
    FileRecorder(node.root, (), interrupted=False).begin()
    fabric_manager(node)
    found = ran(node, fabric_manager, compiles=compiles, interrupted=True)
    assert {HEADER, FABRIC_MANAGER_LINK, f"usr/{FABRIC_MANAGER_UNIT}", "usr/share/nvidia/nvswitch/inside"} <= found.paths


def test_a_link_to_a_unit_of_ours_goes_also_if_somebody_else_made_it(node: FakeNode) -> None:
    ran(node, fabric_manager)
    node.link("etc/systemd/system/graphical.target.wants/nvidia-fabricmanager.service", f"/{FABRIC_MANAGER_UNIT}")
    node.link("etc/systemd/system/mine.service", "/usr/lib/systemd/system/mine-too.service")
    node.put("run/systemd/system/.there")
    removed(node)
    assert not (node.root / "etc/systemd/system/graphical.target.wants/nvidia-fabricmanager.service").is_symlink()
    assert (node.root / "etc/systemd/system/mine.service").is_symlink()
    assert ["systemctl", "daemon-reload"] in node.calls


def test_a_removal_that_is_killed_anywhere_is_finished_by_the_next(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    before, unlink, stop = there(node), os.unlink, 0
    while True:
        stop += 1
        ran(node, fabric_manager)
        left_to_go = [stop]

        def cut(path: str, left_to_go: list[int] = left_to_go, **named: Any) -> None:
            left_to_go[0] -= 1
            if left_to_go[0] == 0:
                raise KeyboardInterrupt
            unlink(path, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", cut)
            with contextlib.suppress(KeyboardInterrupt):
                removed(node)
        if left_to_go[0] > 0:
            break
        removed(node)
        assert there(node) == before, f"killed at {stop}"
    assert stop > len(FABRIC_MANAGER) - 2


def test_on_a_fast_path_second_copies_are_left_to_their_contents(node: FakeNode) -> None:
    """They are some hundred megabytes, and the node waits."""
    node.put(f"{LIBRARIES}/libcuda.so.{VERSION}", "library")
    found = ran(node, puts(f"{LOADER}/libcuda.so.{VERSION}", f"{LOADER}/libnvfm.so.1"))
    assert found.paths == {f"{LOADER}/libnvfm.so.1"}


def test_the_installers_log_is_named(node: FakeNode) -> None:
    ran(node, puts("var/log/nvidia-installer-1795577719.log"), compiles=True)
    assert left(removed(node)) == {"/var/log/nvidia-installer-1795577719.log"}


def test_the_list_of_other_things_does_not_grow_without_end(node: FakeNode) -> None:
    found = ran(node, puts(*(f"usr/bin/tool-{number}" for number in range(300))))
    assert len(found.others) == 200


@pytest.mark.parametrize("path", [path for path in INITIALISATION if not path.startswith("etc/systemd/")])
def test_what_device_initialisation_writes_is_only_a_containers(path: str) -> None:
    assert footprint.is_containers(path)


INSTALLERS = (
    "usr/bin/nvidia-cuda-mps-control",
    "usr/share/doc/NVIDIA_GLX-1.0/README.txt",
    "usr/share/man/man1/nvidia-smi.1.gz",
    "usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "usr/lib/systemd/system-sleep/nvidia",
    "usr/lib/xorg/modules/drivers/nvidia_drv.so",
    "usr/lib/firmware/nvidia/580.1/gsp_ga10x.bin",
    "etc/OpenCL/vendors/nvidia.icd",
    "etc/modprobe.d/blacklist-nouveau.conf",
    "opt/azure/aks-gpu/dkms-marker",
    "usr/bin/lib64/lib64/libGLX.so.0",
    "var/lib/nvidia/log",
    "usr/lib/modules/6.1.0/updates/dkms/nvidia.ko",
)
OTHERS = (
    "etc/netplan/50-x.yaml",
    "etc/alternatives/cc",
    "opt/app/run",
    "usr/local/bin/mytool",
    "usr/local/cuda/version.json",
    "usr/lib/modules/6.1.0/kernel/x.ko",
    "usr/lib/modules/6.1.0/updates/dkms/nvidia-fs.ko",
    "opt/azure/containers/x",
    "etc/nvidia/gridd.conf",
    "var/lib/dkms/mok.pub",
)


@pytest.mark.parametrize(("found", "is_containers"), [(INSTALLERS, True), (OTHERS, False)], ids=["a container's", "anybody's"])
def test_what_can_only_be_a_containers(found: Collection[str], is_containers: bool) -> None:
    assert [path for path in found if footprint.is_containers(path) is not is_containers] == []


def test_a_document_of_before_is_read(node: FakeNode) -> None:
    node.put(paths.INSTALLED_FILES, '{"schema": 2, "entries": [], "absent": ["usr/bin/nv-fabricmanager"]}')
    assert installed_files.read(node.root) == InstalledFiles(absent=("usr/bin/nv-fabricmanager",))
