"""The store's objects: their keys, which may be linked, the checks of an object, garbage collection."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import LAYERS, OBJECTS, STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import linking, objects
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.tree import Entry

from tests.kit import layer as layernode
from tests.kit import values as support
from tests.kit.node import write_as_0_1_0
from tests.kit.values import KVER, entry

LIBRARY, OTHER = "usr/lib/libcuda.so.1.2", "etc/nvidia.conf"


def made(root: Path, path: str, text: str = "abc", mode: int = 0o644) -> Entry:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return tree.describe(root, [path])[0]


@pytest.mark.parametrize(
    ("path", "changes", "linkable"),
    [
        pytest.param(f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko", {}, True, id="module"),
        pytest.param(f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko.zst", {}, True, id="compressed module"),
        pytest.param("usr/bin/lib64/lib64/libcuda.so.580.126.09", {}, True, id="library"),
        pytest.param("usr/lib/x/libcuda.so", {"mode": 0o755}, True, id="library without a number"),
        pytest.param("usr/lib/firmware/nvidia/580/gsp_ga10x.bin", {}, True, id="firmware"),
        pytest.param("lib/firmware/nvidia/580/gsp_ga10x.bin", {}, True, id="firmware without merged usr"),
        pytest.param("usr/bin/nvidia-smi", {"mode": 0o755}, False, id="program"),
        pytest.param("etc/ld.so.conf.d/nvidia.conf", {}, False, id="configuration"),
        pytest.param("usr/src/nvidia-1.2/nvidia.ko.c", {}, False, id="source"),
        pytest.param("usr/lib/libcuda.so.1", {"mode": 0o4755}, False, id="setuid"),
        pytest.param("usr/lib/libcuda.so.1", {"uid": os.geteuid() + 1}, False, id="another owner's, who could write through the link"),
        pytest.param("usr/lib/libcuda.so.1", {"mode": 0o2755}, False, id="setgid"),
        pytest.param("usr/lib/libcuda.so.1", {"mode": 0o666}, False, id="writable by others"),
        pytest.param("usr/lib/libcuda.so.1", {"attributes": (("user.a", ""),)}, False, id="attributes"),
        pytest.param("usr/lib/libcuda.so.1", {"type": "link", "size": 0, "sha256": "", "target": "x"}, False, id="link"),
    ],
)
def test_only_large_read_only_payload_is_linkable(path: str, changes: dict[str, Any], linkable: bool) -> None:
    assert linking.is_linkable(entry(path, **changes)) == linkable


@pytest.mark.parametrize(
    ("path", "changes", "linkable"),
    [
        pytest.param("usr/src/nvidia-1.2/nvidia/nv-kernel.o_binary", {}, True, id="what the modules are linked from"),
        pytest.param("usr/src/nvidia-1.2/nvidia/nv-kernel.o_binary", {"mode": 0o664}, False, id="writable by a group"),
        pytest.param("usr/src/nvidia-1.2/nvidia/nv.c", {}, False, id="source"),
        pytest.param("usr/lib/x/nv-kernel.o_binary", {}, False, id="not among sources"),
        pytest.param("usr/lib/libcuda.so.1", {}, True, id="library"),
        pytest.param("usr/lib/libcuda.so.1", {"mode": 0o4755}, False, id="setuid"),
    ],
)
def test_what_a_bake_lets_be_linked(path: str, changes: dict[str, Any], linkable: bool) -> None:
    assert linking.may_be_linked(entry(path, **changes)) == linkable


@pytest.mark.parametrize("said", [True, False])
def test_what_a_document_says_decides_and_is_no_difference(said: bool) -> None:
    for path in (LIBRARY, OTHER):
        one = entry(path, linked=said)
        assert linking.is_linkable(one) is said
        assert one == entry(path)
    assert (objects.key(entry(OTHER, linked=said)) == objects.key(entry(OTHER))) is not said


def test_an_object_is_named_after_content_mode_owner_and_attributes() -> None:
    base = entry(LIBRARY)
    others = [{"sha256": "1" * 64}, {"mode": 0o755}, {"uid": 1}, {"gid": 1}, {"attributes": (("user.a", ""),)}, {"path": OTHER}]
    keys = {objects.key(base), *(objects.key(replace(base, **change)) for change in others)}
    assert len(keys) == len(others) + 1
    assert objects.key(replace(base, path="usr/lib/other.so")) == objects.key(base)


def test_put_keeps_a_content_once_and_lets_only_root_see_it(tmp_path: Path) -> None:
    root = tmp_path
    library, program = made(root, LIBRARY, mode=0o644), made(root, "usr/bin/nvidia-modprobe", "x", 0o4755)
    kept = Store(root)
    for one in (library, program, replace(library, path="usr/lib/copy.so")):
        assert kept.put(root / one.path.replace("copy.so", "libcuda.so.1.2"), one) == objects.key(one)
    files = [p for p in kept.objects.rglob("*") if p.is_file()]
    assert sorted(p.name for p in files) == sorted({objects.key(library), objects.key(program)})
    assert kept.path(objects.key(program)).stat().st_mode & 0o7777 == 0o600
    assert kept.path(objects.key(library)).stat().st_mode & 0o7777 == 0o644
    folders = [p for p in (root / STORE).rglob("*") if p.is_dir()]
    assert {stat.S_IMODE(p.stat().st_mode) for p in [root / STORE, *folders]} == {0o700}
    assert kept.problems([library, program]) == ()


def test_put_refuses_what_is_not_what_was_described(tmp_path: Path) -> None:
    library = made(tmp_path, LIBRARY)
    (tmp_path / LIBRARY).write_text("abd")
    with pytest.raises(DataError, match="changed while"):
        Store(tmp_path).put(tmp_path / LIBRARY, library)
    assert layernode.store_files(tmp_path) == set()


def test_put_follows_no_link(tmp_path: Path) -> None:
    library = made(tmp_path, LIBRARY)
    (tmp_path / "elsewhere").symlink_to(tmp_path / LIBRARY)
    with pytest.raises(OSError, match="symbolic links"):
        Store(tmp_path).put(tmp_path / "elsewhere", library)


def test_put_leaves_a_good_object_and_mends_a_bad_one(tmp_path: Path) -> None:
    library, kept = made(tmp_path, LIBRARY), Store(tmp_path)
    path = kept.path(kept.put(tmp_path / LIBRARY, library))
    inode = path.stat().st_ino
    kept.put(tmp_path / LIBRARY, library)
    assert path.stat().st_ino == inode
    path.write_text("xyz")
    kept.put(tmp_path / LIBRARY, library)
    assert path.stat().st_ino != inode
    assert kept.problems([library]) == ()


@pytest.mark.parametrize(
    ("change", "problem", "by_status"),
    [
        pytest.param(lambda p: p.unlink(), "No such file", True, id="gone"),
        pytest.param(lambda p: p.write_text("ab"), "not have the recorded size", True, id="cut off"),
        pytest.param(lambda p: p.chmod(0o4755), "not have the mode", True, id="chmodded"),
        pytest.param(lambda p: (p.unlink(), p.symlink_to("/etc/passwd")), "not have the recorded size", True, id="a link"),
        pytest.param(lambda p: p.write_text("abd"), "not have the recorded content", False, id="other content"),
    ],
)
def test_problems_of_an_object_are_named(tmp_path: Path, change: Any, problem: str, by_status: bool) -> None:
    library, kept = made(tmp_path, LIBRARY), Store(tmp_path)
    change(kept.path(kept.put(tmp_path / LIBRARY, library)))
    assert problem in kept.problems([library])[0]
    assert f"/{LIBRARY}" in kept.problems([library])[0]
    assert bool(kept.status_problems([library])) == by_status


def test_an_attribute_on_a_linkable_object_is_a_problem(tmp_path: Path) -> None:
    library, kept = made(tmp_path, LIBRARY), Store(tmp_path)
    path = kept.path(kept.put(tmp_path / LIBRARY, library))
    try:
        os.setxattr(path, "user.x", b"1")
    except OSError as error:
        pytest.skip(f"this filesystem holds no attributes: {error}")
    assert "attribute" in kept.problems([library])[0]
    (tmp_path / LIBRARY).unlink()
    os.link(path, tmp_path / LIBRARY)
    assert tree.problems(tmp_path, [library]) == (f"/{LIBRARY}: its attributes changed since it was recorded",)


def test_collect_drops_what_nothing_names(tmp_path: Path) -> None:
    node, layer = layernode.a_node(tmp_path)
    kept = Store(node.root)
    needed = layernode.store_files(node.root)
    kept.put(node.root / "usr/bin/gcc", tree.describe(node.root, ["usr/bin/gcc"])[0])
    node.put(f"{OBJECTS}/ab/.{'ab' * 32}.1.tmp", "half")
    node.put(f"{LAYERS}/cuda-1.2-open-6.1/.manifest.json.1.tmp", "half")
    assert layernode.store_files(node.root) > needed
    assert kept.collect() == 4
    assert layernode.store_files(node.root) == needed
    assert kept.referenced() == {objects.key(e) for e in objects.objects_of(layer)}
    assert not (node.root / LAYERS / "cuda-1.2-open-6.1").exists()


def test_a_layer_that_0_1_0_baked_in_place_needs_no_objects(tmp_path: Path) -> None:
    write_as_0_1_0(tmp_path, support.manifest())
    assert Store(tmp_path).referenced() == set()
    assert Store(tmp_path / "nowhere").collect() == 0
