"""Reads, writes, finds, judges bad and discards the layers in the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..driver import gpu_list
from ..errors import DataError, LayerError
from ..paths import LAYERS
from ..util import jsondoc, trust
from ..util.bounded import cut
from ..util.files import make_private, read_document, remove_empty_folder, write_atomic
from . import activation_record, installed_files
from .linking import linked_paths
from .manifest import INVALID, SCHEMA, Manifest, parse, plain_entry

_BAD, _BAD_SCHEMA = "judged-bad.json", 2
BESIDE = (_BAD,)  # our files beside a manifest


def droppable(root: Path, layer_name: str) -> Path:
    """The path of a layer's manifest, which need not exist. Raises LayerError if the layer must not be discarded; DataError."""
    if layer_name in ("", ".", "..") or "/" in layer_name:
        raise LayerError(f"{layer_name!r} is not the name of a layer", code="layer_missing")
    active = activation_record.read(root)
    if active and active.layer == layer_name:
        raise LayerError(f"layer {layer_name} is active: deactivate it first", code="layer_active")
    path = path_of(root, layer_name)
    try:
        is_there = os.path.lexists(path) or path.parent.is_symlink()
        is_stored = not is_there or read(path).stored
    except DataError as error:
        if jsondoc.is_newer(error, SCHEMA):
            raise LayerError(
                f"{error}: it was written by a newer version of this program; discard it with that version", code="store_newer"
            ) from error
        if error.code == "store_untrusted":
            raise  # what is in its folder may be anybody's
        return path  # invalid: nobody can use the layer
    if not is_stored:
        raise LayerError(
            f"layer {layer_name} was baked in place by version 0.1.0: its files are in use; remove the driver instead",
            code="layer_in_place",
        )
    return path


def find(root: Path, layer_name: str) -> Manifest:
    """The manifest of the layer of that name. Raises LayerError, DataError."""
    path = path_of(root, layer_name)
    if "/" in layer_name or not path.exists():
        good, bad = read_all(root)
        present = ", ".join(layer.layer for layer in good) or "none"
        more = f"; invalid: {'; '.join(bad)}" if bad else ""
        raise LayerError(f"layer {layer_name!r} is not in the store; layers in the store: {present}{more}", code="layer_missing")
    try:
        return read(path)
    except DataError as error:
        if jsondoc.is_newer(error, SCHEMA):
            raise LayerError(f"{error}: it was written by a newer version of this program", code="store_newer") from error
        raise


def path_of(root: Path, layer: str) -> Path:
    """The path of a layer's manifest."""
    return trust.below(root, f"{LAYERS}/{layer}/manifest.json")


def write(root: Path, manifest: Manifest) -> Path:
    """Writes a manifest durably, after everything that it names is on disk. Returns its path.

    Raises DataError if a reader would refuse the manifest, so that a bake does not succeed with it.
    """
    path = path_of(root, manifest.layer)
    text = jsondoc.dump(_plain(manifest))
    parse(text, str(path), manifest.layer)
    for folder in reversed(list(path.parents)[:3]):
        make_private(folder)
    os.sync()  # the files that the manifest names, and its folders, must be on disk before it
    write_atomic(path, text, 0o600)
    return path


def _plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON values."""
    fields = asdict(manifest)
    del fields["stored"]  # only a layer of 0.1.0 is not
    return {
        **fields,
        "schema": SCHEMA,
        "gpus": gpu_list.plain(manifest.gpus),
        "files": [plain_entry(entry) for entry in manifest.files],
        "linked": linked_paths(manifest.files),
        "originals": [plain_entry(entry) for entry in manifest.originals],
        "indexes": [{**vars(index), "after": plain_entry(index.after)} for index in manifest.indexes],
    }


def read(path: Path) -> Manifest:
    """Reads and validates one manifest. Raises DataError, with the code ``store_untrusted`` if others could have written it."""
    where = str(path)
    trust.require_document(path, folders=2)
    try:
        text = read_document(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read ({error}); the layer is not used", code=INVALID) from error
    return parse(text, where, path.parent.name)


def read_all(root: Path) -> tuple[tuple[Manifest, ...], tuple[str, ...]]:
    """All valid layers of the system at ``root``, and for each other layer what is wrong with it. An invalid layer is never fatal."""
    good, bad = [], []
    for path in _manifests(root):
        try:
            good.append(read(path))
        except DataError as error:
            bad.append(str(error))
    return tuple(good), tuple(bad)


def newer(root: Path) -> str:
    """Which manifest has a later layout than this program reads, in words; "" if none has."""
    return next((str(error) for error in _errors(root) if jsondoc.is_newer(error, SCHEMA)), "")


def untrusted(root: Path) -> str:
    """Which layer is not root's alone, in words; "" if none is."""
    return next((str(error) for error in _errors(root) if error.code == "store_untrusted"), "")


def _manifests(root: Path) -> list[Path]:
    """The paths of all manifests; also one for what is not used at all: it is a link, somebody else's, or cannot be listed. ``read`` says
    so."""
    top = trust.below(root, LAYERS)
    if trust.folder_fault(top):
        return [top / "*/manifest.json"]
    try:
        found = sorted(top.iterdir())
    except FileNotFoundError:
        return []
    except OSError:
        return [top / "*/manifest.json"]
    paths = (folder / "manifest.json" for folder in found)
    return [path for path in paths if path.parent.is_symlink() or os.path.lexists(path)]


def _errors(root: Path) -> Iterator[DataError]:
    for path in _manifests(root):
        try:
            read(path)
        except DataError as error:
            yield error


def mark_bad(root: Path, layer: Manifest, machine_id: str, reason: str) -> None:
    """Records that a layer was judged bad on this machine, so that it is not tried again there."""
    mark = {"schema": _BAD_SCHEMA, "machine_id": machine_id, "reason": reason, "bake": _bake_of(layer)}
    write_atomic(path_of(root, layer.layer).with_name(_BAD), jsondoc.dump(mark), 0o600)


def why_judged_bad(root: Path, layer: Manifest, machine_id: str) -> str | None:
    """The reason with which ``mark_bad`` was called for the layer on this machine; None if it was not, or only for an earlier bake of it.

    A mark that cannot be read counts.
    """
    path = path_of(root, layer.layer).with_name(_BAD)
    if not path.exists():
        return None
    try:
        trust.require_document(path)
        found = jsondoc.load(read_document(path), _BAD_SCHEMA, str(path), INVALID)
    except (OSError, UnicodeDecodeError, DataError) as error:
        return f"the reason cannot be read: {error}"
    is_meant = found.get("machine_id") == machine_id and found.get("bake", _bake_of(layer)) == _bake_of(layer)
    return cut(str(found.get("reason"))) if is_meant else None


def _bake_of(layer: Manifest) -> str:
    return f"{layer.created} {layer.identity.config_digest}"


def drivers_files(root: Path) -> set[str]:
    """Paths of all files that a driver container installed outside of a sandbox. A nouveau blacklist among them is not the owner's."""
    live = [layer for layer in read_all(root)[0] if not layer.stored]
    return {entry.path for layer in live for entry in layer.files} | installed_files.read_or_empty(root).paths


def drop_layer_folder(folder: Path) -> bool:
    """Removes a layer's folder, whose manifest is gone, with our files in it. Other files stay. Returns whether the folder is gone."""
    for name in BESIDE:
        (folder / name).unlink(missing_ok=True)
    return remove_empty_folder(folder)
