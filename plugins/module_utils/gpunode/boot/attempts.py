"""Runs the driver container in several tries under one deadline. After a failure, the state of the node decides what is tried next."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..activation import verify
from ..container import build_log
from ..container.driver_container import ContainerRun, DriverContainer
from ..driver import dkms
from ..driver.modules import module_files, module_stamps
from ..errors import BootError
from ..store import activation_record, layers
from ..store.manifest import Manifest
from ..system import dpkg
from . import evidence, runtime_dropin
from .context import BootRun
from .diagnosis import Evidence, Verdict, judge
from .driver_removal import remove_driver, unload_modules
from .file_recorder import FileRecorder
from .ladder import install_refusal
from .plan import Action, Step
from .probe import own_files
from .recording import write_started

CONTAINER = "gpuinstall"


def run_container(run: BootRun, follows_interrupted: bool) -> None:
    """Runs the driver container with the plan's action until the node has its driver; if the fast path fails, does a full install.

    ``follows_interrupted``: an earlier run on this node did not end. Raises BootError with a code for each cause.
    """
    write_started(run)
    attempts = _Attempts(run, follows_interrupted, *_begin(run, follows_interrupted))
    try:
        attempts.run_verified()
    except BaseException:
        with contextlib.suppress(OSError):  # the caller must get the first error
            attempts.recorder.end(attempts.compiled())
            runtime_dropin.take_back_after_failure(run)
        raise
    compiled = attempts.compiled()
    attempts.recorder.end(compiled)
    outcome = run.outcome
    outcome.result = "compiled" if compiled or outcome.action is Action.INSTALL else "fast"
    if compiled and run.plan.action is Action.INSTALL_SKIP_BUILD and outcome.action is run.plan.action:
        outcome.code = "skip_refused"
        outcome.reason = (
            "the driver container was asked to skip the build, but compiled: its own check refused what was baked "
            f"(log: {run.events.steps[-1].get('log', '')})"
        )


def _begin(run: BootRun, follows_interrupted: bool) -> tuple[FileRecorder, str]:
    """Records, before a driver container runs, which files exist, and reads the kernel's log."""
    recorder = FileRecorder(run.root, own_files(run.facts), follows_interrupted)
    recorder.begin()
    return recorder, evidence.log_before(run.root, run.runner)


