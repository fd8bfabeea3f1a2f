"""Carries out the steps of a plan on the running node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..activation import activate
from ..container import scratch
from ..driver import control, fabric, kmod, nvidia_smi, services
from ..errors import BootError, ImageError, LayerError
from ..store import driver_images, node_record
from ..store.objects import Store
from . import evidence, recording, runtime_dropin
from .attempts import run_container
from .context import BootRun
from .decide import decide
from .driver_removal import remove_driver, unload_modules
from .facts import Active
from .ladder import driven, install_refusal
from .plan import Action, Outcome, Plan, Step
from .probe import with_image

# Errors of which the kernel's log may have the cause.
_EXPLAINED = ("module_not_loaded", "no_device", "hardware", "no_answer", "gpu_silent")
_DROP_S = 30.0  # for each old driver image


def carry_out(run: BootRun) -> Outcome:
    """Takes the steps of the run's plan and returns the outcome. Raises GpuNodeError with a code for each cause. However it ends, the
    driver's services that were stopped are started again, as far as there is a driver for them."""
    try:
        return _carry_out(run)
    finally:
        _start_again(run)


def _carry_out(run: BootRun) -> Outcome:
    require_folders(run.root, run.plan)
    Store(run.root).sweep()
    node = run.facts.record  # read first: a removal deletes it before a container runs
    follows_interrupted = bool(node and node.state == node_record.STARTED and node.machine_id == run.facts.machine_id)
    if Step.PULL_IMAGE in run.plan.steps:
        pull_image(run)
    if run.plan.fails:
        raise BootError(run.plan.reason, code=run.plan.code, details={"refused": [vars(r) for r in run.plan.refused]})
    if run.resumed.kept:
        run.outcome.warnings.append(f"kept: {'; '.join(run.resumed.kept)}")
    handlers = {
        Step.UNLOAD_MODULES: unload_modules,
        Step.REMOVE_DRIVER: remove_driver,
        Step.ACTIVATE_LAYER: activate_layer,
        Step.RUN_CONTAINER: lambda run: run_container(run, follows_interrupted),
        Step.LOAD_MODULES: load_modules,
        Step.CHECK_DRIVER: check_driver,
        Step.RESTART_CONTAINERD: restart_containerd,
        Step.START_SERVICES: start_services,
        Step.WRITE_RECORD: write_record,
    }
    for step in run.plan.steps:
        if step is not Step.PULL_IMAGE:
            handlers[step](run)
    loaded = {m.name: m for m in kmod.loaded(run.root)}
    run.outcome.module_version = loaded["nvidia"].version if "nvidia" in loaded else ""
    run.outcome.steps = run.events.steps
    return run.outcome


def _start_again(run: BootRun) -> None:
    """Starts services that this run has stopped, or one that was killed. Where their driver was removed, they stay stopped."""
    if run.outcome.result == "removed" and not run.facts.is_shared:
        services.forget(run.root)
        return
    warnings = services.start_again(run.root, run.runner)
    run.outcome.warnings += warnings
    for warning in warnings:
        run.events.say(warning)


def require_folders(root: Path, plan: Plan) -> None:
    """Raises PreflightError if the plan runs a driver container, and others have something in the folders that it empties."""
    if Step.RUN_CONTAINER in plan.steps:
        scratch.require(root)


def pull_image(run: BootRun) -> None:
    """Pulls the driver image, then decides again, because the image's digest is known now. Raises ImageError."""
    wanted = run.policy.wanted
    with run.events.step(Step.PULL_IMAGE.value, image=wanted.pull.text):
        driver_images.fetch(run.root, run.containerd, wanted, run.deadline, run.source, say=run.events.say)
    run.facts = with_image(run.facts, run.containerd, wanted)
    if not run.facts.image_present:
        raise ImageError(f"driver image {wanted.image.text} was pulled, but containerd does not have it", code="image_missing")
    run.follow(decide(run.facts, run.policy))


def activate_layer(run: BootRun) -> None:
    """Activates the plan's layer. If it cannot be activated, it stays in the store, and the next action is a full install."""
    layer = run.plan.layer
    if layer is None:
        raise AssertionError("a plan that activates names its layer")
    with run.events.step(Step.ACTIVATE_LAYER.value, layer=layer.layer) as event:
        try:
            activate.activate(run.root, run.runner, layer, run.events.say, hash_user_space=False)
        except LayerError as error:
            if error.code == "activation_unfinished":
                raise
            event.update(outcome="refused", code=error.code)
            _refuse_layer(run, f"layer {layer.layer} cannot be activated: {error}")
            return
    run.facts = replace(run.facts, active=Active(layer.layer, run.facts.machine_id, layer.identity.version))


