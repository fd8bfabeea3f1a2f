"""Runs on a node, with the library beside it: activates and deactivates layers and prints the seconds as JSON. Standard library only.

`python3 -m bench.onlayer made-up RUNS KVER FILES MB` makes up a layer in the node's store. `… indexes`, with the same arguments, does so to
measure depmod. `… stored RUNS LAYER` uses a layer that is in the store. The layer is activated in the node's own root, with the node's own
depmod, ldconfig and DKMS; afterwards the node is as it was, but for files below HELD.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.rows import interleaved
from plugins.module_utils.gpunode.activation import activate as activation_activate
from plugins.module_utils.gpunode.activation import deactivate as activation_deactivate
from plugins.module_utils.gpunode.activation import discard
from plugins.module_utils.gpunode.store import layers, manifest
from plugins.module_utils.gpunode.store.linking import is_linkable
from plugins.module_utils.gpunode.store.manifest import Identity, Index, Manifest, ModuleFact
from plugins.module_utils.gpunode.store.objects import Store, objects_of
from plugins.module_utils.gpunode.system import tree
from plugins.module_utils.gpunode.util.run import SystemRunner

MB = 1000 * 1000
ROOT = Path("/")
HERE = Path("/srv/layer")
# ext4 does not use the inode of a deleted file again for some minutes, and looks through all such inodes for each new file. A node
# activates a layer once; only here thousands of files are made and removed again and again. So they keep a name here, until the node goes.
HELD = Path("/srv/held")
_NAMES = ("nvidia", "nvidia-uvm")
_VERSION = "580.126.08"  # not the stand-in's, because both are in the store


def main() -> None:
    """See the top of this file."""
    what, runs, *words = sys.argv[1:]
    found = stored(int(runs), words[0]) if what == "stored" else made_up(what, int(runs), words[0], int(words[1]), int(words[2]) * MB)
    json.dump(found, sys.stdout)


def made_up(what: str, runs: int, kver: str, count: int, size: int) -> dict[str, object]:
    """Seconds of each work on a layer of ``count`` files and ``size`` bytes, in turns, and of a copy of the same files, or of depmod."""
    before = _indexes(kver)
    layer = make(kver, count, size)
    place = Place(layer)
    works: dict[str, Callable[[], object]] = {"activate": place.activate, "hold": place.hold, "deactivate": place.deactivate}
    if what == "indexes":
        works["activate_depmod"] = lambda: place.activate("activate_depmod", by_depmod=True)
        works["depmod"] = lambda: _run("depmod", kver)
        works["hold_depmod"] = place.hold
        works["deactivate_depmod"] = place.deactivate
    else:
        works["verify"] = place.verify
        works["copy"] = _copy
        works["hold_copy"] = lambda: _hold(HERE / "copied")
    seconds = place.measure(works, runs)
    discard.discard(ROOT, SystemRunner(), layer.layer)
    _hold(HERE)
    if _indexes(kver) != before:
        raise AssertionError("the module indexes are not what they were before")
    return {**_described(layer), "seconds": seconds}


def stored(runs: int, name: str) -> dict[str, object]:
    """The same for a layer in the store, and the seconds of `dkms remove`, with which one begins to clean up an in-place bake."""
    layer = layers.find(ROOT, name)
    before = _indexes(layer.identity.kver)
    place = Place(layer)
    works = {
        "activate": place.activate,
        "hold": place.hold,
        "deactivate": place.deactivate,
        "activate_again": lambda: place.activate("activate_again"),
        "hold_again": place.hold,
        "dkms_remove": lambda: _run("dkms", "remove", f"nvidia/{layer.identity.version}", "--all"),
        "deactivate_rest": place.deactivate,
        "verify_modules": place.verify_modules,
    }
    seconds = place.measure(works, runs)
    if _indexes(layer.identity.kver) != before:
        raise AssertionError("the module indexes are not what they were before")
    return {**_described(layer), "seconds": seconds}


def _described(layer: Manifest) -> dict[str, object]:
    files = [entry for entry in layer.files if entry.type == "file"]
    size, copied = (sum(entry.size for entry in entries) for entries in (files, [e for e in files if not is_linkable(e)]))
    return {"files": len(files), "entries": len(layer.files), "bytes": size, "copied": copied}


@dataclass(frozen=True)
class Place:
    """A layer in the store. ``hashing`` holds the seconds for hashing modules and programs in each activation, by the activation's name."""

    layer: Manifest
    hashing: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, works: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
        """Seconds of each of ``works``; for each activation also the seconds without hashing (the suffix ``_apart``)."""
        seconds = interleaved(works, runs)
        for name, hashing in self.hashing.items():
            # The first turn is not counted.
            seconds[f"{name}_apart"] = [whole - part for whole, part in zip(seconds[name], hashing[1:])]
        return seconds

    def activate(self, name: str = "activate", by_depmod: bool = False) -> None:
        """Activates the layer as a boot does: without hashing libraries and firmware, which a boot hashes later."""
        begun: list[float] = []

        def say(line: str) -> None:
            if begun or line == "activate: read":
                begun.append(time.perf_counter())

        layer = replace(self.layer, indexes=()) if by_depmod else self.layer
        activation_activate.activate(ROOT, SystemRunner(), layer, say, hash_user_space=False)
        self.hashing.setdefault(name, []).append(begun[1] - begun[0])

    def hold(self) -> None:
        """Gives each file that was copied a second name in HELD."""
        folder = _new_folder()
        for number, entry in enumerate(self.layer.files):
            if entry.type == "file" and not is_linkable(entry):
                (folder / str(number)).hardlink_to(ROOT / entry.path)

    def deactivate(self) -> None:
        activation_deactivate.deactivate(ROOT, SystemRunner())

    def verify(self) -> None:
        _must_be_none(Store(ROOT).problems(objects_of(self.layer)))

    def verify_modules(self) -> None:
        _must_be_none(Store(ROOT).problems(self.layer.modules))


