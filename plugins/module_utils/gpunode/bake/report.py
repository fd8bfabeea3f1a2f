"""The report of a bake, and its lines in the image's release notes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..paths import BAKE_REPORT
from ..store.manifest import CAPTURED, Manifest
from ..store.reports import setuid_before
from ..system import setuid
from ..util import files
from .builder import Builder
from .request import BakeRequest


def write_if_new(root: Path, report: dict[str, Any], changed: bool) -> bool:
    """Writes the report if the bake ``changed`` anything, or if the existing report has other layers. Returns whether it did."""
    try:
        old = json.loads((root / BAKE_REPORT).read_text(encoding="utf-8"))
        is_reported = [_key(layer) for layer in old["layers"]] == [_key(layer) for layer in report["layers"]]
    except (OSError, ValueError, LookupError, TypeError):
        is_reported = False
    if is_reported and not changed:
        return False
    files.write_atomic(root / BAKE_REPORT, json.dumps(report, indent=1, sort_keys=True) + "\n", 0o600)
    return True


def _key(layer: dict[str, Any]) -> tuple[Any, ...]:
    return layer["layer"], layer["mode"], layer["created"]


def report_of(layers: tuple[Manifest, ...], new: tuple[str, ...], builder: Builder) -> dict[str, Any]:
    """The report. The fields of the first layer are also at its top level, beside ``layers``."""
    each = [_layer_report(layer, layer.layer in new) for layer in layers]
    said = {"steps": builder.events.steps, "warnings": [*builder.warnings], "setuid_before": list(_setuid_before(builder))}
    said["nouveau"] = _nouveau_report(builder)
    return {**each[0], "schema": 1, "layers": each, **said}


def _setuid_before(builder: Builder) -> tuple[str, ...]:
    if builder.setuid_before is not None:
        return builder.setuid_before
    return setuid_before(builder.root) if (builder.root / BAKE_REPORT).exists() else setuid.setuid(builder.root)


def _nouveau_report(builder: Builder) -> dict[str, Any]:
    change = builder.nouveau
    if change is None:
        raise AssertionError("a successful bake has applied the choice about nouveau")
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
    """The line in an image's release notes that says what was baked."""
    i = layer.identity
    how = " (inert until a node activates it)" if layer.mode == CAPTURED else ""
    signed = f", signed by {layer.signer.name}" if layer.signer else ""
    from_image = f"from {layer.image} ({i.config_digest}){signed}"
    return f"nvidia-prebake: {i.kind} {i.version} ({i.flavour}) for kernel {i.kver} {i.arch}, {from_image}{how}"


def write_release_notes(root: Path, request: BakeRequest, layers: tuple[Manifest, ...]) -> bool:
    """Replaces or appends our own lines in the release notes, and keeps all others. Returns whether the file changed."""
    path = root / request.release_notes.lstrip("/")
    before = files.read_text(path)
    lines = [line for line in (before or "").splitlines() if not line.startswith("nvidia-prebake: ")]
    text = "\n".join([*lines, *map(release_note, layers)]) + "\n"
    if text == before:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, text)
    return True
