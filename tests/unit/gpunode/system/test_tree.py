"""Which files were added, changed and deleted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import footprint
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.tree import Difference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

from tests.kit.node import FakeNode
from tests.kit.values import entry


def test_tells_added_replaced_and_deleted(node: FakeNode) -> None:
    node.put("usr/bin/stays", "a")
    node.put("usr/bin/changes", "a")
    node.put("usr/bin/goes", "a")
    before = footprint.listing(node.root)
    node.put("usr/bin/comes", "a")
    node.put("usr/bin/changes", "bb")
    (node.root / "usr/bin/goes").unlink()
    node.link("etc/link", "nowhere")
    found = tree.difference(before, footprint.listing(node.root))
    assert found == Difference(("etc/link", "usr/bin/comes"), ("usr/bin/changes",), ("usr/bin/goes",))


def test_a_mode_is_a_change_and_a_look_is_none(node: FakeNode) -> None:
    node.put("usr/bin/x", "a")
    before = footprint.listing(node.root)
    (node.root / "usr/bin/x").read_text()
    assert tree.difference(before, footprint.listing(node.root)) == Difference((), (), ())
    (node.root / "usr/bin/x").chmod(0o4755)
    assert tree.difference(before, footprint.listing(node.root)).replaced == ("usr/bin/x",)


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("usr/lib/modules/6.1/modules.dep", True),
        ("lib/modules/6.1/modules.alias.bin", True),
        ("boot/initrd.img-6.1", True),
        ("etc/ld.so.cache", True),
        ("opt/gpu", True),
        ("opt/gpu/x", True),
        ("usr/lib/python3/__pycache__/x.pyc", True),
        ("usr/lib/modules/6.1/updates/dkms/nvidia.ko", False),
        ("opt/gpus", False),
        ("etc/modules.conf", False),
        ("boot/vmlinuz-6.1", False),
    ],
)
def test_generated_files_and_scratch_are_ignored(path: str, ignored: bool) -> None:
    assert footprint.is_ignored(path) is ignored


def test_describes_files_links_and_folders(node: FakeNode) -> None:
    node.put("usr/bin/x", "abc", 0o755)
    node.link("usr/bin/y", "x")
    file, link, folder = tree.describe(node.root, ["usr/bin/x", "usr/bin/y", "usr/bin"])
    assert (file.type, file.mode, file.size, file.sha256) == ("file", 0o755, 3, entry("usr/bin/x").sha256)
    assert (link.type, link.target, folder.type) == ("link", "x", "folder")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda n: None, "", id="unchanged"),
        pytest.param(lambda n: n.put("usr/bin/x", "abd"), "its sha256", id="the same size, another content"),
        pytest.param(lambda n: (n.root / "usr/bin/x").chmod(0o600), "its mode", id="mode"),
        pytest.param(lambda n: (n.root / "usr/bin/x").unlink(), "No such file", id="gone"),
        pytest.param(lambda n: n.link("usr/bin/x", "y"), "its type", id="a link in its place"),
    ],
)
def test_names_what_is_not_as_recorded(node: FakeNode, spoil: Callable[[FakeNode], object], message: str) -> None:
    node.put("usr/bin/x", "abc")
    entries = tree.describe(node.root, ["usr/bin/x"])
    spoil(node)
    found = tree.problems(node.root, entries)
    assert len(found) == bool(message)
    assert all(message in problem and "/usr/bin/x" in problem for problem in found)


def test_a_file_with_several_names_is_read_once(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, text in (("usr/a", "1"), ("usr/other", "other"), ("usr/equal", "1")):
        node.put(path, text)
    for path in ("usr/b", "usr/c"):
        os.link(node.root / "usr/a", node.root / path)
    read: list[str] = []
    monkeypatch.setattr(tree, "sha256", lambda path: read.append(path) or files.sha256(path))
    found = tree.describe_present(node.root, ["usr/a", "usr/b", "usr/gone", "usr/c", "usr/other", "usr/equal"])
    assert len(read) == 3
    hashes = {path: now and now.sha256 for path, now in found.items()}
    assert list(hashes) == ["usr/a", "usr/b", "usr/gone", "usr/c", "usr/other", "usr/equal"]
    assert hashes["usr/gone"] is None
    assert hashes["usr/a"] == hashes["usr/b"] == hashes["usr/c"] == hashes["usr/equal"] != hashes["usr/other"]


def test_a_file_that_goes_before_it_is_read_is_not_there(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.put("usr/a", "1")
    monkeypatch.setattr(tree, "sha256", lambda path: Path(path).unlink() or files.sha256(path))
    assert tree.describe_present(node.root, ["usr/a"]) == {"usr/a": None}


def test_hashes_alone_are_checked_too(node: FakeNode) -> None:
    node.put("usr/bin/x", "abc")
    right = {"usr/bin/x": entry("x").sha256}
    assert tree.hash_problems(node.root, right) == ()
    assert len(tree.hash_problems(node.root, {"usr/bin/x": "00", "usr/bin/gone": "00"})) == 2


@pytest.mark.parametrize(
    ("path", "decides"),
    [("usr/lib/firmware/x", True), ("usr/bin/nvidia-smi", True), ("usr/src/x", False), ("etc/x", False), ("var/lib/dkms/x", False)],
)
def test_what_decides(path: str, decides: bool) -> None:
    assert footprint.decides(entry(path)) is decides
    assert not footprint.decides(entry(path, type="folder"))


def test_a_folder_belongs_with_what_alone_is_in_it() -> None:
    mine, others = ["etc/OpenCL/vendors/nvidia.icd", "usr/lib/nvidia/a"], ["usr/lib/b"]
    assert footprint.folders_of(mine, others, ["etc/OpenCL", "etc/OpenCL/vendors", "usr/lib", "usr/share"]) == {
        "etc/OpenCL",
        "etc/OpenCL/vendors",
    }


def test_the_topmost_of_paths() -> None:
    assert footprint.topmost(["a/b", "a/b/c", "a/bc", "d"]) == ["a/b", "a/bc", "d"]


def test_a_pipe_in_place_of_a_recorded_file_is_a_problem_and_nobody_waits_for_it(node: FakeNode) -> None:
    (node.root / "usr/lib").mkdir(exist_ok=True)
    os.mkfifo(node.root / "usr/lib/libcuda.so.1")
    assert tree.hash_problems(node.root, {"usr/lib/libcuda.so.1": "0" * 64}) == ("/usr/lib/libcuda.so.1: it is not a regular file",)
