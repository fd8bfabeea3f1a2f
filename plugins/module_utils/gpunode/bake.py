"""The bake as one call: look, build for each kernel in the mode that is asked for, record last, report."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import dpkglock, files, inert, preflight, signing
from .build import Builder
from .capturing import Capturing
from .containerd import Containerd
from .contract import LOCK
from .deadline import Deadline
from .errors import BuildError, CommandError
from .events import Events
from .inplace import InPlace
from .manifest import CAPTURED, STORE, Manifest
from .preflight import BakeRequest
from .runner import Runner

REPORT = f"{STORE}/bake-report.json"
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
    with files.locked(LOCK, "a bake"), signing.swept(root, request.signing):
        events = Events(say)
        builder = Builder(root, runner, Containerd(runner), request, events)
        try:
            layers, new, changed = _run(builder)
            report = _report(layers, new, builder)
            # A bake that was killed after its manifests has not told of them.
            told = [_tell(root, report, changed), _release_notes(root, request, layers)]
        except CommandError as error:
            raise BuildError(f"the bake stopped: {error}", code="command_failed", details=error.details) from error
        except OSError as error:
            raise _disk_error(root, events, error) from error
        return Baked(layers, new, changed or any(told), report)


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
        builder.setuid_before = inert.setuid(builder.root)
        with dpkglock.held(builder.root, Deadline(_DPKG_WAIT_S), builder.events.say):
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
    held = dpkglock.held(builder.root, Deadline(_DPKG_WAIT_S), builder.events.say)
    with held if builder.would_change_nouveau() else contextlib.nullcontext(), builder.nouveau_settled():
        pass


def _disk_error(root: Path, events: Events, error: OSError) -> BuildError:
    """A full or read-only filesystem by name: which file, in which step, what to do."""
    step = f" in step {events.steps[-1]['name']}" if events.steps and events.steps[-1]["outcome"] == "failed" else ""
    what = f"the bake stopped{step}: {error.filename or 'the system'}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(f"{what}: {preflight.free_space(root)}. Give the build machine a larger disk", code="no_space")
    if error.errno == errno.EROFS:
        return BuildError(f"{what}: mount its filesystem writable, and look in the kernel's log for why it is not", code="read_only")
    return BuildError(f"{what}: look at this file and its filesystem", code="os_error")


def _tell(root: Path, report: dict[str, Any], changed: bool) -> bool:
    """Writes the report of a bake that has ``changed`` something, or whose layers the report there does not name; whether it did."""
    try:
        there = json.loads((root / REPORT).read_text(encoding="utf-8"))
        is_told = [_named(layer) for layer in there["layers"]] == [_named(layer) for layer in report["layers"]]
    except (OSError, ValueError, LookupError, TypeError):
        is_told = False
    if is_told and not changed:
        return False
    files.write_atomic(root / REPORT, json.dumps(report, indent=1, sort_keys=True) + "\n", 0o600)
    return True


def _named(layer: dict[str, Any]) -> tuple[Any, ...]:
    return layer["layer"], layer["mode"], layer["created"]


def _prepare_signing(builder: Builder, kernels: Sequence[str]) -> None:
    """A key that cannot sign is told before the first compile. Raises PreflightError."""
    request = builder.request
    if request.signing and builder.certificate:
        builder.signer = signing.ModuleSigner(builder.root, builder.runner, request.signing, builder.certificate)
        with builder.events.step("try-signing-key", signer=builder.certificate.signer.name):
            for kver in kernels:
                builder.signer.require(kver)


def _report(layers: tuple[Manifest, ...], new: tuple[str, ...], builder: Builder) -> dict[str, Any]:
    """The report; what stands at its top beside ``layers`` is of the first of them."""
    each = [_layer_report(layer, layer.layer in new) for layer in layers]
    said = {"steps": builder.events.steps, "warnings": [*builder.warnings], "setuid_before": list(_setuid_before(builder))}
    said["nouveau"] = _nouveau_report(builder)
    return {**each[0], "schema": 1, "layers": each, **said}


def setuid_before(root: Path) -> tuple[str, ...]:
    """Files that were setuid or setgid before the last bake that built something, by its report; none where that tells nothing."""
    try:
        said = json.loads(files.read_text(root / REPORT) or "{}").get("setuid_before")
    except (ValueError, AttributeError):
        return ()
    return tuple(path for path in said if isinstance(path, str)) if isinstance(said, list) else ()


def _setuid_before(builder: Builder) -> tuple[str, ...]:
    if builder.setuid_before is not None:
        return builder.setuid_before
    return setuid_before(builder.root) if (builder.root / REPORT).exists() else inert.setuid(builder.root)


def _nouveau_report(builder: Builder) -> dict[str, Any]:
    change = builder.nouveau
    if change is None:
        raise AssertionError("a bake that has ended well has settled what becomes of nouveau")
    chosen = builder.request.blacklist_nouveau
    return {"blacklist": chosen, "file": f"/{change.file}" if change.file else "", "says": change.says, "initramfs": list(change.images)}


def _layer_report(layer: Manifest, baked_now: bool) -> dict[str, Any]:
    return {
        "baked_now": baked_now,
        "layer": layer.layer,
        "mode": layer.mode,
        "created": layer.created,
        "identity": asdict(layer.identity),
        "image": layer.image,
        "actions": list(layer.actions),
        "build_seconds": layer.build_s,
        "tries": layer.tries,
        "files": len(layer.files),
        "bytes": sum(e.size for e in layer.files),
        "deciding_files": len(layer.deciding_files),
        "replaced": list(layer.replaced),
        "deleted": list(layer.deleted),
        "signer": asdict(layer.signer) if layer.signer else None,
    }


def release_note(layer: Manifest) -> str:
    """The line that says in an image's release notes what was baked."""
    i = layer.identity
    how = " (inert until a node activates it)" if layer.mode == CAPTURED else ""
    signed = f", signed by {layer.signer.name}" if layer.signer else ""
    from_image = f"from {layer.image} ({i.config_digest}){signed}"
    return f"nvidia-prebake: {i.kind} {i.version} ({i.flavour}) for kernel {i.kver} {i.arch}, {from_image}{how}"


def _release_notes(root: Path, request: BakeRequest, layers: tuple[Manifest, ...]) -> bool:
    """Replaces our own lines in the release notes, or appends them; other lines are the image builder's. Whether that changed them."""
    path = root / request.release_notes.lstrip("/")
    before = files.read_text(path)
    lines = [line for line in (before or "").splitlines() if not line.startswith("nvidia-prebake: ")]
    text = "\n".join([*lines, *map(release_note, layers)]) + "\n"
    if text == before:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, text)
    return True
