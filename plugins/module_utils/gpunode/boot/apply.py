"""Carrying a plan out on the running node: the container's tries under one deadline, judged by the node's state, then the checks."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..activation import activate, deactivate, verify
from ..activation.deactivate import TakenAway
from ..container import build_log, marker
from ..container.containerd import Containerd
from ..container.driver_container import ContainerRun, DriverContainer
from ..container.leftovers import left_by_initialisation
from ..container.pull import ensure_image
from ..container.registry import DEFAULT_SOURCE, ImageSource
from ..driver import control, dkms, kmod, libraries, nvidia_smi
from ..driver.modules import module_files, module_hashes, module_stamps
from ..errors import BootError, GpuNodeError, ImageError, LayerError
from ..removal import uninstall
from ..store import activation_record, installed_files, layers, node_record
from ..store.manifest import CAPTURED, IN_PLACE, Identity, Manifest
from ..store.node_record import Record
from ..store.objects import Store
from ..system import dpkg
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.run import Runner
from . import evidence
from .decide import decide
from .diagnosis import Evidence, Verdict, judge
from .facts import Facts
from .file_recorder import FileRecorder
from .ladder import install_refusal
from .plan import Action, Outcome, Plan, Step
from .policy import Policy
from .probe import own_files, own_versions, with_image

CONTAINER = "gpuinstall"


@dataclass
class Apply:
    """One run on one node. ``facts`` are those on which the plan was made, ``resumed`` is what an interrupted run's layer left when it was
    taken away before; times in seconds come from the policy."""

    root: Path
    runner: Runner
    containerd: Containerd
    policy: Policy
    facts: Facts
    deadline: Deadline
    events: Events
    marker_path: str = marker.DEFAULT_PATH
    source: ImageSource = DEFAULT_SOURCE
    resumed: TakenAway = field(default_factory=lambda: TakenAway(""))
    running_config: str = ""

    def run(self, plan: Plan) -> Outcome:
        """Carries ``plan`` out and returns what came of it. Raises GpuNodeError with a code per cause."""
        Store(self.root).sweep()
        node = self.facts.record  # which a removal takes before a container comes
        self._follows_interrupted = bool(node and node.state == node_record.STARTED and node.machine_id == self.facts.machine_id)
        if Step.PULL_IMAGE in plan.steps:
            plan = self._pull()
        if plan.fails:
            raise BootError(plan.reason, code=plan.code, details={"refused": [vars(r) for r in plan.refused]})
        self.outcome = Outcome(plan, plan.action, "ready" if plan.code == "already_initialised" else "nothing", plan.code, plan.reason)
        self.outcome.warnings += plan.warnings
        if self.resumed.kept:
            self.outcome.warnings.append(f"kept: {'; '.join(self.resumed.kept)}")
        self.action = plan.action
        self.outcome.changed = bool(plan.steps)
        handlers: dict[Step, Callable[[], None]] = {
            Step.UNLOAD_MODULES: self._unload,
            Step.REMOVE_DRIVER: self._remove,
            Step.ACTIVATE_LAYER: self._activate,
            Step.RUN_CONTAINER: self._run_container,
            Step.LOAD_MODULES: self._load,
            Step.CHECK_DRIVER: self._check,
            Step.RESTART_CONTAINERD: self._restart_containerd,
            Step.START_SERVICES: self._start_services,
            Step.WRITE_RECORD: self._write_record,
        }
        for step in plan.steps:
            if step is not Step.PULL_IMAGE:
                handlers[step]()
        self.outcome.action = self.action
        loaded = {m.name: m for m in kmod.loaded(self.root)}
        self.outcome.module_version = loaded["nvidia"].version if "nvidia" in loaded else ""
        self.outcome.steps = self.events.steps
        return self.outcome

    @property
    def plan(self) -> Plan:
        return self.outcome.plan

    # --- before the container ---------------------------------------------------------------------------------------

    def _pull(self) -> Plan:
        wanted = self.policy.wanted
        with self.events.step(Step.PULL_IMAGE.value, image=wanted.pull.text):
            ensure_image(self.containerd, wanted, self.deadline, self.source, say=self.events.say)
        self.facts = with_image(self.facts, self.containerd, wanted)
        if not self.facts.image_present:
            raise ImageError(f"driver image {wanted.image.text} was pulled, and containerd does not have it", code="image_missing")
        return decide(self.facts, self.policy)

    def _unload(self) -> None:
        facts = self.facts
        leaving = self.action is Action.NONE and Step.REMOVE_DRIVER in self.plan.steps
        with self.events.step(Step.UNLOAD_MODULES.value) as event:
            if not leaving:
                services, modules = control.unload(self.root, self.runner, self.deadline)
                event.update(services=list(services), modules=list(modules))
                return
            try:  # where no driver of ours belongs, only the layer's own modules go
                control.unload(self.root, self.runner, self.deadline, [m.name for m in facts.layers_modules])
            except BootError as error:
                if not (facts.operator or facts.foreign):
                    raise
                event.update(outcome="left", error=str(error))
                self.outcome.warnings.append(f"{error}; its files go all the same, since the driver of this node is another's")

    def _remove(self) -> None:
        facts = self.facts
        self._config_before()  # the record that may know it goes
        baked = tuple(layer for layer in facts.layers if layer.mode == IN_PLACE)
        uninstall.begin(self.root, f"{self.outcome.code}: {self.outcome.reason}")
        with self.events.step(Step.REMOVE_DRIVER.value, versions=sorted(own_versions(facts))) as event:
            layer_may_be = facts.active_layer or facts.activation_problem
            taken = deactivate.deactivate(self.root, self.runner, self.events.say) if layer_may_be else TakenAway("")
            is_marker_ours = self.action is not Action.NONE or self._is_marker_ours()
            ours = uninstall.Accounted(
                facts.arch or "",
                baked,
                facts.record,
                installed_files.read_if_valid(self.root),
                facts.marker.version if facts.marker and is_marker_ours else None,
                self.marker_path if is_marker_ours else None,
                captured=tuple(layer for layer in facts.layers if layer.mode == CAPTURED),
                active_version=facts.active_version,
                kept=frozenset(taken.kept_paths | self.resumed.kept_paths),
            )
            if self.action is Action.NONE and not (ours.versions or ours.placed):  # all of it had gone; what is here by now is another's
                uninstall.forget(self.root, ())
                done = uninstall.Removal()
            else:
                done = uninstall.remove_driver(self.root, self.runner, ours, self.events.say)
            kept = [*taken.kept, *(f"/{path}: {uninstall.WHY_KEPT}" for path in done.kept if path not in ours.kept)]
            event.update(removed=len(done.removed) + len(taken.removed), kept=kept)
        if kept:
            self.outcome.warnings.append(f"kept: {'; '.join(kept)}")
        if self.action is Action.NONE:
            self.outcome.result = "removed"
            left = [f"{item.what}: {item.why}" for item in left_by_initialisation(self.root)]
            self.outcome.warnings += [f"left: {'; '.join(left)}"] if left else []
        inert = tuple(layer for layer in facts.layers if layer not in baked)
        gone = replace(facts, record=None, active_layer="", active_machine_id="", active_version="", removal_under_way=False)
        self.facts = replace(gone, layers=inert, activation_problem="", unrecorded_layers=())

    def _is_marker_ours(self) -> bool:
        """Where no driver of ours belongs, a marker of a version that no document of ours names is another provisioner's."""
        facts = self.facts
        known = own_versions(replace(facts, marker=None)) | {facts.active_version}
        return facts.marker is None or facts.marker.version in known

    def _activate(self) -> None:
        """Puts the plan's layer in place. One that cannot be is left in the store, and the node goes down the ladder."""
        layer = self.plan.layer
        if layer is None:
            raise AssertionError("a plan that activates names its layer")
        with self.events.step(Step.ACTIVATE_LAYER.value, layer=layer.layer) as event:
            try:
                activate.activate(self.root, self.runner, layer, self.events.say, hash_user_space=False)
            except LayerError as error:
                if error.code == "activation_unfinished":
                    raise
                event.update(outcome="refused", code=error.code)
                self._refuse_layer(f"layer {layer.layer} cannot be put in place: {error}")
                return
        self.facts = replace(
            self.facts, active_layer=layer.layer, active_machine_id=self.facts.machine_id, active_version=layer.identity.version
        )

    def _refuse_layer(self, reason: str) -> None:
        self.outcome.code, self.outcome.reason = "layer_unplaceable", f"full install: {reason}"
        self.action = Action.INSTALL
        untrusted = install_refusal(self.facts)
        if untrusted:
            raise BootError(f"{reason}; and {untrusted}: bake anew", code="signatures_enforced")

    # --- the container ----------------------------------------------------------------------------------------------

    def _run_container(self) -> None:
        self._begin_record()
        # What was baked is being tried, with or without a manifest, until it has been taken away or was compiled over.
        self._is_baked = self.action is Action.INSTALL_SKIP_BUILD
        self._layer = self.plan.layer if self._is_baked else None
        self._log_before = evidence.log_before(self.root, self.runner)
        self._stamps = module_stamps(self.root, self.facts.kver)
        self._placing = self._begin_placing()
        try:
            self._verified_tries()
        except BaseException:
            with contextlib.suppress(OSError):  # the failure itself is what must be told
                self._placing.end(self._compiled())
            raise
        compiled = self._compiled()
        self._placing.end(compiled)
        self.outcome.result = "compiled" if compiled or self.action is Action.INSTALL else "fast"
        if compiled and self.plan.action is Action.INSTALL_SKIP_BUILD and self.action is self.plan.action:
            self.outcome.code = "skip_refused"
            self.outcome.reason = (
                "asked to skip the build, the driver container compiled all the same: its own check refused what was baked "
                f"(log: {self.events.steps[-1].get('log', '')})"
            )

    def _verified_tries(self) -> None:
        """The tries; the user space of a layer that is in place and not yet read is hashed beside them, before anything is recorded."""
        if not (self._layer and self._is_unverified(self._layer)):
            self._tries()
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            verified = pool.submit(verify.problems, self.root)
            self._tries()
            problems = verified.result()
        if not self._layer:
            return  # it has gone meanwhile, with its record
        if self._compiled():
            return  # over what was put in place: the hashing may have met files of either
        if problems:
            self._fall_back("; ".join(problems[:3]))
            self._tries()
        else:
            verify.record_verified(self.root)

    def _is_unverified(self, layer: Manifest) -> bool:
        """Whether it was put in place by this run, or by one that was interrupted before all of it was read."""
        active = activation_record.read(self.root)
        return bool(active and active.layer == layer.layer and not active.verified)

    def _compiled(self) -> bool:
        return module_stamps(self.root, self.facts.kver) != self._stamps

    def _begin_placing(self) -> FileRecorder:
        placing = FileRecorder(self.root, own_files(self.facts), self._follows_interrupted)
        placing.begin()
        return placing

    def _tries(self) -> None:
        """At most ``tries`` runs in all, each cut to what is left; what the node shows decides what follows a failure."""
        container = DriverContainer(self.containerd, self.runner, self.root, self.events.say)
        policy, image = self.policy, self.policy.wanted.image.text
        number, last = 0, policy.tries
        run: ContainerRun | None = None
        while number < last:
            number += 1
            keep = policy.fallback_s if self._is_baked else 0.0
            if run and self.deadline.left_s(keep) <= 0:
                break
            limit = self.deadline.cut_s(policy.try_s, f"the driver container's {self.action.value}", keep)
            dpkg.wait_free(self.root, self.deadline, self.events.say, keep)
            if self.action is Action.INSTALL:
                self._placing.before_build()
            with self.events.step(Step.RUN_CONTAINER.value, action=self.action.value, number=number) as event:
                run = container.run(image, f"{CONTAINER}-{number}", self.action.value, limit)
                self.outcome.containers += 1
                event.update(log=run.log, outcome="ok" if run.succeeded else "failed")
            if run.succeeded:
                container.sweep()
                return
            if self._after_failure(run, number):
                last = max(last, number + 1)  # what was taken away is always followed by the install that replaces it
            if number < last and not self.deadline.pause(policy.delay_s, policy.fallback_s if self._is_baked else 0.0):
                break
        if run is None:
            raise AssertionError("no try was made")
        raise BootError(
            f"the driver container failed {self.outcome.containers} times, last with action {self.action.value}: "
            f"{build_log.last_lines(run.output, 5)}. Log: {run.log}",
            code="container_failed",
        )

    def _after_failure(self, run: ContainerRun, number: int) -> bool:
        """Sets the next action, or raises BootError where a next try cannot help. Returns whether it has gone down the ladder."""
        verdict, reason = judge(self._evidence())
        if self._compiled():
            self._is_baked, self._layer = False, None  # it compiled all the same: what was baked is no longer what is judged
        how = f"timed out after {run.seconds:.0f} s" if run.timed_out else f"failed (exit status {run.rc})"
        self.events.say(f"{self.action.value} {how}; the node says: {verdict.value}: {reason}")
        self.events.steps[-1].update(verdict=verdict.value, reason=reason)
        if verdict is Verdict.HARDWARE:
            code = "no_device" if "no device" in reason else "hardware"
            raise BootError(f"{self.action.value} failed, and no compile can mend it: {reason}. Log: {run.log}", code=code)
        self.outcome.warnings.append(f"try {number} {how}: {reason}")
        compile_error = build_log.first_error(run.output, dkms.build_log(self.root, self.policy.wanted.version))
        if self._built(verdict):
            self.action = Action.INSTALL_SKIP_BUILD  # what was compiled stays; only device initialisation is tried again
        elif verdict is Verdict.DRIVER_BAD and self._is_baked:
            self._fall_back(reason)
            return True
        elif build_log.is_out_of_space(run.output):
            raise BootError(f"a filesystem is full: {build_log.last_lines(run.output, 3)}. Make room", code="no_space")
        elif compile_error:
            raise BootError(
                f"the driver does not compile for kernel {self.facts.kver}: {compile_error}. Log: {run.log}", code="compile_failed"
            )
        elif verdict is Verdict.DRIVER_BAD and not run.timed_out and module_files(self.root, self.facts.kver):
            raise BootError(
                f"what was compiled here cannot be used, and would be the same again: {reason}. Log: {run.log}", code="driver_bad"
            )
        return False

    def _built(self, verdict: Verdict) -> bool:
        if verdict is not Verdict.DRIVER_GOOD:
            return False
        try:
            found = marker.read(self.root, self.marker_path)
        except GpuNodeError:
            return False
        return bool(found and found.kernel == self.facts.kver and found.version == self.policy.wanted.version)

    def _fall_back(self, reason: str) -> None:
        """Takes back what was judged bad and goes down the ladder, once (D10)."""
        self.outcome.code, self.outcome.reason = "fast_path_failed", f"the fast path failed ({reason}); full install"
        tried = self._layer
        self.action, self._is_baked, self._layer = Action.INSTALL, False, None
        untrusted = install_refusal(self.facts)
        if untrusted:
            raise BootError(f"{self.outcome.reason} is no way out: {untrusted}", code="signatures_enforced")
        self._placing.end(self._compiled())
        if tried and tried.mode == CAPTURED:
            layers.mark_bad(self.root, tried, self.facts.machine_id, reason)
        self._unload()
        self._remove()
        self._placing = self._begin_placing()
        self._begin_record()
        self._log_before = evidence.log_before(self.root, self.runner)

    def _evidence(self) -> Evidence:
        return evidence.gather(
            self.root,
            self.runner,
            self.facts.arch or "",
            self.policy.wanted.version,
            self._layer,
            self._waives_device(),
            self._log_before,
            [gpu.address for gpu in self.facts.gpus if gpu.driver == "vfio-pci"],
        )

    # --- after the container ----------------------------------------------------------------------------------------

    def _load(self) -> None:
        with self.events.step(Step.LOAD_MODULES.value):
            self.outcome.warnings += control.load(self.root, self.runner, self.deadline, self.policy.wanted.version, self.facts.kver)

    def _check(self) -> None:
        with self.events.step(Step.CHECK_DRIVER.value) as event:
            gpus = sum(gpu.driver != "vfio-pci" for gpu in self.facts.gpus)
            self.outcome.device_check = nvidia_smi.check(
                self.root, self.runner, self.deadline, self.facts.arch or "", self.policy.wanted.version, gpus, self._waives_device()
            )
            event["answer"] = self.outcome.device_check

    def _waives_device(self) -> bool:
        """Only where two sides say so: the owner, and the image through its marker."""
        if not self.policy.accept_no_device:
            return False
        try:
            found = marker.read(self.root, self.marker_path)
        except GpuNodeError:
            return False
        return bool(found and found.accept_no_device)

    def _restart_containerd(self) -> None:
        node = self._node
        if self.containerd.config_in_force() == node.containerd_config:
            return
        if self.policy.restart_containerd == "never":
            self.outcome.warnings.append("containerd's configuration changed; gpu_boot_restart_containerd is never: restart it yourself")
            return
        with self.events.step(Step.RESTART_CONTAINERD.value):
            self.containerd.restart(self.deadline)
        self.outcome.containerd_restarted = True

    def _start_services(self) -> None:
        switches = any(f.is_nvswitch for f in self.facts.functions)
        with self.events.step(Step.START_SERVICES.value) as event:
            started, warnings = control.start_services(self.root, self.runner, self.deadline, switches)
            event["started"] = started
        self.outcome.warnings += warnings
        # Last of all: until this boot's services run, the next run comes here again.
        done = node_record.read(self.root)
        if done is None:
            raise AssertionError("the record that was just written is gone")
        check = self.outcome.device_check
        node_record.write(self.root, replace(done, boot_id=self.facts.boot_id, device_check=check, updated=_now()))

    # --- the record -------------------------------------------------------------------------------------------------

    def _begin_record(self) -> None:
        """Says, before the container is sent, that it was; with what containerd runs now, so that an interrupted run's successor
        knows whether the one restart is still due."""
        old = self.facts.record
        identity = self.plan.identity or Identity(self.facts.kver, "", "", "", "", "")
        keep = old if old and old.machine_id == self.facts.machine_id and old.same_driver(identity) else None
        self._node = Record(
            machine_id=self.facts.machine_id,
            state=node_record.STARTED,
            identity=identity,
            image=self.policy.wanted.image.text,
            action=self.action.value,
            reason_code=self.outcome.code,
            built_here=False,
            boot_id=self.facts.boot_id,
            containerd_config=self._config_before(),
            containerd_restarts=old.containerd_restarts if old else 0,
            updated=_now(),
            modules=keep.modules if keep else {},
            libraries=keep.libraries if keep else {},
        )
        node_record.write(self.root, self._node)

    def _config_before(self) -> str:
        """What containerd was running with before any container: this run's, or an interrupted one's of the same boot."""
        old = self.facts.record
        if not self.running_config and old and old.state == node_record.STARTED and old.boot_id == self.facts.boot_id:
            self.running_config = old.containerd_config
        self.running_config = self.running_config or self.containerd.config_in_force()
        return self.running_config

    def _write_record(self) -> None:
        facts, node = self.facts, self._node
        info = kmod.modinfo(self.runner, self.root, facts.kver, "nvidia")
        flavour = (info.flavour if info else None) or ""
        with self.events.step(Step.WRITE_RECORD.value):
            os.sync()  # what the record speaks of is on disk before it
            node_record.write(
                self.root,
                replace(
                    node,
                    state=node_record.INITIALISED,
                    identity=replace(node.identity, flavour=flavour),
                    action=self.action.value,
                    reason_code=self.outcome.code,
                    built_here=self.outcome.result == "compiled",
                    device_check=self.outcome.device_check,
                    boot_id="",
                    containerd_config="",
                    containerd_restarts=node.containerd_restarts + int(self.outcome.containerd_restarted),
                    updated=_now(),
                    modules={**node.modules, facts.kver: module_hashes(self.root, facts.kver)},
                    libraries=libraries.hashes(self.root, facts.arch or ""),
                ),
            )
        if self.policy.flavour not in ("any", flavour):  # recorded first: the next run must not compile the same again
            raise BootError(
                f"the installed modules are {flavour or 'of an unknown licence'}, the policy asks for {self.policy.flavour}: "
                "use a driver image of that flavour",
                code="flavour_refused",
            )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
