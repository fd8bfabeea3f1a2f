"""The image that does all that the public images do: its layer, its names as our own reader knows them, and its scripts on a small root."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.file_recorder import FileRecorder
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import driver_container, leftovers, scratch
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import traces

from lab.driverimages import ocilayout, publicparts

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("dpkg-deb")), reason="needs gcc and dpkg-deb"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer, unpacked."""
    folder = tmp_path_factory.mktemp("public")
    publicparts.build_top(folder, "580.126.09", "cuda")
    (folder / "tree").mkdir()
    subprocess.run(["tar", "-xzf", str(folder / ocilayout.LAYER_FILE), "-C", str(folder / "tree")], check=True)
    return folder / "tree"


def test_our_reader_knows_every_name_in_its_folder(tree: Path) -> None:
    (tree / "opt/gpu/driver").mkdir(exist_ok=True)
    assert scratch.taken(tree, "opt/gpu") == ""
    assert scratch.taken(tree, "opt/actions") == ""


def test_its_entrypoint_knows_every_action(tree: Path) -> None:
    assert driver_container.actions_in((tree / "entrypoint.sh").read_text()) == driver_container.ACTIONS


def test_fabric_manager_is_copied_to_where_the_contract_says(tree: Path, tmp_path: Path) -> None:
    """The script that copies, with the root in another place: what comes is recorded whole, and nothing else is."""
    root = tmp_path / "root"
    folders = ("usr/bin", "usr/include", "usr/lib/x86_64-linux-gnu", "usr/lib/systemd/system", "usr/share/doc")
    for folder in (*folders, "var/lib", "etc/systemd/system/multi-user.target.wants"):
        (root / folder).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    text = (tree / "opt/gpu/fm_run_package_installer.sh").read_text()
    for top in ("/usr/", "/lib/"):
        text = text.replace(f" {top}", f" {root}{top}").replace(f'"{top}', f'"{root}{top}')
    recorder = FileRecorder(root, (), interrupted=False)
    recorder.begin()
    folder = tree / "opt/gpu/fabricmanager-linux-x86_64-580.126.09"
    subprocess.run(["bash", "-s", str(folder)], input=text, text=True, check=True)
    there = {path for path in leftovers.FABRIC_MANAGER if (root / path).exists()}
    assert {path for path in leftovers.FABRIC_MANAGER if "aarch64" not in path and ".wants" not in path} == there
    recorder.end(compiled=False)
    assert '"others": []' in (root / "var/lib/gpu-prebake/placed.json").read_text()


def test_its_traces_are_known_as_such(tree: Path) -> None:
    """The beginning of install.sh, up to where it would change the machine."""
    text = (tree / "opt/actions/install.sh").read_text().partition("choose_kernel() {")[0].replace("/opt/gpu/", f"{tree}/opt/gpu/")
    done = subprocess.run(["bash", "-s"], input=text, text=True, capture_output=True, check=True)
    assert len(done.stderr.splitlines()) > 8
    assert [line for line in done.stderr.splitlines() if not traces.is_trace(line)] == []
