"""A boot as one call: probe the node, decide, carry the plan out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import paths
from ..activation import deactivate
from ..activation.take_away import TakenAway
from ..container import marker
from ..container.containerd import Containerd
from ..container.registry import DEFAULT_SOURCE, ImageSource
from ..errors import DataError, GpuNodeError
from ..paths import ACTIVATION_JOURNAL
from ..system import host, pci
from ..util import files, trust
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.run import Runner
from . import runtime_dropin
from .apply import carry_out, require_folders
from .context import BootRun
from .facts import Facts
from .look import look
from .plan import Outcome, Plan, Step
from .policy import Policy, check_figures


def boot(
    runner: Runner,
    policy: Policy,
    check: bool = False,
    marker_path: str = marker.DEFAULT_PATH,
    source: ImageSource = DEFAULT_SOURCE,
    say: Callable[[str], None] = lambda _: None,
    root: Path = Path("/"),
) -> tuple[Facts, Outcome]:
    """Gives the node the driver that ``policy`` wants; with ``check`` only returns the plan. Raises GpuNodeError, with a code per cause.

    The deadline starts here and covers everything. A second run at the same time gets BusyError. ``say`` gets each line of progress.
    """
    host.require_root()
    trust.require_store(root)
    check_figures(policy)
    deadline = Deadline(policy.deadline_s)
    containerd = Containerd(runner)
    if check:
        facts, plan = look(root, runner, containerd, policy, marker_path)
        require_folders(root, plan)
        return facts, Outcome(plan, plan.action, "planned", plan.code, plan.reason, changed=bool(plan.steps), warnings=list(plan.warnings))
    with files.locked(paths.LOCK, "gpu_boot"):
        events, resumed = Events(say), TakenAway("")
        if trust.below(root, ACTIVATION_JOURNAL).exists():
            with events.step("resume-activation") as event:
                resumed = _resume(root, runner, say, event) or resumed
        with events.step("probe-and-decide"):
            _wait_for_gpus(root, policy, deadline)
            facts, plan = look(root, runner, containerd, policy, marker_path)
        run = BootRun(root, runner, containerd, policy, facts, deadline, events, plan, marker_path, source, resumed)
        if runtime_dropin.keeps_containerd_down(root, facts):
            with events.step("resume-dropin"):
                runtime_dropin.resume(run)
                facts, plan = look(root, runner, containerd, policy, marker_path)
            run = BootRun(root, runner, containerd, policy, facts, deadline, events, plan, marker_path, source, resumed)
        say(f"{plan.action.value}: {plan.code}: {plan.reason}")
        try:
            outcome = carry_out(run)
        except GpuNodeError as error:
            say(f"failed: {error.code}: {error}")
            error.details.update(action=plan.action.value, reason_code=plan.code, reason=plan.reason, steps=events.steps)
            error.details.update(refused=[refusal.answer for refusal in plan.refused], node_warnings=list(plan.warnings))
            raise
        return facts, replace(outcome, steps=events.steps)


def _resume(root: Path, runner: Runner, say: Callable[[str], None], event: dict[str, Any]) -> TakenAway | None:
    """Finishes or rolls back an interrupted activation or deactivation; returns what was removed. None if its journal cannot be read: the
    decision deals with that."""
    try:
        return deactivate.resume(root, runner, say)
    except DataError as error:
        event.update(outcome="refused", code=error.code)
        say(str(error))
        return None


def may_need_image(facts: Facts, plan: Plan) -> bool:
    """Whether carrying ``plan`` out would pull the driver image, or could after late GPUs have appeared."""
    return not facts.image_present and (Step.PULL_IMAGE in plan.steps or plan.code == "gpu_missing")


def _wait_for_gpus(root: Path, policy: Policy, deadline: Deadline) -> None:
    """Waits for late GPUs, where the policy says how many there should be."""
    waiting = Deadline(min(policy.late_gpus_s, deadline.left_s()))
    while policy.expected_gpus and sum(f.is_gpu for f in pci.nvidia_functions(root)) < policy.expected_gpus:
        if not waiting.pause(0.5):
            return
