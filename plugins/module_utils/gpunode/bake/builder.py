"""Asks the driver image what it is, runs its builds, and decides whether a failed one is tried again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..container import build_log
from ..container.containerd import Containerd
from ..container.driver_container import BUILD_ONLY, ContainerRun
from ..container.reference import DriverWanted
from ..container.runtime_errors import NotStarted
from ..driver import dkms
from ..driver.kmod import modinfo_of_file
from ..errors import BuildError, DataError, ImageError
from ..store.manifest import INVALID, ModuleFact
from ..system import disk_space, module_signature
from ..system.tree import Entry
from ..util.files import relative
from ..util.folders import matching
from ..util.run import Runner
from .context import Bake


def image_digest(containerd: Containerd, wanted: DriverWanted, arch: str) -> str:
    """The config digest of the driver image for this architecture. Raises ImageError."""
    reference = wanted.image.text
    if not containerd.target_digest(reference, wanted.pin):
        pinned = f" with the digest {wanted.pin}" if wanted.pin else ""
        raise ImageError(f"driver image {reference} is not in containerd's k8s.io namespace{pinned}: pull it first", code="image_missing")
    digest = containerd.config_digest(reference, arch, wanted.pin)
    if not digest:
        raise ImageError(f"driver image {reference} has no manifest for linux on {arch}: use another", code="image_no_platform")
    return digest


def known_actions(bake: Bake) -> tuple[str, ...]:
    """The actions that the driver image knows. Raises ImageError if ``build-only`` is not among them."""
    reference = bake.request.wanted.image.text
    with bake.events.step("ask-image"):
        container = bake.container()
        actions = container.known_actions(reference)
        container.sweep()
    if BUILD_ONLY not in actions:
        raise ImageError(
            f"driver image {reference} does not know the action build-only (it knows {', '.join(actions) or 'none'}): "
            "it is older than this action; use a newer image, or do not bake",
            code="image_without_build_only",
        )
    return actions


def judge_failure(bake: Bake, root: Path, kver: str, run: ContainerRun, number: int) -> None:
    """Raises BuildError if the next try would fail again, or try ``number`` was the last. ``root`` is where the container installed."""
    request = bake.request
    log = dkms.build_log(root, request.wanted.version)
    details = {
        "container_output": build_log.last_lines(run.output, 60),
        "dkms_log": build_log.last_lines(log or "", 60),
        "log": run.log,
    }
    what = f"the build of {request.wanted.version} for kernel {kver}"
    last = number == request.tries
    if run.not_started:
        _raise_for_runtime(what, run.not_started, run.log, last)
        return
    _raise_for_log(bake, what, run, log, details)
    if run.timed_out:
        bake.events.say(f"{what} was killed after {run.seconds:.0f} s")
        if last:
            message = f"{what} did not end within {request.try_s:.0f} s, {number} times. Log: {run.log}"
            raise BuildError(message, code="build_timeout", details=details)
    elif last or not build_log.is_transient(run.output):
        message = f"{what} failed (exit status {run.rc}): {build_log.last_lines(run.output, 3)}. Log: {run.log}"
        raise BuildError(message, code="build_failed", details=details)


def _raise_for_runtime(what: str, refused: NotStarted, log: str, last: bool) -> None:
    """Raises BuildError if no container can be started, or this was the last try: containerd may be on its way to come back."""
    if last or refused.code in ("no_space", "image_missing"):
        raise BuildError(f"{what} did not begin: {refused.words}: {refused.advice}. Log: {log}", code=refused.code)


def _raise_for_log(bake: Bake, what: str, run: ContainerRun, log: str | None, details: dict[str, Any]) -> None:
    """Raises BuildError if the container's output or DKMS's log shows a cause that another try does not remove."""
    if build_log.is_out_of_space(run.output, log):
        raise BuildError(
            f"{what} ran out of space: {disk_space.free_space(bake.root)}. Give the build machine a larger disk",
            code="no_space",
            details=details,
        )
    error = build_log.first_error(run.output, log)
    if error:
        raise BuildError(f"{what} does not compile: {error}. Log: {run.log}", code="compile_failed", details=details)
    gone = build_log.deleted_library(run.output)
    if gone:
        raise BuildError(
            f"{what} deletes the distribution's library {gone}, and the folder in which a driver container collects libraries cannot "
            "express a deletion: remove the package of that library from this image first, or use another driver image",
            code="library_deleted",
            details=details,
        )


def modules_in(root: Path, kver: str) -> list[str]:
    """The paths of all kernel modules for ``kver`` below ``root``, in the kernel's folder and in DKMS's tree, with merged /usr resolved."""
    own = root / relative(root, root / "lib/modules" / kver)
    places = (matching(own, "**/*.ko*"), matching(root / dkms.TREE, f"*/*/{kver}/*/module/*.ko*"))
    paths = (str(path.relative_to(root)) for place in places for path in place if path.is_file() and not path.is_symlink())
    return sorted(path for path in paths if module_signature.kernel_of(path) == kver)


def module_facts(runner: Runner, root: Path, modules: Iterable[Entry]) -> tuple[ModuleFact, ...]:
    """What modinfo says about each module of a layer, whose files are below ``root``. Raises DataError for a file that is not a module."""
    found = []
    for entry in modules:
        info = modinfo_of_file(runner, root / entry.path)
        if info is None:
            raise DataError(f"/{entry.path}: modinfo does not recognise it as a kernel module; the layer is not recorded", code=INVALID)
        name = entry.path.rsplit("/", 1)[-1].partition(".ko")[0]
        found.append(ModuleFact(entry.path, name, info.version, info.kver, info.licence, info.signer))
    return tuple(found)
