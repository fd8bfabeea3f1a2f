"""One run of a plan on one node: what it works with, the facts as they become, and its outcome so far."""

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
    """``facts`` are those on which ``plan`` was made, and follow what the run changes. ``resumed`` says what was taken away when an
    earlier run's interrupted work was finished. ``config_before`` is the configuration that containerd ran with before any driver
    container; "" until somebody asked. Times in seconds come from the policy."""

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
        """Begins with ``plan``: no step of it has been taken yet."""
        self.plan = plan
        result = "ready" if plan.code == "already_initialised" else "nothing"
        self.outcome = Outcome(plan, plan.action, result, plan.code, plan.reason, changed=bool(plan.steps), warnings=list(plan.warnings))

    @property
    def kver(self) -> str:
        return self.facts.kver

    @property
    def arch(self) -> str:
        """The architecture, "" where it is not one that we know."""
        return self.facts.arch or ""

    @property
    def version(self) -> str:
        """The wanted version of the driver."""
        return self.policy.wanted.version

    def marker(self) -> Marker | None:
        """The driver container's marker; None where there is none that can be read."""
        try:
            return marker.read(self.root, self.marker_path)
        except GpuNodeError:
            return None

    def waives_device(self) -> bool:
        """Whether no GPU need answer: only where the owner and, through its marker, the driver image say so."""
        found = self.marker() if self.policy.accept_no_device else None
        return bool(found and found.accept_no_device)
