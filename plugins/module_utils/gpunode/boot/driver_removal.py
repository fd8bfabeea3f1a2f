"""Removes a driver of ours as a step of a plan, before another is installed or because none belongs on this node."""

from __future__ import annotations

from dataclasses import replace

from ..activation import deactivate
from ..activation.take_away import TakenAway
from ..container.leftovers import left_by_initialisation, left_by_others
from ..driver import control
from ..errors import BootError
from ..removal import uninstall
from ..store import installed_files
from .context import BootRun
from .facts import Active
from .plan import Action, Step
from .probe import own_versions
from .recording import config_before


def unload_modules(run: BootRun) -> None:
    """Unloads the driver's modules. Raises BootError if they are in use; on a node with a foreign driver or a GPU operator, that is only a
    warning."""
    facts, events, outcome = run.facts, run.events, run.outcome
    with events.step(Step.UNLOAD_MODULES.value) as event:
        if not _none_follows(run):
            services, modules = control.unload(run.root, run.runner, run.deadline)
            event.update(services=list(services), modules=list(modules))
            return
        try:  # if no driver of ours belongs here, unload only the layer's modules
            control.unload(run.root, run.runner, run.deadline, [m.name for m in facts.layers_modules])
        except BootError as error:
            if not facts.is_shared:
                raise
            event.update(outcome="left", error=str(error))
            outcome.warnings.append(f"{error}; the layer's files are removed all the same, because the driver of this node is not ours")


def remove_driver(run: BootRun) -> None:
    """Deactivates the active layer, removes what else of a driver is ours, and updates ``run.facts``."""
    facts, outcome = run.facts, run.outcome
    config_before(run)  # now, because the node record that may have it is removed
    none_follows = outcome.action is Action.NONE
    baked, placed = tuple(layer for layer in facts.layers if not layer.stored), installed_files.read_if_valid(run.root)
    uninstall.begin(run.root, f"{outcome.code}: {outcome.reason}")
    with run.events.step(Step.REMOVE_DRIVER.value, versions=sorted(own_versions(facts))) as event:
        layer_may_be = facts.active.layer or facts.active.problem
        taken = deactivate.deactivate(run.root, run.runner, run.events.say) if layer_may_be else TakenAway("")
        is_marker_ours = not none_follows or _is_marker_ours(run)
        ours = uninstall.Accounted(
            run.arch,
            baked,
            facts.record,
            placed,
            facts.marker.version if facts.marker and is_marker_ours else None,
            run.marker_path if is_marker_ours else None,
            captured=tuple(layer for layer in facts.layers if layer.stored),
            active_version=facts.active.version,
            kept=frozenset({*taken.kept_paths, *taken.restored, *run.resumed.kept_paths}),
        )
        if none_follows and not (ours.versions or ours.placed):  # all of ours was removed earlier; what is here now is not ours
            uninstall.forget(run.root, ())
            done = TakenAway("")
        else:
            done = uninstall.remove_driver(run.root, run.runner, ours, run.events.say)
        kept = [*taken.kept, *done.kept]
        event.update(removed=len(done.removed) + len(done.second_copies) + len(taken.removed), kept=kept)
    if kept:
        outcome.warnings.append(f"kept: {'; '.join(kept)}")
    if none_follows:
        outcome.result = "removed"
        others = left_by_others(run.root, placed.others if placed else ())
        left = [f"{item.what}: {item.why}" for item in (*left_by_initialisation(run.root), *others)]
        outcome.warnings += [f"left: {'; '.join(left)}"] if left else []
    inert = tuple(layer for layer in facts.layers if layer not in baked)
    run.facts = replace(facts, record=None, layers=inert, active=Active())


def _none_follows(run: BootRun) -> bool:
    return run.outcome.action is Action.NONE and Step.REMOVE_DRIVER in run.plan.steps


def _is_marker_ours(run: BootRun) -> bool:
    """Whether a document of ours names the marker's version. If not, and no driver of ours belongs here, others wrote the marker."""
    facts = run.facts
    known = own_versions(replace(facts, marker=None)) | {facts.active.version}
    return facts.marker is None or facts.marker.version in known
