"""The bake as one call: look, build for each kernel in the mode that is asked for, record last, report."""

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
    """The layers that were asked for, in the order of the kernels, and the names of those that were baked now."""

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

    What a failed build wrote is then gone again; in mode in_place, what it replaced or deleted is named. A second bake at the same
    time is refused with BusyError.
    """
    with files.locked(paths.LOCK, "a bake"), signing_key.swept(root, request.signing):
        events = Events(say)
        builder = Builder(root, runner, Containerd(runner), request, events)
        try:
            layers, new, changed = _run(builder)
            report = report_of(layers, new, builder)
            # A bake that was killed after its manifests has not told of them.
            told = [write_if_new(root, report, changed), write_release_notes(root, request, layers)]
        except CommandError as error:
            raise BuildError(f"the bake stopped: {error}", code="command_failed", details=error.details) from error
        except OSError as error:
            raise _disk_error(root, events, error) from error
        return Baked(layers, new, changed or any(told), report)


def look(runner: Runner, request: BakeRequest, root: Path = Path("/")) -> preflight.Preflight:
    """Returns what a bake would find on this build machine; changes nothing. Raises GpuNodeError where a bake would refuse it.

    A signing key that was brought here for the bake is removed.
    """
    try:
        return preflight.check(root, runner, Containerd(runner), request)
    finally:
        signing_key.take_away(root, request.signing)


def would_bake(runner: Runner, request: BakeRequest, root: Path = Path("/")) -> bool:
    """Whether ``bake`` would build; changes nothing. Raises GpuNodeError when it would refuse."""
    builder = Builder(root, runner, Containerd(runner), request, Events())
    checked = preflight.check(root, runner, builder.containerd, request)
    builder.arch = checked.arch
    builder.certificate = checked.certificate
    if request.signing and not checked.certificate:
        return True  # without openssl, which the role installs, it cannot be looked at
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
        _settle_nouveau(builder)
    new = {layer.identity.kver: layer for layer in made}
    layers = tuple(layer for kver in checked.kernels if (layer := new.get(kver) or present[kver]))
    old = capturing.leftover([layer.layer for layer in layers])
    if old or made:
        capturing.discard(old)
    settled = builder.nouveau is not None and builder.nouveau.is_needed
    return layers, tuple(layer.layer for layer in made), bool(made or old or settled)


def _in_place(builder: Builder, missing: Sequence[str]) -> list[Manifest]:
    """Nouveau is settled around the build: taking back what was live must not leave its traces in an initramfs that was made meanwhile."""
    with builder.nouveau_settled():
        return [InPlace(builder).bake(kver) for kver in missing]


def _settle_nouveau(builder: Builder) -> None:
    """The choice about nouveau where nothing is built: packages are kept from making the same initramfs meanwhile."""
    held = dpkg.held(builder.root, Deadline(_DPKG_WAIT_S), builder.events.say)
    with held if builder.would_change_nouveau() else contextlib.nullcontext(), builder.nouveau_settled():
        pass


def _disk_error(root: Path, events: Events, error: OSError) -> BuildError:
    """A full or read-only filesystem by name: which file, in which step, what to do."""
    step = f" in step {events.steps[-1]['name']}" if events.steps and events.steps[-1]["outcome"] == "failed" else ""
    what = f"the bake stopped{step}: {error.filename or 'the system'}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(f"{what}: {disk_space.free_space(root)}. Give the build machine a larger disk", code="no_space")
    if error.errno == errno.EROFS:
        return BuildError(f"{what}: mount its filesystem writable, and look in the kernel's log for why it is not", code="read_only")
    return BuildError(f"{what}: look at this file and its filesystem", code="os_error")


def _prepare_signing(builder: Builder, kernels: Sequence[str]) -> None:
    """A key that cannot sign is told before the first compile. Raises PreflightError."""
    request = builder.request
    if request.signing and builder.certificate:
        builder.signer = signing.ModuleSigner(builder.root, builder.runner, request.signing, builder.certificate)
        with builder.events.step("try-signing-key", signer=builder.certificate.signer.name):
            for kver in kernels:
                builder.signer.require(kver)
