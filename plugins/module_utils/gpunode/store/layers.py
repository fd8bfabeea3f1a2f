"""The layers in the store: their manifests read and written, found by name, judged bad, dropped."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from ..errors import DataError, LayerError
from ..paths import LAYERS, STORE
from ..util import jsondoc
from ..util.files import make_private, remove_empty_folder, write_atomic
from . import activation_record, installed_files
from .manifest import CAPTURED, IN_PLACE, INVALID, SCHEMA, Manifest, parse

_BAD = "judged-bad.json"
BESIDE = (_BAD,)  # what of ours lies beside a manifest


def droppable(root: Path, layer_name: str) -> Path:
    """Where the manifest of a layer that may be dropped is, or was. Raises LayerError where it may not be."""
    if layer_name in ("", ".", "..") or "/" in layer_name:
        raise LayerError(f"{layer_name!r} is no name of a layer", code="layer_missing")
    active = activation_record.read(root)
    if active and active.layer == layer_name:
        raise LayerError(f"layer {layer_name} is active: deactivate it first", code="layer_active")
    path = path_of(root, layer_name)
    try:
        mode = read(path).mode if path.exists() else CAPTURED
    except DataError as error:
        if jsondoc.is_newer(error, SCHEMA):
            raise LayerError(
                f"{error}: it was written by a newer version of this program, which must drop it", code="store_newer"
            ) from error
        return path  # broken: nobody can use it, and what lies beside it is garbage
    if mode == IN_PLACE:
        raise LayerError(
            f"layer {layer_name} was baked in place: its files are in use where they lie; remove the driver instead", code="layer_in_place"
        )
    return path


def find(root: Path, layer_name: str) -> Manifest:
    """The layer of that name in the store. Raises LayerError, DataError."""
    path = path_of(root, layer_name)
    if "/" in layer_name or not path.exists():
        good, bad = read_all(root)
        present = ", ".join(layer.layer for layer in good) or "none"
        more = f"; besides, {'; '.join(bad)}" if bad else ""
        raise LayerError(f"layer {layer_name!r} is not in the store; layers there: {present}{more}", code="layer_missing")
    try:
        return read(path)
    except DataError as error:
        if jsondoc.is_newer(error, SCHEMA):
            raise LayerError(f"{error}: it was written by a newer version of this program", code="store_newer") from error
        raise


def path_of(root: Path, layer: str) -> Path:
    """Where a layer's manifest is."""
    return root / LAYERS / layer / "manifest.json"


def write(root: Path, manifest: Manifest) -> Path:
    """Writes a manifest, last of all (B8), into the store that only root may enter (R9).

    Raises DataError for one that no reader would take: a bake must not end well with it.
    """
    path = path_of(root, manifest.layer)
    text = jsondoc.dump({"schema": SCHEMA, **asdict(manifest)})
    parse(text, str(path), manifest.layer)
    for folder in (root / STORE, root / LAYERS, path.parent):
        make_private(folder)
    os.sync()  # what the manifest speaks of, and its folders, are on disk before it
    write_atomic(path, text, 0o600)
    return path


def read(path: Path) -> Manifest:
    """Reads and validates one manifest. Raises DataError."""
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read ({error}); the layer is not used", code=INVALID) from error
    return parse(text, where, path.parent.name)


def read_all(root: Path) -> tuple[tuple[Manifest, ...], tuple[str, ...]]:
    """All layers of the system at ``root``, and what is wrong with those that cannot be used (never fatal, D11)."""
    good, bad = [], []
    for path in sorted((root / LAYERS).glob("*/manifest.json")):
        try:
            good.append(read(path))
        except DataError as error:
            bad.append(str(error))
    return tuple(good), tuple(bad)


def newer(root: Path) -> str:
    """Which layer's manifest is of a later layout than this program reads, in words; "" where none is."""
    for path in sorted((root / LAYERS).glob("*/manifest.json")):
        try:
            read(path)
        except DataError as error:
            if jsondoc.is_newer(error, SCHEMA):
                return str(error)
    return ""


def mark_bad(root: Path, layer: Manifest, machine_id: str, reason: str) -> None:
    """Remembers that a layer did not work on this machine, so that it is not tried again there."""
    mark = {"schema": SCHEMA, "machine_id": machine_id, "reason": reason, "bake": _bake_of(layer)}
    write_atomic(path_of(root, layer.layer).with_name(_BAD), jsondoc.dump(mark), 0o600)


def why_judged_bad(root: Path, layer: Manifest, machine_id: str) -> str | None:
    """With what reason ``mark_bad`` was called for it on this machine; None where it was not, or for an earlier bake under the same name.

    A mark that cannot be read still is one.
    """
    path = path_of(root, layer.layer).with_name(_BAD)
    if not path.exists():
        return None
    try:
        found = jsondoc.load(path.read_text(encoding="utf-8"), SCHEMA, str(path), INVALID)
    except (OSError, UnicodeDecodeError, DataError) as error:
        return f"why cannot be read: {error}"
    is_meant = found.get("machine_id") == machine_id and found.get("bake", _bake_of(layer)) == _bake_of(layer)
    return str(found.get("reason")) if is_meant else None


def _bake_of(layer: Manifest) -> str:
    return f"{layer.created} {layer.identity.config_digest}"


def drivers_files(root: Path) -> set[str]:
    """Paths that are a driver's of ours: its own blacklist goes with it, and does not count as the owner's."""
    live = [layer for layer in read_all(root)[0] if layer.mode == IN_PLACE]
    return {entry.path for layer in live for entry in layer.files} | installed_files.read_or_empty(root).paths


def drop_layer_folder(folder: Path) -> bool:
    """Removes a layer's folder, whose manifest is gone, and what of ours is in it. A file of somebody else's stays; returns whether
    all of it is gone."""
    for name in BESIDE:
        (folder / name).unlink(missing_ok=True)
    return remove_empty_folder(folder)
