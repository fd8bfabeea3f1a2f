"""What the decision returns and what comes of it: actions, steps, refusals, the plan and the outcome. Pure values."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ..store.manifest import Identity, Manifest


class Action(str, enum.Enum):
    """What the driver container is asked to do on this node."""

    NONE = "none"
    INSTALL_SKIP_BUILD = "install-skip-build"
    INSTALL = "install"


class Step(str, enum.Enum):
    """The steps that a plan can have, in the order in which they are taken."""

    PULL_IMAGE = "pull-image"
    UNLOAD_MODULES = "unload-modules"
    REMOVE_DRIVER = "remove-driver"
    ACTIVATE_LAYER = "activate-layer"
    RUN_CONTAINER = "run-container"
    LOAD_MODULES = "load-modules"
    CHECK_DRIVER = "check-driver"
    RESTART_CONTAINERD = "restart-containerd"
    WRITE_RECORD = "write-record"
    START_SERVICES = "start-services"


@dataclass(frozen=True)
class Refusal:
    """A rung of the ladder that was not taken, and why. ``needs_removal``: a driver of ours that is here cannot stay. It can if it is the
    wanted one for another kernel, or complete except for what the driver container makes."""

    rung: str
    code: str
    reason: str
    needs_removal: bool = True

    @property
    def answer(self) -> dict[str, str]:
        """As reported to people and programs."""
        return {"rung": self.rung, "code": self.code, "reason": self.reason}


@dataclass(frozen=True)
class Plan:
    """What a boot is to do. ``fails``: the plan is an error, and nothing is tried. ``provisional``: the driver image must be pulled first,
    and the plan may then change."""

    action: Action
    code: str
    reason: str
    steps: tuple[Step, ...] = ()
    refused: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    identity: Identity | None = None
    layer: Manifest | None = None
    fails: bool = False
    provisional: bool = False


@dataclass
class Outcome:
    """What came of a plan.

    ``action`` is what the driver container was last asked to do. ``result`` is ``fast``, ``compiled``, ``ready`` (already right),
    ``nothing``, ``removed`` (a layer that was active where no driver belongs) or ``planned`` (check mode).
    """

    plan: Plan
    action: Action
    result: str
    code: str
    reason: str
    changed: bool = False
    device_check: str = ""
    module_version: str = ""
    containers: int = 0
    containerd_restarted: bool = False
    steps: list[dict[str, object]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
