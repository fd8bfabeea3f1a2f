"""A look at the node: its facts, and the plan that follows from them. Nothing is changed."""

from __future__ import annotations

from pathlib import Path

from ..container import marker
from ..container.containerd import Containerd
from ..util.run import Runner
from .decide import decide
from .facts import Facts
from .plan import Plan
from .policy import Policy
from .probe import probe


def look(root: Path, runner: Runner, containerd: Containerd, policy: Policy, marker_path: str = marker.DEFAULT_PATH) -> tuple[Facts, Plan]:
    """Returns the facts of the system at ``root`` and the plan for ``policy``. Raises GpuNodeError."""
    facts = probe(root, runner, containerd, policy.wanted, marker_path)
    return facts, decide(facts, policy)
