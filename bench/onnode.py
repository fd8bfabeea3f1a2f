"""Runs on a node, with the library beside it: `python3 -m bench.onnode IMAGE RUNS [OTHER]` prints seconds as JSON. Standard library only.

OTHER is a folder with the same code of another clone: each of its looks takes turns with one of this clone's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import onlook
from bench.onlook import ROOT, facts
from bench.rows import interleaved
from plugins.module_utils.gpunode.boot.decide import decide
from plugins.module_utils.gpunode.boot.policy import Policy
from plugins.module_utils.gpunode.store import layers, manifest
from plugins.module_utils.gpunode.store.manifest import Manifest
from plugins.module_utils.gpunode.store.objects import Store
from plugins.module_utils.gpunode.system import tree

MB = 1000 * 1000
ENTRIES = 500  # about as many as NVIDIA's driver has
# The sizes of a driver's modules: nearly all bytes are in one file, which one core must hash alone.
MODULE_SIZES = {"nvidia": 90 * MB, "nvidia-modeset": 5 * MB, "nvidia-uvm": 4 * MB, "nvidia-drm": MB // 2, "nvidia-peermem": MB // 2}


def main() -> None:
    """See the top of this file."""
    image, runs, *more = sys.argv[1:]
    json.dump(measure(image, int(runs), more[0] if more else ""), sys.stdout)


def measure(image: str, runs: int, other: str) -> dict[str, object]:
    """Seconds by name, and the codes of the decisions, so that the caller can check what was timed."""
    policy = onlook.policy(image)
    look: dict[str, Callable[[], object]] = {"facts": lambda: facts(policy), "start": lambda: start(image, ".")}
    if other:
        look["other_start"] = lambda: start(image, other)
    codes = [decide(facts(policy), policy).code]
    seconds = {**interleaved(look, runs), "decision": timed_decisions(policy, runs)}
    with two_layers():
        codes.append(decide(facts(policy), policy).code)
        two = {**interleaved(look, runs), "decision": timed_decisions(policy, runs)}
    seconds.update({f"two_{name}": values for name, values in two.items()})
    with tempfile.TemporaryDirectory(dir="/srv") as folder:
        root = Path(folder)
        hashes = make_modules(root)
        verified = {"verify": lambda: verify(root, hashes), "forget": lambda: forget(root), "verify_cold": lambda: verify(root, hashes)}
        seconds.update(interleaved(verified, runs))
    return {"codes": codes, "seconds": seconds}


def start(image: str, folder: str) -> None:
    """Starts a Python that looks and decides with the code of ``folder``."""
    subprocess.run([sys.executable, "-m", "bench.onlook", image], check=True, stdout=subprocess.DEVNULL, cwd=folder)


@contextlib.contextmanager
def two_layers() -> Iterator[None]:
    """While entered, the store has the node's layer, filled up to ENTRIES with small files, and the same for another kernel of the node."""
    store = Store(ROOT)
    original = layers.read_all(ROOT)[0][0]
    kver = original.identity.kver
    other = next(path.name for path in sorted(Path("/usr/lib/modules").iterdir()) if path.name != kver)
    with tempfile.TemporaryDirectory(dir="/srv") as scratch:
        names = [f"usr/src/nvidia-{original.identity.version}/filling/{n}.c" for n in range(ENTRIES - len(original.files))]
        for name in names:
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"// {name}\n" * 500, encoding="utf-8")
        filling = tree.describe(Path(scratch), names)
        for entry in filling:
            store.put(Path(scratch, entry.path), entry)
    full = replace(original, files=(*original.files, *filling))
    try:
        layers.write(ROOT, full)
        layers.write(ROOT, for_kernel(full, other))
        yield
    finally:
        layers.write(ROOT, original)
        shutil.rmtree(layers.path_of(ROOT, for_kernel(full, other).layer).parent)
        store.collect()


def for_kernel(layer: Manifest, kver: str) -> Manifest:
    """The same layer with another kernel release in its manifest."""

    def moved(path: str) -> str:
        return path.replace(layer.identity.kver, kver)

    identity = replace(layer.identity, kver=kver)
    return replace(
        layer,
        layer=manifest.layer_name(identity),
        identity=identity,
        files=tuple(replace(entry, path=moved(entry.path)) for entry in layer.files),
        module_facts=tuple(replace(fact, path=moved(fact.path), kver=kver) for fact in layer.module_facts),
        indexes=tuple(replace(i, path=moved(i.path), after=replace(i.after, path=moved(i.path))) for i in layer.indexes),
    )


def timed_decisions(policy: Policy, runs: int) -> list[float]:
    """Seconds of one decision, each the mean of a hundred decisions, because one is too short for the clock."""
    found = facts(policy)
    return [seconds / 100 for seconds in interleaved({"": lambda: [decide(found, policy) for _ in range(100)]}, runs)[""]]


def make_modules(root: Path) -> dict[str, str]:
    """Makes five files of 100 MB in all and returns the hash of each by its path."""
    hashes = {}
    for name, size in MODULE_SIZES.items():
        content = os.urandom(size)
        with (root / f"{name}.ko").open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        hashes[f"{name}.ko"] = hashlib.sha256(content).hexdigest()
    return hashes


def verify(root: Path, hashes: dict[str, str]) -> None:
    """Hashes the files as a look at the node does. Raises AssertionError if they are not as they were made."""
    problems = tree.hash_problems(root, hashes)
    if problems:
        raise AssertionError(problems)


def forget(root: Path) -> None:
    """Drops the files from the page cache."""
    for path in root.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
