"""What putting a captured layer in place costs, and taking it away, against copying the same files, and how both grow with their number.

The layer is made up: random contents in the proportions of a driver's (12 % of the files are 98 % of the bytes and are linked). It lies
on the node's filesystem, in a root of its own that has the modules of the node's kernel; depmod and ldconfig are real, and work on it.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.ground import Ground
from bench.rows import Row, interleaved, row
from lab import base, host
from plugins.module_utils.gpunode import activation, inventory, manifest
from plugins.module_utils.gpunode.manifest import Identity, Index, Manifest, ModuleFact
from plugins.module_utils.gpunode.runner import SystemRunner
from plugins.module_utils.gpunode.store import Store, objects_of

MB = 1000 * 1000
SIZES = (50, 500, 5000)
BUDGETED = 500
TOTAL, COPIED = 500 * MB, 10 * MB  # of every layer: what grows is the number of files
RUNS = 5
MODULES = 100 * MB
_FEW = ("nvidia", "nvidia-uvm")
_TOOL_S = 600.0


@dataclass(frozen=True)
class Place:
    """A root with a layer in its store, and a folder with the same files to copy from."""

    root: Path
    scratch: Path
    layer: Manifest
    hashing: list[float] = field(default_factory=list)

    def activate(self) -> None:
        """Without reading libraries and firmware; the seconds that modules and programs took go into ``hashing``."""
        begun: list[float] = []

        def say(line: str) -> None:
            if begun or line == "activate: read modules and programs":
                begun.append(time.perf_counter())

        activation.activate(self.root, SystemRunner(), self.layer, say, hash_user_space=False)
        self.hashing.append(begun[1] - begun[0])

    def activate_by_depmod(self) -> None:
        activation.activate(self.root, SystemRunner(), replace(self.layer, indexes=()), hash_user_space=False)

    def deactivate(self) -> None:
        activation.deactivate(self.root, SystemRunner())

    def verify(self) -> None:
        """Raises AssertionError where the store is not as it was made."""
        problems = Store(self.root).problems(objects_of(self.layer))
        if problems:
            raise AssertionError(problems)

    def copy(self) -> None:
        """The same files by cp, and made to last: an activation does that too."""
        target = self.root.parent / "copied"
        host.run(["cp", "-a", str(self.scratch), str(target)], timeout_s=_TOOL_S)
        host.run(["sync", "-f", str(target)], timeout_s=_TOOL_S)

    def forget_copy(self) -> None:
        shutil.rmtree(self.root.parent / "copied")


def bench(ground: Ground) -> list[Row]:
    """Rows in milliseconds."""
    rows: list[Row] = []
    for count in SIZES:
        with made(ground, count) as place:
            rows += _rows(place, count)
    return rows


def _rows(place: Place, count: int) -> list[Row]:
    works = {
        "activate": place.activate,
        "deactivate": place.deactivate,
        "depmod": place.activate_by_depmod,
        "deactivate after depmod": place.deactivate,
        "verify": place.verify,
        "copy": place.copy,
        "forget": place.forget_copy,
    }
    seconds = interleaved(works, RUNS)
    apart = [whole - hashing for whole, hashing in zip(seconds["activate"], place.hashing[1:])]  # the first turn is not counted
    size = sum(entry.size for entry in place.layer.files) // MB
    what = f"{count} files, {size} MB"
    copying = f"copy {what} with cp, and sync"
    return [
        row(f"activate {what}, hashing apart", apart, budget=200 if count == BUDGETED else None, compared_with=copying),
        row(f"activate {what}, modules hashed, depmod run", seconds["depmod"]),
        row(f"deactivate {what}", seconds["deactivate"]),
        row(f"read and hash {what} in the store", seconds["verify"]),
        row(copying, seconds["copy"]),
    ]


@contextmanager
def made(ground: Ground, count: int) -> Iterator[Place]:
    """A root with a layer of ``count`` files; gone afterwards."""
    folder = ground.node.root / "srv/layer"
    kver = base.choose(base.kernels(base.root() / "boot"), "6.1").kver
    root, scratch = folder / "root", folder / "scratch"
    try:
        _make_root(ground.node.root, root, kver)
        module = next((root / "usr/lib/modules" / kver / "kernel").rglob("*.ko")).read_bytes()
        paths = _make_files(scratch, kver, count, module)
        yield Place(root, scratch, _store(root, scratch, kver, paths))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_root(node: Path, root: Path, kver: str) -> None:
    for name in ("etc/ld.so.conf.d", "usr/lib/modules", "usr/bin", "usr/src", "var/lib/dkms"):
        (root / name).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n")
    host.run(["cp", "-a", str(node / "usr/lib/modules" / kver), str(root / "usr/lib/modules")], timeout_s=_TOOL_S)
    _derive(root, kver)


def _derive(root: Path, kver: str) -> None:
    host.run(["depmod", "-b", str(root), kver], timeout_s=_TOOL_S)
    host.run(["ldconfig", "-r", str(root)], timeout_s=_TOOL_S)


def _make_files(scratch: Path, kver: str, count: int, module: bytes) -> list[str]:
    """12 % large and linked, the rest small and copied, like sources. Modules are a real one with random bytes behind it, for depmod."""
    generator = random.Random(count)
    large = count * 12 // 100
    sizes = {f"usr/lib/modules/{kver}/updates/dkms/{name}.ko": MODULES // len(_FEW) for name in _FEW}
    libraries = [f"usr/bin/lib64/lib64/libnvidia-{number}.so.580.126.09" for number in range(large - len(sizes))]
    sizes |= dict.fromkeys(libraries, (TOTAL - COPIED - MODULES) // len(libraries))
    small = [f"usr/src/nvidia-580.126.09/part{number % 30}/file{number}.c" for number in range(count - large)]
    sizes |= dict.fromkeys(small, COPIED // len(small))
    for path, size in sizes.items():
        file = scratch / path
        file.parent.mkdir(parents=True, exist_ok=True)
        start = module if path.endswith(".ko") else b""
        file.write_bytes(start + generator.randbytes(size - len(start)))
    return list(sizes)


def _store(root: Path, scratch: Path, kver: str, paths: list[str]) -> Manifest:
    parents = {str(parent) for path in paths for parent in Path(path).parents} - {"."}
    folders = sorted(path for path in parents if not (root / path).exists())
    indexes = f"usr/lib/modules/{kver}"
    before = _indexes(root, indexes)
    identity = Identity(kver, "x86_64", "cuda", "580.126.09", "open", "sha256:" + hashlib.sha256(b"bench").hexdigest())
    layer = Manifest(
        layer=manifest.layer_name(identity),
        mode=manifest.CAPTURED,
        created="",
        identity=identity,
        image="",
        actions=(),
        accept_no_device=False,
        files=inventory.describe(scratch, [*folders, *sorted(paths)]),
        replaced=(),
        deleted=(),
        build_s=0.0,
        tries=1,
        warnings=(),
    )
    facts = tuple(ModuleFact(entry.path, "", "", kver, "", "") for entry in layer.modules)
    store = Store(root)
    for entry in objects_of(layer):
        store.put(scratch / entry.path, entry)
    layer = replace(layer, module_facts=facts)
    manifest.write(root, layer)
    active = activation.activate(root, SystemRunner(), layer)  # runs depmod, whose work becomes that of the bake
    made_by = {derived.program: derived.after for derived in active.derived}["depmod"]
    for entry in made_by:
        store.put(root / entry.path, entry)
    layer = replace(layer, indexes=tuple(Index(e.path, before.get(e.path, ""), e) for e in made_by))
    manifest.write(root, layer)
    activation.deactivate(root, SystemRunner())
    if _indexes(root, indexes) != before:
        raise AssertionError("the indexes are not what they were before the activation")
    os.sync()
    return layer


def _indexes(root: Path, folder: str) -> dict[str, str]:
    names = [f"{folder}/{path.name}" for path in (root / folder).glob("modules.*")]
    return {entry.path: entry.sha256 for entry in inventory.describe(root, sorted(names))}
