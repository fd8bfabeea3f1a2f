"""The boot side as one call: look, decide, carry out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import activated, activation, files, host, marker, pci
from .apply import Apply
from .containerd import Containerd
from .contract import LOCK
from .deadline import Deadline
from .decide import decide
from .errors import DataError, GpuNodeError, InputError
from .events import Events
from .imagesource import DEFAULT_SOURCE, ImageSource
from .model import Facts, Outcome, Plan, Policy, Step
from .probe import probe
from .runner import Runner
from .takeaway import TakenAway


def boot(
    runner: Runner,
    policy: Policy,
    check: bool = False,
    marker_path: str = marker.DEFAULT_PATH,
    source: ImageSource = DEFAULT_SOURCE,
    say: Callable[[str], None] = lambda _: None,
    root: Path = Path("/"),
) -> tuple[Facts, Outcome]:
    """Brings the node's driver up as ``policy`` wants it, or only says how (``check``). Raises GpuNodeError with a code per cause.

    One deadline from here on; a second run at the same time is refused with BusyError.
    """
    host.require_root()
    check_figures(policy)
    deadline = Deadline(policy.deadline_s)
    containerd = Containerd(runner)
    if check:
        facts, plan = look(root, runner, containerd, policy, marker_path)
        return facts, Outcome(plan, plan.action, "planned", plan.code, plan.reason, changed=bool(plan.steps), warnings=list(plan.warnings))
    with files.locked(LOCK, "gpu_boot"):
        events, resumed = Events(say), TakenAway("")
        if (root / activated.JOURNAL).exists():
            with events.step("resume-activation") as event:
                resumed = _resume(root, runner, say, event) or resumed
        with events.step("probe-and-decide"):
            _wait_for_gpus(root, policy, deadline)
            facts, plan = look(root, runner, containerd, policy, marker_path)
        say(f"{plan.action.value}: {plan.code}: {plan.reason}")
        try:
            outcome = Apply(root, runner, containerd, policy, facts, deadline, events, marker_path, source, resumed).run(plan)
        except GpuNodeError as error:
            say(f"failed: {error.code}: {error}")
            error.details.update(action=plan.action.value, reason_code=plan.code, reason=plan.reason, steps=events.steps)
            error.details.update(refused=[asdict(refusal) for refusal in plan.refused], node_warnings=list(plan.warnings))
            raise
        return facts, replace(outcome, steps=events.steps)


def _resume(root: Path, runner: Runner, say: Callable[[str], None], event: dict[str, Any]) -> TakenAway | None:
    """Ends what an interrupted run began, and returns what was taken away. A journal that cannot be read is a fact for the decision."""
    try:
        return activation.resume(root, runner, say)
    except DataError as error:
        event.update(outcome="refused", code=error.code)
        say(str(error))
        return None


def may_need_image(facts: Facts, plan: Plan) -> bool:
    """Whether carrying ``plan`` out would fetch the driver image, or could once GPUs that are late have come."""
    return not facts.image_present and (Step.PULL_IMAGE in plan.steps or plan.code == "gpu_missing")


def check_figures(policy: Policy) -> None:
    """Raises InputError for counts and times that cannot be meant."""
    for name in ("deadline_s", "try_s", "tries"):
        if getattr(policy, name) <= 0:
            raise InputError(f"gpu_boot_{name}: {getattr(policy, name)} is not greater than zero")
    for name in ("delay_s", "fallback_s", "late_gpus_s"):
        if getattr(policy, name) < 0:
            raise InputError(f"gpu_boot_{name}: {getattr(policy, name)} is negative")
    if policy.fallback_s >= policy.deadline_s:
        raise InputError(
            f"gpu_boot_fallback_s: {policy.fallback_s:.0f} s are kept for a full install, which leaves nothing of the deadline of "
            f"{policy.deadline_s:.0f} s (gpu_boot_deadline_s) for the fast path"
        )


def look(root: Path, runner: Runner, containerd: Containerd, policy: Policy, marker_path: str) -> tuple[Facts, Plan]:
    """Facts and plan, nothing touched."""
    facts = probe(root, runner, containerd, policy.wanted, marker_path)
    return facts, decide(facts, policy)


def _wait_for_gpus(root: Path, policy: Policy, deadline: Deadline) -> None:
    """Late GPUs are waited for, where their number is known (D15)."""
    waiting = Deadline(min(policy.late_gpus_s, deadline.left_s()))
    while policy.expected_gpus and sum(f.is_gpu for f in pci.nvidia_functions(root)) < policy.expected_gpus:
        if not waiting.pause(0.5):
            return
