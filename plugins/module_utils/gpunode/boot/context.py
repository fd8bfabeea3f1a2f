"""Defines the state of one boot run: what it works with, its plan, the current facts, and its outcome so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..activation.take_away import TakenAway
from ..container import marker
from ..container.containerd import Containerd
from ..container.marker import Marker
from ..container.registry import DEFAULT_SOURCE, ImageSource
from ..errors import GpuNodeError
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.run import Runner
from .facts import Facts
from .plan import Outcome, Plan
from .policy import Policy


@dataclass
class BootRun:
    """``facts`` are those on which ``plan`` was made; the run updates them with its changes. ``resumed`` is what was taken away to finish
    the work of an interrupted run. ``config_before`` is containerd's configuration before any driver container ran, "" until
    ``recording.config_before`` has read it."""

    root: Path
    runner: Runner
    containerd: Containerd
    policy: Policy
    facts: Facts
    deadline: Deadline
    events: Events
    plan: Plan
    marker_path: str = marker.DEFAULT_PATH
    source: ImageSource = DEFAULT_SOURCE
    resumed: TakenAway = field(default_factory=lambda: TakenAway(""))
    config_before: str = ""
    outcome: Outcome = field(init=False)

    def __post_init__(self) -> None:
        self.follow(self.plan)

    def follow(self, plan: Plan) -> None:
        """Starts over with ``plan``, of which no step has been taken yet."""
        self.plan = plan
        result = "ready" if plan.code == "already_initialised" else "nothing"
        self.outcome = Outcome(plan, plan.action, result, plan.code, plan.reason, changed=bool(plan.steps), warnings=list(plan.warnings))

    @property
    def kver(self) -> str:
        return self.facts.kver

    @property
    def arch(self) -> str:
        """The architecture; "" if it is not supported."""
        return self.facts.arch or ""

    @property
    def version(self) -> str:
        """The wanted version of the driver."""
        return self.policy.wanted.version

    def marker(self) -> Marker | None:
        """The marker; None if there is none or it cannot be read."""
        try:
            return marker.read(self.root, self.marker_path)
        except GpuNodeError:
            return None

    def waives_device(self) -> bool:
        """Whether no GPU needs to answer: only if the policy and the driver image, by its marker, both say so."""
        found = self.marker() if self.policy.accept_no_device else None
        return bool(found and found.accept_no_device)
