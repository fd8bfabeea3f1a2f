"""Runs on a node: `python3 -m bench.onlook IMAGE` looks and decides, as a process of its own does, and prints the decision's code.

It imports no more than that needs, so that the start of Python is not charged with what only benchmarks use.
"""

from __future__ import annotations

import sys
from pathlib import Path

from plugins.module_utils.gpunode.boot.decide import decide
from plugins.module_utils.gpunode.boot.facts import Facts
from plugins.module_utils.gpunode.boot.policy import Policy
from plugins.module_utils.gpunode.boot.probe import probe
from plugins.module_utils.gpunode.container import reference
from plugins.module_utils.gpunode.container.containerd import Containerd
from plugins.module_utils.gpunode.util.run import SystemRunner

ROOT = Path("/")


def policy(image: str) -> Policy:
    """A policy that wants the driver of ``image``, all else as it is by default."""
    return Policy(reference.wanted(image))


def facts(policy: Policy) -> Facts:
    """A whole look at this node."""
    runner = SystemRunner()
    return probe(ROOT, runner, Containerd(runner), policy.wanted)


if __name__ == "__main__":
    asked = policy(sys.argv[1])
    print(decide(facts(asked), asked).code)
