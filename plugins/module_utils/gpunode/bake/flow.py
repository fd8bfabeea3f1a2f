"""One bake from start to end: check, build for each kernel in the requested mode, record last, report."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import paths
from ..container.containerd import Containerd
from ..errors import BuildError, CommandError
from ..store.manifest import CAPTURED, Manifest
from ..system import disk_space, dpkg, setuid
from ..util import files
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.run import Runner
from . import preflight, signing, signing_key
from .builder import Builder
from .captured import Capturing
from .in_place import InPlace
from .report import report_of, write_if_new, write_release_notes
from .request import BakeRequest

_DPKG_WAIT_S = 300.0


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

    After a failure, what the build wrote has been removed; in mode in_place, the error lists what it replaced or deleted. A second
    bake at the same time is refused with BusyError.
    """
    with files.locked(paths.LOCK, "a bake"), signing_key.secrets_removed(root, request.signing):
        events = Events(say)
        builder = Builder(root, runner, Containerd(runner), request, events)
        try:
            layers, new, changed = _run(builder)
            report = report_of(layers, new, builder)
            # A bake that was killed after it wrote its manifests has written neither report nor release notes.
            written = [write_if_new(root, report, changed), write_release_notes(root, request, layers)]
        except CommandError as error:
            raise BuildError(f"the bake stopped: {error}", code="command_failed", details=error.details) from error
        except OSError as error:
            raise _disk_error(root, events, error) from error
        return Baked(layers, new, changed or any(written), report)


def look(runner: Runner, request: BakeRequest, root: Path = Path("/")) -> preflight.Preflight:
    """What a bake would find on this build machine. Raises GpuNodeError if a bake would be refused.

    Changes nothing, except that a signing key that was sent from the controller is removed.
    """
    try:
        return preflight.check(root, runner, Containerd(runner), request)
    finally:
        signing_key.remove_sent(root, request.signing)


def would_bake(runner: Runner, request: BakeRequest, root: Path = Path("/")) -> bool:
    """Whether ``bake`` would build or apply the choice about nouveau; changes nothing. Raises GpuNodeError if it would be refused."""
    builder = Builder(root, runner, Containerd(runner), request, Events())
    checked = preflight.check(root, runner, builder.containerd, request)
    builder.arch = checked.arch
    builder.certificate = checked.certificate
    if request.signing and not checked.certificate:
        return True  # the certificate cannot be read without openssl, which the role installs
    digest = builder.containerd.config_digest(request.wanted.image.text, checked.arch)
    if digest is None:
        return True
    builder.digest = digest
    mode = _mode(builder)
    return any(mode.present(kver) is None for kver in checked.kernels) or builder.would_change_nouveau()


def _mode(builder: Builder) -> Capturing | InPlace:
    return Capturing(builder) if builder.request.mode == CAPTURED else InPlace(builder)


def _run(builder: Builder) -> tuple[tuple[Manifest, ...], tuple[str, ...], bool]:
    request, in_place, capturing = builder.request, InPlace(builder), Capturing(builder)
    in_place.take_back_interrupted()
    capturing.sweep()
    checked = preflight.check(builder.root, builder.runner, builder.containerd, request)
    builder.warnings += checked.warnings
    builder.arch = checked.arch
    builder.certificate = checked.certificate
    for kver in checked.kernels:
        preflight.require_tools(builder.root, builder.runner, kver, request)
    builder.digest = builder.image_digest()
    capturing.deactivate()
    present = {kver: _mode(builder).present(kver) for kver in checked.kernels}
    missing = [kver for kver in checked.kernels if present[kver] is None]
    made: list[Manifest] = []
    if missing:
        _prepare_signing(builder, missing)
        builder.ask_image()
        in_place.remove_layers()
        builder.setuid_before = setuid.setuid(builder.root)
        with dpkg.held(builder.root, Deadline(_DPKG_WAIT_S), builder.events.say):
            made = capturing.bake(missing) if request.mode == CAPTURED else _in_place(builder, missing)
    else:
        _apply_nouveau_choice(builder)
    new = {layer.identity.kver: layer for layer in made}
    layers = tuple(layer for kver in checked.kernels if (layer := new.get(kver) or present[kver]))
    old = capturing.not_requested([layer.layer for layer in layers])
    if old or made:
        capturing.discard(old)
    nouveau_changed = builder.nouveau is not None and builder.nouveau.is_needed
    return layers, tuple(layer.layer for layer in made), bool(made or old or nouveau_changed)


def _in_place(builder: Builder, missing: Sequence[str]) -> list[Manifest]:
    """Nouveau is settled around the build: taking back what was live must not leave its traces in an initramfs that was made meanwhile."""
    with builder.nouveau_choice_applied():
        return [InPlace(builder).bake(kver) for kver in missing]


def _apply_nouveau_choice(builder: Builder) -> None:
    """Applies the choice about nouveau if nothing is built; holds dpkg's lock, so that no package writes the same initramfs meanwhile."""
    held = dpkg.held(builder.root, Deadline(_DPKG_WAIT_S), builder.events.say)
    with held if builder.would_change_nouveau() else contextlib.nullcontext(), builder.nouveau_choice_applied():
        pass


def _disk_error(root: Path, events: Events, error: OSError) -> BuildError:
    """The BuildError for an OSError: which file, in which step, and what to do."""
    step = f" in step {events.steps[-1]['name']}" if events.steps and events.steps[-1]["outcome"] == "failed" else ""
    what = f"the bake stopped{step}: {error.filename or 'the system'}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(f"{what}: {disk_space.free_space(root)}. Give the build machine a larger disk", code="no_space")
    if error.errno == errno.EROFS:
        return BuildError(f"{what}: mount its filesystem writable; the kernel's log may say why it is read-only", code="read_only")
    return BuildError(f"{what}: check this file and its filesystem", code="os_error")


def _prepare_signing(builder: Builder, kernels: Sequence[str]) -> None:
    """Makes a trial signature for each kernel, so that an unusable key is found before the first compile. Raises PreflightError."""
    request = builder.request
    if request.signing and builder.certificate:
        builder.signer = signing.ModuleSigner(builder.root, builder.runner, request.signing, builder.certificate)
        with builder.events.step("try-signing-key", signer=builder.certificate.signer.name):
            for kver in kernels:
                builder.signer.require(kver)
