"""A fake node with a captured layer in its store: real files, links, modes and owners.

Its depmod and ldconfig are fakes that make their files from what is there, as the real ones do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import footprint
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ORIGINALS
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.linking import may_be_linked
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Index, Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, key, objects_of
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.tree import Entry, Listing, attributes, describe

from tests.kit import values as support
from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import KVER, LIBRARIES, LOADER, VERSION

MODULES = f"usr/lib/modules/{KVER}"
MODULE = f"{MODULES}/updates/dkms/nvidia.ko"
LIBRARY = f"{LIBRARIES}/libcuda.so.{VERSION}"
SETUID = "usr/bin/nvidia-modprobe"
BUILT_FROM = f"usr/src/nvidia-{VERSION}/nvidia/nv-kernel.o_binary"
REPLACED, REPLACED_LINK, DELETED = "etc/modprobe.d/system.conf", "usr/lib/libGL.so.1", "etc/ld.so.conf.d/old.conf"
DELETED_FOLDER, SHARED_FOLDER = "etc/old.d", "usr/lib/shared"
STORE = "var/lib/gpu-prebake"
OTHER_ID = 44 if os.geteuid() == 0 else os.geteuid()  # only root may give a folder away


def depmod(node: FakeNode, words: list[str]) -> Reply:
    folder = node.root / MODULES
    modules = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.ko"))
    for name in ("modules.dep", "modules.dep.bin", "modules.alias"):
        temporary = folder / f"{name}.4711.500000.1795577719"
        temporary.write_text(name + "".join(f"\n{module}:" for module in modules), encoding="utf-8")
        temporary.replace(folder / name)
    return Reply()


def ldconfig(node: FakeNode, words: list[str]) -> Reply:
    folders = [LOADER, *((node.root / "etc/ld.so.conf.d").glob("*.conf"))]
    names = [str(f) if isinstance(f, str) else f.read_text(encoding="utf-8").strip().strip("/") for f in folders]
    found = []
    for name in sorted(names):
        folder = node.root / name
        for library in sorted(folder.glob("lib*.so.*.*")):
            found.append(f"{name}/{library.name}")
            link = library.with_name(library.name.partition(".so.")[0] + ".so.1")
            if not link.is_symlink():
                link.symlink_to(library.name)
    temporary = node.root / "etc/ld.so.cache~"
    temporary.write_text("\n".join(found), encoding="utf-8")
    temporary.replace(node.root / "etc/ld.so.cache")
    return Reply()


class LayerNode(FakeNode):
    """A fake node whose depmod and ldconfig write their files."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.programs.update(depmod=depmod, ldconfig=ldconfig)
        self.put(REPLACED, "options system\n", 0o640)
        self.put("usr/lib/libGL-system.so", "GL")
        self.link(REPLACED_LINK, "libGL-system.so")
        self.put(DELETED, "/old\n")
        self.put(f"{DELETED_FOLDER}/sub/old.conf", "old", 0o600)
        (self.root / DELETED_FOLDER).chmod(0o750)
        self.put(f"{SHARED_FOLDER}/shared.conf", "shared")
        depmod(self, [KVER])
        ldconfig(self, [])
        self.calls.clear()

    def kernel_hook_builds(self, kver: str) -> list[str]:
        """What DKMS's hook leaves after another kernel was installed: paths."""
        tree = f"var/lib/dkms/nvidia/{VERSION}/{kver}/x86_64"
        paths = [f"usr/lib/modules/{kver}/updates/dkms/nvidia.ko", f"{tree}/module/nvidia.ko", f"{tree}/log/make.log"]
        if not (self.root / "usr/lib/modules" / kver).exists():
            self.add_kernel(kver)
        for path in paths:
            self.put(path, f"version:        {VERSION}\nbuilt by the hook\n")
        link = f"var/lib/dkms/nvidia/kernel-{kver}-x86_64"
        self.link(link, f"{VERSION}/{kver}/x86_64")
        return [*paths, link]

    def build(self, version: str = VERSION, kver: str = "", kind: str = "cuda", licence: str = "Dual MIT/GPL", **options: Any) -> None:
        super().build(version, kver, kind, licence, **options)
        self.put(REPLACED, "options nvidia\n", 0o644)
        self.link(REPLACED_LINK, "libGL-nvidia.so")
        (self.root / DELETED).unlink(missing_ok=True)
        self.put("usr/lib/firmware/nvidia/gsp.bin", "firmware")
        self.put(BUILT_FROM.replace(VERSION, version), "closed part")
        (self.root / "opt/azure").chmod(0o750)
        shutil.rmtree(self.root / DELETED_FOLDER, ignore_errors=True)
        (self.root / SHARED_FOLDER).chmod(0o2770)
        os.chown(self.root / SHARED_FOLDER, OTHER_ID, OTHER_ID)
        depmod(self, [KVER])
        ldconfig(self, [])


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is such a filesystem: these tests make and remove some hundred thousand files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def described(root: Path, listing: Listing) -> dict[str, Entry]:
    return {entry.path: entry for entry in describe(root, sorted(listing))}


