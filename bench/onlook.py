"""Runs on a node: `python3 -m bench.onlook IMAGE` looks at the node and decides, as one process, and prints the code of the decision.

It imports only what that needs, so that the time of Python's start contains no imports that only benchmarks use.
"""

from __future__ import annotations

import sys
from pathlib import Path

from plugins.module_utils.gpunode.boot.facts import Facts
from plugins.module_utils.gpunode.boot.look import look
from plugins.module_utils.gpunode.boot.plan import Plan
from plugins.module_utils.gpunode.boot.policy import Policy
from plugins.module_utils.gpunode.container import reference
from plugins.module_utils.gpunode.container.containerd import Containerd
from plugins.module_utils.gpunode.util.run import SystemRunner

ROOT = Path("/")


def policy(image: str) -> Policy:
    """A policy that wants the driver of ``image``; everything else has its default."""
    return Policy(reference.wanted(image))


def facts(policy: Policy) -> Facts:
    """The facts of this node, complete."""
    return _look(policy)[0]


def _look(policy: Policy) -> tuple[Facts, Plan]:
    runner = SystemRunner()
    return look(ROOT, runner, Containerd(runner), policy)


if __name__ == "__main__":
    asked = policy(sys.argv[1])
    print(_look(asked)[1].code)
