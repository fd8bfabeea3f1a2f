"""/opt/gpu and /opt/actions: a driver image's contents and our own folders are swept, and everything else stays and stops a run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow as bake_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import flow as boot_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import scratch
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.driver_container import DriverContainer, Place
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import SCRATCH_NOTE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow as removal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import RemoveRequest

from tests.kit.bake import request
from tests.kit.boot import boot, failed
from tests.kit.node import ROOT_MOUNT, FakeNode, bake_layer
from tests.kit.reply import Reply
from tests.kit.values import IMAGE, policy

CONFIG = 'DRIVER_VERSION="580.126.09"\nDRIVER_KIND="cuda"\n'
INSTALL = "#!/usr/bin/env bash\nset -euo pipefail\nsource /opt/gpu/config.sh\n"
UPSTREAM = (  # as an aks-gpu image has it
    *("10-nvidia-runtime.toml", "71-nvidia-char-dev.rules", "blacklist-nouveau.conf", "nvidia-persistenced.service"),
    *("package_manager_helpers.sh", "download.sh", "NVIDIA-Linux-x86_64-580.126.09/nvidia-installer"),
    *("fabricmanager-linux-x86_64-580.126.09/sbin/fm_run_package_installer.sh", "libnvidia-container1_1.19.1-1_amd64.deb"),
    *("nvidia-container-toolkit-base_1.19.1-1_amd64.deb", "NVIDIA-Linux-x86_64-570.211.01-grid-azure/nvidia-installer"),
)
OURS = ("driver/nvidia.ko", "nvidia-installer", "packages/toolkit/x.deb", "71-nvidia-dev-char.rules")  # as lab/images have it

Setup = Callable[[FakeNode], object]


def container(node: FakeNode, place: Place | None = None) -> DriverContainer:
    return DriverContainer(Containerd(node), node, node.root, place=place or Place())


def filled(*paths: str, config: str = CONFIG) -> Setup:
    def fill(node: FakeNode) -> None:
        for path in paths:
            node.put(f"opt/gpu/{path}", path)
        if config:
            node.put("opt/gpu/config.sh", config)

    return fill


def also(*setups: Setup) -> Setup:
    return lambda node: [setup(node) for setup in setups]


def put(path: str, text: str = "somebody's") -> Setup:
    return lambda node: node.put(path, text)


def mounted(point: str) -> Setup:
    return lambda node: node.put("proc/self/mountinfo", f"{ROOT_MOUNT}29 28 8:2 / {point} rw shared:1 - ext4 /dev/sda2 rw\n")


SWEPT = [
    pytest.param(filled(*UPSTREAM), id="upstream's"),
    pytest.param(filled(*OURS), id="the lab's"),
    pytest.param(filled(), id="its configuration alone"),
    pytest.param(filled("NVIDIA-Linux-x86_64-1.2/x", config=""), id="the driver alone"),
    pytest.param(put("opt/actions/install.sh", INSTALL), id="actions"),
    pytest.param(lambda node: [(node.root / folder).mkdir(parents=True) for folder in scratch.FOLDERS], id="empty"),
    pytest.param(lambda node: None, id="not there"),
]


@pytest.mark.parametrize("setup", SWEPT)
def test_what_a_failed_run_left_is_swept(node: FakeNode, setup: Setup) -> None:
    setup(node)
    scratch.require(node.root)
    container(node).clean_slate()
    assert [list((node.root / folder).iterdir()) for folder in scratch.FOLDERS] == [[], []]
    container(node).sweep()
    assert [(node.root / path).exists() for path in (*scratch.FOLDERS, SCRATCH_NOTE)] == [False, False, False]


TAKEN = [
    pytest.param(put("opt/gpu/data"), "/opt/gpu: it contains data", id="a file"),
    pytest.param(also(filled(*UPSTREAM), put("opt/gpu/notes.txt")), "/opt/gpu: it contains notes.txt", id="a file beside a driver image's"),
    pytest.param(put("opt/gpu/.hidden/x"), "/opt/gpu: it contains .hidden", id="a hidden folder"),
    pytest.param(put("opt/gpu/config.sh"), "/opt/gpu: it contains config.sh", id="a config.sh of something else"),
    pytest.param(put("opt/gpu/packages/x.deb"), "/opt/gpu: it contains packages", id="a common name alone"),
    pytest.param(put("opt/actions/run.sh", INSTALL), "/opt/actions: it contains run.sh", id="an action"),
    pytest.param(put("opt/actions/install.sh"), "/opt/actions: it contains install.sh", id="an install.sh of something else"),
    pytest.param(put("opt/gpu"), "/opt/gpu: it is a file", id="a file in its place"),
    pytest.param(also(put("srv/data"), lambda node: node.link("opt/gpu", "/srv")), "/opt/gpu: it is a link", id="a link"),
    pytest.param(
        also(filled("driver/x"), mounted("/opt/gpu/driver")), "/opt/gpu: a filesystem is mounted at /opt/gpu/driver", id="a mount inside"
    ),
    pytest.param(also(put("opt/gpu/data"), mounted("/opt/gpu")), "/opt/gpu: it contains data", id="a mounted disk"),
]


@pytest.mark.parametrize(("setup", "message"), TAKEN)
def test_what_somebody_has_there_stays_and_is_named_before_any_container(node: FakeNode, setup: Setup, message: str) -> None:
    node.add_gpu()
    setup(node)
    before = node.tree()
    runs: dict[str, Callable[[], object]] = {
        "boot": lambda: boot(node),
        "a boot in check mode": lambda: boot_flow.boot(node, policy(), True, root=node.root),
        "bake": lambda: bake_flow.bake(node, request(), root=node.root),
        "what a bake would do": lambda: bake_flow.would_change(node, request(), root=node.root),
        "a container": lambda: container(node).run(IMAGE, "gpuinstall-1", "install", 60),
    }
    for name, run in runs.items():
        with pytest.raises(PreflightError, match=message) as caught:
            run()
        assert (caught.value.code, name) == ("path_taken", name)
        assert {path: text for path, text in node.tree().items() if not path.startswith("var/log")} == before, name
        assert node.driver_runs == [], name
    container(node).sweep()
    assert node.tree() == before, "a clean-up takes nothing of it either"


def test_a_removal_stops_before_it_removes_anything(node: FakeNode) -> None:
    bake_layer(node)
    node.put("opt/gpu/data", "somebody's")
    before = node.tree()
    for check in (True, False):
        with pytest.raises(PreflightError, match="it contains data") as caught:
            removal_flow.remove(node, RemoveRequest(), check, root=node.root)
        assert caught.value.code == "path_taken"
        assert node.tree() == before


def test_where_nothing_of_ours_is_a_removal_has_nothing_to_say_about_it(node: FakeNode) -> None:
    node.put("opt/gpu/data", "somebody's")
    assert removal_flow.remove(node, RemoveRequest(), root=node.root).result == "nothing"


def test_what_any_image_leaves_in_our_folders_is_swept(node: FakeNode) -> None:
    """A container empties the folders and fills them with whatever its image has; only the note in the store says that they are ours."""

    def leaves(node: FakeNode, action: str) -> Reply:
        for folder in scratch.FOLDERS:
            for path in (node.root / folder).iterdir():
                path.unlink()
            node.put(f"{folder}/of-an-unknown-image")
        return Reply(1, "it failed\n")

    node.scripts = [leaves]
    node.add_gpu()
    failed(node, policy(tries=1))
    assert (node.root / "opt/gpu/of-an-unknown-image").exists()
    container(node).end_interrupted()
    assert [(node.root / path).exists() for path in (*scratch.FOLDERS, SCRATCH_NOTE)] == [False, False, False]


def test_a_folder_that_was_made_again_is_not_ours(node: FakeNode) -> None:
    container(node).clean_slate()
    (node.root / "opt/gpu").rename(node.root / "opt/old")  # so that the inode stays in use
    node.put("opt/gpu/data")
    with pytest.raises(PreflightError, match="it contains data"):
        container(node).clean_slate()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "folders": [1]}', '{"schema": 1, "folders": [{"path": []}]}']
)
def test_a_note_that_cannot_be_read_makes_nothing_ours(node: FakeNode, text: str) -> None:
    container(node).clean_slate()
    node.put("opt/gpu/data")
    node.put(SCRATCH_NOTE, text)
    with pytest.raises(PreflightError, match="it contains data"):
        scratch.require(node.root)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_a_note_that_a_user_wrote_makes_nothing_ours(node: FakeNode) -> None:
    container(node).clean_slate()
    node.put("opt/gpu/data")
    os.chown(node.root / SCRATCH_NOTE, 1234, 1234)
    with pytest.raises(PreflightError, match="it contains data"):
        scratch.require(node.root)


def test_the_note_is_there_before_the_container_runs(node: FakeNode) -> None:
    seen: list[dict[str, object]] = []

    def looks(node: FakeNode, action: str) -> Reply:
        seen.extend(json.loads((node.root / SCRATCH_NOTE).read_text())["folders"])
        return Reply()

    node.scripts = [looks]
    container(node).run(IMAGE, "gpuinstall-1", "install", 60)
    assert [one["path"] for one in seen] == list(scratch.FOLDERS)
    assert seen[0]["inode"] == (node.root / "opt/gpu").stat().st_ino


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_an_empty_folder_of_a_user_becomes_roots_before_its_scripts_run(node: FakeNode) -> None:
    folder = node.root / "opt/actions"
    folder.mkdir()
    folder.chmod(0o777)
    os.chown(folder, 1234, 1234)
    container(node).clean_slate()
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o7777) == (0, 0o755)


def test_in_a_sandbox_a_link_leads_to_the_sandboxs_own_folders(node: FakeNode, tmp_path: Path) -> None:
    outside, merged = tmp_path / "data", tmp_path / "merged"
    (outside / "gpu").mkdir(parents=True)
    (outside / "gpu/disk").write_text("the machine's")
    merged.mkdir()
    (merged / "opt").symlink_to(outside)
    made = container(node, Place(str(merged), 4242))
    made.clean_slate()
    assert (merged / str(outside).strip("/") / "gpu").is_dir()
    made.sweep()
    assert (outside / "gpu/disk").read_text() == "the machine's"
    assert not (merged / str(outside).strip("/") / "gpu").exists()
    shutil.rmtree(outside)