def derived_files(root: Path) -> dict[str, Entry]:
    return {e.path: e for e in describe(root, (f"{MODULES}/{p.name}" for p in sorted((root / MODULES).glob("modules.*"))))}


def capture(node: LayerNode, scratch: Path, kind: type[LayerNode] = LayerNode, says_linked: bool = True, **changes: Any) -> Manifest:
    """What a captured bake would leave in the store of ``node``: built on a copy of it, so that the node itself stays as it is.

    Without ``says_linked``, as 0.1.0 did, whose manifests do not say which files are linked.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(node.root, scratch, symlinks=True)
    builder = kind.__new__(kind)
    builder.__dict__.update(node.__dict__, root=scratch)
    builder.build()
    before, after = described(node.root, footprint.listing(node.root)), described(scratch, footprint.listing(scratch))
    indexes, made = derived_files(node.root), derived_files(scratch)
    replaced = sorted(p for p in before if p in after and before[p] != after[p])
    deleted = sorted(p for p in before if p not in after)
    layer = support.manifest(
        stored=True,
        files=tuple(_said(after[p], says_linked) for p in sorted(after) if before.get(p) != after[p]),
        replaced=tuple(replaced),
        deleted=tuple(deleted),
        originals=tuple(before[p] for p in [*replaced, *deleted]),
        indexes=tuple(Index(p, indexes[p].sha256 if p in indexes else "", made[p]) for p in sorted(made)),
        **changes,
    )
    store = Store(node.root)
    for entry in objects_of(layer):
        store.put(scratch / entry.path, entry)
    path = layers.write(node.root, layer)
    if not says_linked:
        document = json.loads(path.read_text(encoding="utf-8"))
        del document["linked"]
        path.write_text(json.dumps({**document, "schema": 2, "mode": "captured"}), encoding="utf-8")
    shutil.rmtree(scratch)
    return layer


def _said(entry: Entry, says_linked: bool) -> Entry:
    return replace(entry, linked=may_be_linked(entry)) if says_linked else entry


def snapshot(root: Path, without: str = STORE) -> dict[str, tuple[Any, ...]]:
    """All of a system but the store: type, mode, owner, target or contents, and when a file was changed if it is the system's own."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder, name)
            relative = str(path.relative_to(root))
            if relative == without or relative.startswith(without + "/"):
                continue
            status = path.lstat()
            owner = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, attributes(path))
            if path.is_symlink():
                found[relative] = (*owner, os.readlink(path))  # noqa: PTH115 - a Path would tidy it up
            elif path.is_file():
                found[relative] = (*owner, hashlib.sha256(path.read_bytes()).hexdigest())
            else:
                found[relative] = owner
    return found


def store_files(root: Path) -> set[str]:
    """Every file in the store."""
    return {str(p.relative_to(root / STORE)) for p in (root / STORE).rglob("*") if not p.is_dir()}


def a_node(tmp_path: Path, **changes: Any) -> tuple[LayerNode, Manifest]:
    node = LayerNode(tmp_path / "root")
    return node, capture(node, tmp_path / "scratch", **changes)


def alter(node: LayerNode, path: str, **changes: int | str) -> None:
    file = node.root / path
    if "text" in changes:
        file.write_text(str(changes["text"]), encoding="utf-8")
    if "mode" in changes:
        file.chmod(int(changes["mode"]))


def object_of(node: LayerNode, layer: Manifest, path: str) -> Path:
    entry = next(e for e in layer.files if e.path == path)
    return Path(Store(node.root).file(entry))


def set_aside(kept: Entry) -> str:
    """Where what a layer replaced or deleted is, that was not put back."""
    return f"{ORIGINALS}/{key(kept)[:16]}-{Path(kept.path).name}"


def remove(node: LayerNode, path: str) -> None:
    (node.root / path).unlink()


def flip(path: Path) -> None:
    """Another content of the same size, mode and times."""
    data, status = path.read_bytes(), path.stat()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def refused(node: LayerNode, layer: Manifest, code: str, *words: str) -> None:
    before, calls = snapshot(node.root, "none"), len(node.calls)
    with pytest.raises(LayerError) as caught:
        activate.activate(node.root, node, layer)
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in str(caught.value)
    assert snapshot(node.root, "none") == before
    assert len(node.calls) == calls
