"""Writes the node record during a boot: ``started`` before the driver container, ``initialised`` after the checks, then the services."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace

from ..container.containerd_config import is_comparable
from ..driver import kmod, libraries
from ..driver.modules import module_hashes
from ..errors import BootError
from ..store import node_record
from ..store.manifest import Identity
from ..store.node_record import Record
from .context import BootRun
from .plan import Step


def config_before(run: BootRun) -> str:
    """Containerd's configuration before any driver container: of this run, or of an interrupted run of the same boot."""
    old = run.facts.record
    if not run.config_before and old and old.state == node_record.STARTED and old.boot_id == run.facts.boot_id:
        run.config_before = old.containerd_config if is_comparable(old.containerd_config) else ""
    run.config_before = run.config_before or run.containerd.config_in_force()
    return run.config_before


def write_started(run: BootRun) -> None:
    """Records, before the driver container runs, that it was started; also containerd's configuration, so that the run after an
    interruption knows whether containerd must still be restarted."""
    facts, old = run.facts, run.facts.record
    identity = run.plan.identity or Identity(facts.kver, "", "", "", "", "")
    keep = old if old and old.machine_id == facts.machine_id and old.same_driver(identity) else None
    started = Record(
        machine_id=facts.machine_id,
        state=node_record.STARTED,
        identity=identity,
        image=run.policy.wanted.image.text,
        action=run.outcome.action.value,
        reason_code=run.outcome.code,
        built_here=False,
        boot_id=facts.boot_id,
        containerd_config=config_before(run),
        containerd_restarts=old.containerd_restarts if old else 0,
        updated=_now(),
        modules=keep.modules if keep else {},
        libraries=keep.libraries if keep else {},
    )
    node_record.write(run.root, started)


def written(run: BootRun) -> Record:
    """The record that this run has written."""
    found = node_record.read(run.root)
    if found is None:
        raise AssertionError("the node record that was just written is gone")
    return found


def write_initialised(run: BootRun) -> None:
    """Records that the driver of this node is complete. Raises BootError if its flavour is not the one that the policy asks for."""
    facts, outcome, started = run.facts, run.outcome, written(run)
    info = kmod.modinfo(run.runner, run.root, facts.kver, "nvidia")
    flavour = (info.flavour if info else None) or ""
    with run.events.step(Step.WRITE_RECORD.value):
        initialised = replace(
            started,
            state=node_record.INITIALISED,
            identity=replace(started.identity, flavour=flavour),
            action=outcome.action.value,
            reason_code=outcome.code,
            built_here=outcome.result == "compiled",
            device_check=outcome.device_check,
            boot_id="",
            containerd_config="",
            containerd_restarts=started.containerd_restarts + int(outcome.containerd_restarted),
            updated=_now(),
            modules={**started.modules, facts.kver: module_hashes(run.root, facts.kver)},
            libraries=libraries.hashes(run.root, run.arch),
        )
        os.sync()  # the files that the record lists are on disk before it
        node_record.write(run.root, initialised)
    if run.policy.flavour not in ("any", flavour):  # after the record, so that the next run does not compile the same again
        raise BootError(
            f"the installed modules are {flavour or 'of an unknown licence'}, but the policy asks for {run.policy.flavour}: "
            "use a driver image of that flavour",
            code="flavour_refused",
        )


def write_services_started(run: BootRun) -> None:
    """Records that the services run in this boot, so that the next run does not start them again."""
    check = run.outcome.device_check
    node_record.write(run.root, replace(written(run), boot_id=run.facts.boot_id, device_check=check, updated=_now()))


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
