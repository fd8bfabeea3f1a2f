"""The report of a bake, and its lines in the image's release notes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..driver.nouveau_blacklist import Change
from ..errors import DataError
from ..paths import BAKE_REPORT, OBJECTS
from ..store import activation_record
from ..store.activation_record import COPY
from ..store.manifest import Manifest, driver_of
from ..store.reports import setuid_before
from ..system import setuid
from ..util import files, jsondoc, trust
from ..util.folders import matching
from .context import Bake
from .request import BakeRequest


def write_if_new(root: Path, report: dict[str, Any], changed: bool) -> bool:
    """Writes the report if the bake ``changed`` anything, or if the existing report has other layers. Returns whether it did."""
    try:
        old = jsondoc.parse(files.read_document(trust.document(root, BAKE_REPORT)))
        is_reported = [_key(layer) for layer in old["layers"]] == [_key(layer) for layer in report["layers"]]
    except (OSError, ValueError, LookupError, TypeError, DataError):
        is_reported = False
    if is_reported and not changed:
        return False
    files.write_atomic(trust.below(root, BAKE_REPORT), json.dumps(report, indent=1, sort_keys=True) + "\n", 0o600)
    return True


def _key(layer: dict[str, Any]) -> tuple[Any, ...]:
    return layer["layer"], layer["mode"], layer["created"]


def report_of(
    bake: Bake, layers: tuple[Manifest, ...], new: tuple[str, ...], nouveau: Change, was_setuid: tuple[str, ...] | None
) -> dict[str, Any]:
    """The report. The fields of the first layer are also at its top level, beside ``layers``. ``was_setuid`` are the files that were setuid
    or setgid before the builds; None if nothing was built."""
    each = [_layer_report(layer, bake.request.mode, layer.layer in new) for layer in layers]
    warnings = [*bake.warnings, *(warning for layer in layers if layer.layer in new for warning in layer.warnings)]
    said = {"steps": bake.events.steps, "warnings": list(dict.fromkeys(warnings)), "image_growth": image_growth(bake.root)}
    said["setuid_before"] = list(_setuid_before(bake.root, layers) if was_setuid is None else was_setuid)
    said["nouveau"] = _nouveau_report(bake.request, nouveau)
    return {**each[0], "schema": 1, "layers": each, **said}


def image_growth(root: Path) -> dict[str, int]:
    """How many bytes all bakes have added to the image: the store's objects, and those files of the active layer that are copies. A link
    shares its content with an object."""
    active = activation_record.read(root)
    copied = [entry.size for entry in active.placed if active.how.get(entry.path) == COPY] if active else []
    objects = [path.lstat().st_size for path in matching(trust.below(root, OBJECTS), "*/*")]
    return {"store_bytes": sum(objects), "copied_bytes": sum(copied)}


def _setuid_before(root: Path, layers: tuple[Manifest, ...]) -> tuple[str, ...]:
    if trust.below(root, BAKE_REPORT).exists():
        return setuid_before(root)
    ours = {entry.path for layer in layers for entry in layer.files}
    return tuple(path for path in setuid.setuid(root) if path not in ours)


def _nouveau_report(request: BakeRequest, change: Change) -> dict[str, Any]:
    files = [f"/{path}" for path in change.files]
    return {
        "blacklist": request.blacklist_nouveau,
        "file": next(iter(files), ""),  # as in 0.1.0, which knew only one
        "files": files,
        "says": change.says,
        "initramfs": list(change.images),
    }


def _layer_report(layer: Manifest, mode: str, baked_now: bool) -> dict[str, Any]:
    return {
        "baked_now": baked_now,
        "layer": layer.layer,
        "mode": mode,
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
        "gpus": {"source": layer.gpus.source, "generations": [one.name for one in driver_of(layer).generations()]},
    }


def release_note(layer: Manifest, request: BakeRequest) -> str:
    """The line in an image's release notes that says what was baked."""
    i = layer.identity
    how = "" if request.is_in_place else " (inert until a node activates it)"
    signed = f", signed by {layer.signer.name}" if layer.signer else ""
    from_image = f"from {layer.image} ({i.config_digest}){signed}"
    return f"nvidia-prebake: {i.kind} {i.version} ({i.flavour}) for kernel {i.kver} {i.arch}, {from_image}{how}"


def write_release_notes(root: Path, request: BakeRequest, layers: tuple[Manifest, ...]) -> bool:
    """Replaces or appends our own lines in the release notes, and keeps all others byte for byte. Returns whether the file changed. Raises
    OSError, also if the notes are no file that can be kept."""
    path = trust.below(root, request.release_notes.lstrip("/"))
    try:
        before = files.read_bytes(path).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        before = ""
    lines = [line for line in before.removesuffix("\n").split("\n") if not line.startswith("nvidia-prebake: ")] if before else []
    text = "\n".join([*lines, *(release_note(layer, request) for layer in layers)]) + "\n"
    if text == before:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, text)
    return True
