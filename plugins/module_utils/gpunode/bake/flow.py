"""One bake from start to end: check, plan, build what is missing, record, activate in mode ``in_place``, report."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import paths
from ..activation import activate, deactivate, discard
from ..container.containerd import Containerd
from ..driver.nouveau_blacklist import Change
from ..errors import BuildError, CommandError
from ..store import driver_images
from ..store.manifest import Manifest
from ..store.objects import Store
from ..system import disk_space, dpkg, setuid
from ..util import files, trust
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.run import Runner
from . import captured, preflight, sandbox, signing, signing_key
from .builder import image_digest, known_actions
from .context import Bake, Build
from .plan import Plan, plan
from .preflight import Preflight
from .report import report_of, write_if_new, write_release_notes
from .request import BakeRequest

_DPKG_WAIT_S = 300.0
_CONTAINER = "gpuprebuild"


@dataclass(frozen=True)
class Baked:
    """The requested layers, in the order of the kernels, and the names of those that this bake built."""

    layers: tuple[Manifest, ...]
    new: tuple[str, ...]
    changed: bool
    report: dict[str, Any]


def bake(
    runner: Runner,
    request: BakeRequest,
    say: Callable[[str], None] = lambda _: None,
    root: Path = Path("/"),
) -> Baked:
    """Bakes a layer for each kernel that ``request`` asks for. Raises GpuNodeError.

    After a failure, what the build wrote has been removed. A second bake at the same time is refused with BusyError.
    """
    with files.locked(paths.LOCK, "a bake"), signing_key.secrets_removed(root, request.signing):
        events = Events(say)
        try:
            return _bake(root, runner, request, events)
        except CommandError as error:
            raise BuildError(f"the bake stopped: {error}", code="command_failed", details=error.details) from error
        except OSError as error:
            raise _disk_error(root, events, error) from error


def look(runner: Runner, request: BakeRequest, root: Path = Path("/")) -> Preflight:
    """What a bake would find on this build machine. Raises GpuNodeError if a bake would be refused.

    Changes nothing, except that a signing key that was sent from the controller is removed.
    """
    try:
        return preflight.check(root, runner, Containerd(runner), request)
    finally:
        signing_key.remove_sent(root, request.signing)


def would_change(runner: Runner, request: BakeRequest, root: Path = Path("/")) -> bool:
    """Whether ``bake`` would change the image; changes nothing. Raises GpuNodeError if it would be refused."""
    containerd = Containerd(runner)
    checked = preflight.check(root, runner, containerd, request)
    if request.signing and not checked.certificate:
        return True  # the certificate cannot be read without openssl, which the role installs
    digest = containerd.config_digest(request.wanted.image.text, checked.arch, request.wanted.pin)
    if digest is None or driver_images.unneeded(root, containerd, _image_names(request)).is_anything:
        return True
    return plan(_context(root, runner, containerd, request, Events(), checked, digest), checked.kernels).is_anything


def _context(
    root: Path, runner: Runner, containerd: Containerd, request: BakeRequest, events: Events, checked: Preflight, digest: str
) -> Bake:
    return Bake(root, runner, containerd, request, events, checked.arch, digest, checked.certificate, checked.warnings)


def _bake(root: Path, runner: Runner, request: BakeRequest, events: Events) -> Baked:
    containerd = Containerd(runner)
    trust.require_store(root)
    _sweep(root, runner, events)
    checked = preflight.check(root, runner, containerd, request)
    for kver in checked.kernels:
        preflight.require_tools(root, runner, kver, request)
    digest = image_digest(containerd, request.wanted, checked.arch)
    if trust.below(root, paths.ACTIVATION_JOURNAL).exists():
        with events.step("resume-activation"):
            deactivate.resume(root, runner, events.say)
    context = _context(root, runner, containerd, request, events, checked, digest)
    return _carry_out(context, plan(context, checked.kernels), checked.kernels)


def _sweep(root: Path, runner: Runner, events: Events) -> None:
    """Removes what a killed bake left: its sandbox, and objects that no document names. Raises BuildError."""
    left = sandbox.sweep(root, runner)
    dropped = Store(root).sweep() + captured.collect(root, events.say)
    if left or dropped:
        with events.step("take-away-interrupted", sandboxes=list(left), dropped=dropped):
            pass


def _carry_out(bake: Bake, planned: Plan, kernels: Sequence[str]) -> Baked:
    build = _prepare(bake, planned.missing) if planned.missing else None
    if planned.deactivates:
        with bake.events.step("deactivate-old-layer", layer=planned.deactivates) as event:
            event["kept"] = list(deactivate.deactivate(bake.root, bake.runner, bake.events.say).kept)
    was_setuid = setuid.setuid(bake.root) if build else None
    made, nouveau = _build(bake, planned, build)
    found = {**planned.present, **{layer.identity.kver: layer for layer in made}}
    layers = tuple(found[kver] for kver in kernels)
    _discard(bake, [name for name in planned.others if name not in [layer.layer for layer in layers]], bool(made))
    if planned.activates:
        with bake.events.step("activate-layer", layer=layers[0].layer):
            activate.activate(bake.root, bake.runner, layers[0], bake.events.say, for_image=True)
    dropped = _drop_old_images(bake)
    new = tuple(layer.layer for layer in made)
    report = report_of(bake, layers, new, nouveau, was_setuid)
    # A bake that was killed after it wrote its manifests has written neither report nor release notes.
    changed = planned.is_anything or dropped
    written = [write_if_new(bake.root, report, changed), write_release_notes(bake.root, bake.request, layers)]
    return Baked(layers, new, changed or any(written), report)


def _build(bake: Bake, planned: Plan, build: Build | None) -> tuple[tuple[Manifest, ...], Change]:
    """Builds what is missing and applies the choice about nouveau. Holds dpkg's lock meanwhile, so that no package writes the same
    initramfs."""
    if not build and not planned.nouveau.is_needed:
        return (), planned.nouveau
    with dpkg.held(bake.root, Deadline(_DPKG_WAIT_S), bake.events.say):
        if build:
            return captured.bake_layers(build, planned.missing)
        with captured.nouveau_choice_applied(bake) as change:
            return (), change


def _prepare(bake: Bake, kernels: Sequence[str]) -> Build:
    """What the builds need. Makes a trial signature for each kernel, so that an unusable key is found before the first compile. Raises
    PreflightError, ImageError."""
    signer = None
    if bake.request.signing and bake.certificate:
        signer = signing.ModuleSigner(bake.root, bake.runner, bake.request.signing, bake.certificate)
        with bake.events.step("try-signing-key", signer=bake.certificate.signer.name):
            for kver in kernels:
                signer.require(kver)
    return Build(bake, known_actions(bake), signer, (f"{_CONTAINER}-{number}" for number in itertools.count(1)))


def _discard(bake: Bake, others: Sequence[str], replaced: bool) -> None:
    """Discards the layers ``others``, the manifest first, and the objects that no document names any more. ``replaced``: a layer may have
    been replaced by a new one of its name."""
    if not others and not replaced:
        return
    with bake.events.step("discard-old-layers", layers=others) as event:
        for name in others:
            discard.discard(bake.root, bake.runner, name, bake.events.say)
        event["dropped"] = captured.collect(bake.root, bake.events.say)


def _image_names(request: BakeRequest) -> tuple[str, str]:
    return request.wanted.image.text, request.wanted.pull.text


def _drop_old_images(bake: Bake) -> bool:
    """Removes the driver images of earlier bakes, also of failed ones, that no layer names any more. Returns whether there were any."""
    found, problem = driver_images.drop_unneeded(bake.root, bake.containerd, _image_names(bake.request))
    if problem or found.is_anything:
        with bake.events.step("drop-old-images", images=[*found.pulled, *found.pinned]) as event:
            event.update({"outcome": "left", "error": problem} if problem else {})
    return found.is_anything and not problem


def _disk_error(root: Path, events: Events, error: OSError) -> BuildError:
    """The BuildError for an OSError: which file, in which step, and what to do."""
    step = f" in step {events.steps[-1]['name']}" if events.steps and events.steps[-1]["outcome"] == "failed" else ""
    what = f"the bake stopped{step}: {error.filename or 'the system'}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(f"{what}: {disk_space.free_space(root)}. Give the build machine a larger disk", code="no_space")
    if error.errno == errno.EROFS:
        return BuildError(f"{what}: mount its filesystem writable; the kernel's log may say why it is read-only", code="read_only")
    return BuildError(f"{what}: check this file and its filesystem", code="os_error")