def _must_be_none(problems: tuple[str, ...]) -> None:
    if problems:
        raise AssertionError(problems)


def _copy() -> None:
    """Copies the same files with cp and flushes them to the disk, as an activation does."""
    _run("cp", "-a", str(HERE / "scratch"), str(HERE / "copied"))
    _run("sync", "-f", str(HERE / "copied"))


def _hold(folder: Path) -> None:
    """Moves a folder into HELD, without the contents of its files."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    folder.rename(_new_folder() / folder.name)


def _new_folder() -> Path:
    HELD.mkdir(parents=True, exist_ok=True)
    folder = HELD / str(len(list(HELD.iterdir())))
    folder.mkdir()
    return folder


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def make(kver: str, count: int, size: int) -> Manifest:
    """Makes a layer in the store and keeps a copy of its files below HERE. Its indexes are those that depmod made on a first activation."""
    scratch = HERE / "scratch"
    paths = _make_files(scratch, kver, count, size)
    parents = {str(parent) for path in paths for parent in Path(path).parents} - {"."}
    folders = sorted(path for path in parents if not (ROOT / path).exists())
    identity = Identity(kver, "x86_64", "cuda", _VERSION, "open", "sha256:" + hashlib.sha256(b"bench").hexdigest())
    layer = Manifest(
        layer=manifest.layer_name(identity),
        created="",
        identity=identity,
        image="",
        actions=(),
        accept_no_device=False,
        files=tree.describe(scratch, [*folders, *sorted(paths)]),
        replaced=(),
        deleted=(),
        build_s=0.0,
        tries=1,
        warnings=(),
    )
    layer = replace(layer, module_facts=tuple(ModuleFact(e.path, "", "", kver, "", "") for e in layer.modules))
    store = Store(ROOT)
    for entry in objects_of(layer):
        store.put(scratch / entry.path, entry)
    layers.write(ROOT, layer)
    before = _indexes(kver)
    active = activation_activate.activate(ROOT, SystemRunner(), layer)
    made = {derived.program: derived.after for derived in active.derived}["depmod"]
    for entry in made:
        store.put(ROOT / entry.path, entry)
    layer = replace(layer, indexes=tuple(Index(e.path, before.get(e.path, ""), e) for e in made))
    layers.write(ROOT, layer)
    Place(layer).hold()
    activation_deactivate.deactivate(ROOT, SystemRunner())
    os.sync()
    return layer


def _make_files(scratch: Path, kver: str, count: int, size: int) -> list[str]:
    """Makes files with random contents in a driver's proportions. 12 % of the files hold 98 % of the bytes and are linked; a fifth of all
    bytes are in modules. The other files are small and copied, like sources. A module is a real module with random bytes appended, so that
    depmod can read it."""
    generator = random.Random(count)
    module = _a_module(kver)
    large, copied, modules = count * 12 // 100, size // 50, size // 5
    sizes = {f"usr/lib/modules/{kver}/updates/dkms/{name}.ko": modules // len(_NAMES) for name in _NAMES}
    libraries = [f"usr/bin/lib64/lib64/libnvidia-{number}.so.{_VERSION}" for number in range(large - len(sizes))]
    sizes.update(dict.fromkeys(libraries, (size - copied - modules) // len(libraries)))
    small = [f"usr/src/nvidia-{_VERSION}/part{number % 30}/file{number}.c" for number in range(count - large)]
    sizes.update(dict.fromkeys(small, copied // len(small)))
    for path, length in sizes.items():
        file = scratch / path
        file.parent.mkdir(parents=True, exist_ok=True)
        start = module if path.endswith(".ko") else b""
        file.write_bytes(start + generator.randbytes(length - len(start)))
    return list(sizes)


def _a_module(kver: str) -> bytes:
    path = min((ROOT / "usr/lib/modules" / kver / "kernel").rglob("*.ko*"))
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _indexes(kver: str) -> dict[str, str]:
    folder = f"usr/lib/modules/{kver}"
    names = [f"{folder}/{path.name}" for path in (ROOT / folder).glob("modules.*")]
    return {entry.path: entry.sha256 for entry in tree.describe(ROOT, sorted(names))}


if __name__ == "__main__":
    main()
