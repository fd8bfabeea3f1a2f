"""Runs on a node, with the library beside it, and prints the seconds of each repetition as JSON. Standard library only.

`python3 -m bench.onnode measure IMAGE RUNS` measures; `… decide IMAGE` only looks and decides, which is what `start` times from outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plugins.module_utils.gpunode import imageref, inventory
from plugins.module_utils.gpunode.containerd import Containerd
from plugins.module_utils.gpunode.decide import decide
from plugins.module_utils.gpunode.model import Facts, Plan, Policy
from plugins.module_utils.gpunode.probe import probe
from plugins.module_utils.gpunode.runner import SystemRunner

MB = 1000 * 1000
# As a driver's modules are: nearly all of it in one file, which one core hashes alone.
MODULE_SIZES = {"nvidia": 90 * MB, "nvidia-modeset": 5 * MB, "nvidia-uvm": 4 * MB, "nvidia-drm": MB // 2, "nvidia-peermem": MB // 2}


def main() -> None:
    """See the head of the file."""
    what, image, *rest = sys.argv[1:]
    policy = Policy(imageref.wanted(image))
    if what == "decide":
        print(decide(facts(policy), policy).code)
        return
    json.dump(measure(image, policy, int(rest[0])), sys.stdout)


def measure(image: str, policy: Policy, runs: int) -> dict[str, object]:
    """Everything in turns; the plan's code goes along, so that the caller knows what was timed."""
    plan = decide(facts(policy), policy)
    seconds: dict[str, list[float]] = {name: [] for name in ("facts", "decision", "start", "verify", "verify_cold")}
    with tempfile.TemporaryDirectory(dir="/srv") as folder:
        root = Path(folder)
        hashes = make_modules(root)
        verify(root, hashes)
        for _ in range(runs):
            begin = time.perf_counter()
            found = facts(policy)
            seconds["facts"].append(time.perf_counter() - begin)
            seconds["decision"].append(timed_decision(found, policy))
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-m", "bench.onnode", "decide", image], check=True, stdout=subprocess.DEVNULL)
            seconds["start"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            verify(root, hashes)
            seconds["verify"].append(time.perf_counter() - begin)
            forget(root)
            begin = time.perf_counter()
            verify(root, hashes)
            seconds["verify_cold"].append(time.perf_counter() - begin)
    return {"code": plan.code, "action": plan.action.value, "seconds": seconds}


def facts(policy: Policy) -> Facts:
    """A whole look at this node."""
    runner = SystemRunner()
    return probe(Path("/"), runner, Containerd(runner), policy.wanted)


def timed_decision(found: Facts, policy: Policy) -> float:
    """Seconds of one decision, over a hundred: one is too short for the clock."""
    plans: list[Plan] = []
    begin = time.perf_counter()
    for _ in range(100):
        plans.append(decide(found, policy))
    return (time.perf_counter() - begin) / len(plans)


def make_modules(root: Path) -> dict[str, str]:
    """Five files of 100 MB in all; path to hash."""
    hashes = {}
    for name, size in MODULE_SIZES.items():
        content = os.urandom(size)
        with (root / f"{name}.ko").open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        hashes[f"{name}.ko"] = hashlib.sha256(content).hexdigest()
    return hashes


def verify(root: Path, hashes: dict[str, str]) -> None:
    """What a look does with a layer's files; AssertionError when the files are not as they were made."""
    problems = inventory.hash_problems(root, hashes)
    if problems:
        raise AssertionError(problems)


def forget(root: Path) -> None:
    """Takes the files out of the page cache."""
    for path in root.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