@dataclass
class _Attempts:
    """``is_baked``: a baked driver is being tried; false once it was removed, or the driver container compiled over it. ``layer`` is the
    layer that is being tried; None if there is none, as for a marker without a manifest."""

    run: BootRun
    follows_interrupted: bool
    recorder: FileRecorder
    log_before: str

    def __post_init__(self) -> None:
        self.is_baked = self.run.outcome.action is Action.INSTALL_SKIP_BUILD
        self.layer: Manifest | None = self.run.plan.layer if self.is_baked else None
        self.stamps = module_stamps(self.run.root, self.run.kver)

    def compiled(self) -> bool:
        """Whether the kernel's modules have changed since the first try."""
        return module_stamps(self.run.root, self.run.kver) != self.stamps

    def run_verified(self) -> None:
        """Makes the tries. If the layer was activated without reading its libraries, hashes them meanwhile, before anything is recorded."""
        if not (self.layer and self._is_unverified(self.layer)):
            self._tries()
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            verified = pool.submit(verify.problems, self.run.root)
            self._tries()
            problems = verified.result()
        if not self.layer:
            return  # it was removed meanwhile, with its record
        if self.compiled():
            return  # over the layer's files, so the hashes may be of either's
        if problems:
            self._fall_back("; ".join(problems[:3]))
            self._tries()
        else:
            verify.record_verified(self.run.root)

    def _is_unverified(self, layer: Manifest) -> bool:
        """Whether the active layer was not read completely yet: it was activated by this run, or by one that was interrupted."""
        active = activation_record.read(self.run.root)
        return bool(active and active.layer == layer.layer and not active.verified)

    @property
    def _reserved_s(self) -> float:
        """How much of the deadline a try of a baked driver must leave for the full install."""
        return self.run.policy.fallback_s if self.is_baked else 0.0

    def _tries(self) -> None:
        """Makes at most the policy's number of tries, each limited to what is left of the deadline."""
        run, outcome, policy = self.run, self.run.outcome, self.run.policy
        container = DriverContainer(run.containerd, run.runner, run.root, run.events.say)
        number, last = 0, policy.tries
        ran: ContainerRun | None = None
        while number < last:
            number += 1
            if ran and run.deadline.left_s(self._reserved_s) <= 0:
                break
            ran = self._try(container, number)
            if ran.succeeded:
                container.sweep()
                return
            if self._after_failure(ran, number):
                last = max(last, number + 1)  # after a removal, there is always a try of the full install
            if number < last and not run.deadline.pause(policy.delay_s, self._reserved_s):
                break
        if ran is None:
            raise AssertionError("no try was made")
        if ran.not_started:
            refused = ran.not_started
            raise BootError(f"no driver container was started: {refused.words}: {refused.advice}. Log: {ran.log}", code=refused.code)
        raise BootError(
            f"the driver container failed {outcome.containers} times, last with action {outcome.action.value}: "
            f"{build_log.last_lines(ran.output, 5)}. Log: {ran.log}",
            code="container_failed",
        )

    def _try(self, container: DriverContainer, number: int) -> ContainerRun:
        run, action = self.run, self.run.outcome.action
        limit = run.deadline.cut_s(run.policy.try_s, f"the driver container's {action.value}", self._reserved_s)
        dpkg.wait_free(run.root, run.deadline, run.events.say, self._reserved_s)
        if action is Action.INSTALL:
            self.recorder.before_build()
        with run.events.step(Step.RUN_CONTAINER.value, action=action.value, number=number) as event:
            ran = container.run(run.policy.wanted.image.text, f"{CONTAINER}-{number}", action.value, limit)
            run.outcome.containers += 1
            event.update(log=ran.log, outcome="ok" if ran.succeeded else "failed")
        return ran

    def _after_failure(self, ran: ContainerRun, number: int) -> bool:
        """Sets the next action, or raises BootError if another try cannot help. Returns whether the baked driver was removed."""
        run, outcome = self.run, self.run.outcome
        if ran.not_started:  # nothing was tried, so the node's state is no evidence
            outcome.warnings.append(f"try {number} did not start: {ran.not_started.words}")
            run.events.say(outcome.warnings[-1])
            return False
        found = judge(self._evidence())
        verdict, reason = found.verdict, found.reason
        if self.compiled():
            self.is_baked, self.layer = False, None  # it compiled: the verdict is no longer about what was baked
        how = f"timed out after {ran.seconds:.0f} s" if ran.timed_out else f"failed (exit status {ran.rc})"
        run.events.say(f"{outcome.action.value} {how}; the node's state shows: {verdict.value}: {reason}")
        run.events.steps[-1].update(verdict=verdict.value, reason=reason)
        if found.stops:
            raise BootError(f"{outcome.action.value} failed, and a compile would not help: {reason}. Log: {ran.log}", code=found.code)
        outcome.warnings.append(f"try {number} {how}: {reason}")
        compile_error = build_log.first_error(ran.output, dkms.build_log(run.root, run.version))
        if verdict is Verdict.DRIVER_GOOD and self._is_built():
            outcome.action = Action.INSTALL_SKIP_BUILD  # keep what was compiled, and try only device initialisation again
        elif verdict is Verdict.DRIVER_BAD and self.is_baked:
            self._fall_back(reason)
            return True
        elif build_log.is_out_of_space(ran.output):
            raise BootError(f"a filesystem is full: {build_log.last_lines(ran.output, 3)}. Make room on it", code="no_space")
        elif compile_error:
            raise BootError(f"the driver does not compile for kernel {run.kver}: {compile_error}. Log: {ran.log}", code="compile_failed")
        elif verdict is Verdict.DRIVER_BAD and not ran.timed_out and module_files(run.root, run.kver):
            raise BootError(
                f"the driver that was compiled here cannot be used, and another compile would give the same: {reason}. Log: {ran.log}",
                code=found.code or "driver_bad",
            )
        return False

    def _is_built(self) -> bool:
        """Whether the marker says that this driver was built for this kernel."""
        found = self.run.marker()
        return bool(found and found.kernel == self.run.kver and found.version == self.run.version)

    def _fall_back(self, reason: str) -> None:
        """Removes the driver that was judged bad, so that a full install follows. Happens at most once."""
        run, outcome, tried = self.run, self.run.outcome, self.layer
        outcome.code, outcome.reason = "fast_path_failed", f"the fast path failed ({reason}); full install"
        outcome.action, self.is_baked, self.layer = Action.INSTALL, False, None
        untrusted = install_refusal(run.facts)
        if untrusted:
            raise BootError(f"the fast path failed ({reason}), and a full install would not help: {untrusted}", code="signatures_enforced")
        self.recorder.end(self.compiled())
        if tried and tried.stored:
            layers.mark_bad(run.root, tried, run.facts.machine_id, reason)
        unload_modules(run)
        remove_driver(run)
        write_started(run)
        self.recorder, self.log_before = _begin(run, self.follows_interrupted)

    def _evidence(self) -> Evidence:
        run = self.run
        passed = [gpu.address for gpu in run.facts.passed_through]
        return evidence.gather(run.root, run.runner, run.arch, run.version, self.layer, run.waives_device(), self.log_before, passed)
