"""The words of the decision: facts (what the node is), policy (what its owner wants), plan (the answer)."""

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
    """The steps of a plan, in the order in which they are taken."""

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
    """A rung of the ladder that was not taken, and why."""

    rung: str
    code: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The answer. ``fails`` says that this plan is an error of its own; ``provisional`` that an image must be pulled first to know."""

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

    ``action`` is what the container was last asked for, ``result`` is ``fast``, ``compiled``, ``ready`` (it was right already),
    ``nothing``, ``removed`` (a layer that was in place where no driver belongs) or ``planned``.
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