def _refuse_layer(run: BootRun, reason: str) -> None:
    run.outcome.code, run.outcome.reason = "layer_unplaceable", f"full install: {reason}"
    run.outcome.action = Action.INSTALL
    untrusted = install_refusal(run.facts)
    if untrusted:
        raise BootError(f"{reason}; and a full install would not help: {untrusted}: bake again", code="signatures_enforced")


def load_modules(run: BootRun) -> None:
    """Loads the driver's modules and makes its device nodes. Raises BootError."""
    with run.events.step(Step.LOAD_MODULES.value), _explained(run):
        run.outcome.warnings += control.load(run.root, run.runner, run.deadline, run.version, run.kver)


def check_driver(run: BootRun) -> None:
    """Checks the versions, and that the driver answers for every GPU that it drives. Raises BootError."""
    with run.events.step(Step.CHECK_DRIVER.value) as event, _explained(run):
        gpus = len(driven(run.facts))
        run.outcome.device_check = nvidia_smi.check(run.root, run.runner, run.deadline, run.arch, run.version, gpus, run.waives_device())
        event["answer"] = run.outcome.device_check


@contextlib.contextmanager
def _explained(run: BootRun) -> Iterator[None]:
    """Adds to an error of the body what the kernel's log says of its cause, with the code of that cause if it is more exact. After a reboot
    no driver container fails, so that nothing else reads that log."""
    try:
        yield
    except BootError as error:
        if error.code not in _EXPLAINED:
            raise
        driven_by = {gpu.address for gpu in driven(run.facts)}
        found = evidence.explain(run.runner, run.version, [gpu.address for gpu in run.facts.gpus if gpu.address not in driven_by])
        if found is None:
            raise
        code = error.code if found.code == "hardware" else found.code
        raise BootError(f"{found.reason} ({error})", code=code) from error


def restart_containerd(run: BootRun) -> None:
    """Restarts containerd if a driver container has changed its configuration and the policy allows it."""
    if runtime_dropin.config_in_force(run) == recording.written(run).containerd_config:
        return
    if run.policy.restart_containerd == "never":
        run.outcome.warnings.append("containerd's configuration changed; gpu_boot_restart_containerd is never: restart it yourself")
        return
    with run.events.step(Step.RESTART_CONTAINERD.value):
        run.containerd.restart(run.deadline)
    run.outcome.containerd_restarted = True


def write_record(run: BootRun) -> None:
    """Adopts a layer that is in place by its image, then records that the driver of this node is complete. Raises BootError, DataError."""
    if run.facts.is_unadopted:
        activate.adopt(run.root)
    _drop_old_images(run)  # before the record: until it is written, the next run comes here again
    recording.write_initialised(run)


def _drop_old_images(run: BootRun) -> None:
    """Removes driver images that earlier runs have pulled and that nothing names any more."""
    wanted, limit_s = run.policy.wanted, min(_DROP_S, run.deadline.left_s())
    if limit_s <= 0:
        return
    found, problem = driver_images.drop_unneeded(run.root, run.containerd, (wanted.image.text, wanted.pull.text), limit_s)
    if problem:
        run.outcome.warnings.append(problem)
    elif found.is_anything:
        run.events.say(f"old driver images were removed: {', '.join((*found.pulled, *found.pinned))}")


def start_services(run: BootRun) -> None:
    """Starts the driver's services and waits until the GPUs have joined the fabric of a node that has one; last of all, records that."""
    with run.events.step(Step.START_SERVICES.value) as event:
        managed = fabric.manage(run.root, run.runner, run.deadline, run.facts.functions)
        started, warnings = control.start_services(run.runner, run.deadline)
        event["started"] = [*managed.started, *started]
        if managed.disabled:
            event["disabled"] = list(managed.disabled)
            run.events.say(f"disabled, because this node has no NVSwitch: {', '.join(managed.disabled)}")
        run.outcome.warnings += [*managed.warnings, *warnings]
        limit_s = run.policy.fabric_s * len(driven(run.facts))
        if managed.must_join and limit_s and run.outcome.device_check == "answered":
            run.outcome.warnings += fabric.wait(run.runner, run.deadline, managed.found, limit_s, run.events.say)
    recording.write_services_started(run)
