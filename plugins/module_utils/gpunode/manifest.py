"""The manifest: our record of one layer (one ``build-only`` run). Layout version 1, documented in docs/manifest.md."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import document
from .errors import DataError
from .files import make_private, write_atomic
from .host import TRIPLETS
from .imageref import KINDS, is_version
from .inventory import ROOTS, Entry, decides
from .kernels import is_release
from .kmod import OPEN, PROPRIETARY, is_driver_file

SCHEMA = 1
STORE = "var/lib/gpu-prebake"
LAYERS = f"{STORE}/layers"
_CODE = "manifest_invalid"
_LONGEST_S = 1e9
_ENTRY_FIELDS: dict[str, type] = {
    **dict.fromkeys(("path", "type", "sha256", "target"), str),
    **dict.fromkeys(("mode", "uid", "gid", "size"), int),
}


@dataclass(frozen=True)
class Identity:
    """What must be equal before anything baked is used; an empty field matches nothing (D3)."""

    kver: str
    arch: str
    kind: str
    version: str
    flavour: str
    config_digest: str

    def differences(self, other: Identity) -> tuple[str, ...]:
        """Names of the fields that differ or are unknown on either side."""
        mine, others = asdict(self), asdict(other)
        return tuple(name for name in mine if not mine[name] or mine[name] != others[name])


@dataclass(frozen=True)
class Manifest:
    """One baked layer. ``actions`` are those that the image's entrypoint knows, ``files`` what the run added."""

    layer: str
    mode: str
    created: str
    identity: Identity
    image: str
    actions: tuple[str, ...]
    accept_no_device: bool
    files: tuple[Entry, ...]
    replaced: tuple[str, ...]
    deleted: tuple[str, ...]
    build_s: float
    tries: int
    warnings: tuple[str, ...]

    @property
    def deciding_files(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.files if decides(entry))

    @property
    def modules(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.files if "lib/modules/" in e.path and is_driver_file(e.path.rsplit("/", 1)[-1]))


def layer_name(identity: Identity) -> str:
    """The folder of a layer in the store."""
    return f"{identity.kind}-{identity.version}-{identity.flavour}-{identity.kver}"


def path_of(root: Path, layer: str) -> Path:
    """Where a layer's manifest is."""
    return root / LAYERS / layer / "manifest.json"


def write(root: Path, manifest: Manifest) -> Path:
    """Writes a manifest, last of all (B8), into the store that only root may enter (R9)."""
    path = path_of(root, manifest.layer)
    for folder in (root / STORE, root / LAYERS, path.parent):
        make_private(folder)
    os.sync()  # what the manifest speaks of, and its folders, are on disk before it
    write_atomic(path, document.dump({"schema": SCHEMA, **asdict(manifest)}), 0o600)
    return path


def read(path: Path) -> Manifest:
    """Reads and validates one manifest. Raises DataError."""
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read ({error}); the layer is not used", code=_CODE) from error
    return parse(text, where, path.parent.name)


def parse(text: str, where: str, layer: str) -> Manifest:
    """Validates a manifest's text; ``layer`` is its folder's name, which it must repeat. Raises DataError."""
    data = document.load(text, SCHEMA, where, _CODE)
    try:
        manifest = Manifest(
            layer=document.get(data, "layer", str, where, _CODE),
            mode=document.get(data, "mode", str, where, _CODE),
            created=document.get(data, "created", str, where, _CODE),
            identity=Identity(**document.texts(data, "identity", where, _CODE)),
            image=document.get(data, "image", str, where, _CODE),
            actions=_words(data, "actions", where),
            accept_no_device=document.get(data, "accept_no_device", bool, where, _CODE),
            files=tuple(_entry(item, where) for item in document.get(data, "files", list, where, _CODE)),
            replaced=_words(data, "replaced", where),
            deleted=_words(data, "deleted", where),
            build_s=_seconds(data, "build_s", where),
            tries=document.get(data, "tries", int, where, _CODE),
            warnings=_words(data, "warnings", where),
        )
    except TypeError as error:
        raise DataError(f"{where}: incomplete or of the wrong shape ({error}); the layer is not used", code=_CODE) from error
    _check(manifest, where, layer)
    return manifest


def _words(data: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = document.get(data, key, list, where, _CODE)
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: {key} holds something that is not text; the layer is not used", code=_CODE)
    return tuple(values)


def _seconds(data: dict[str, Any], key: str, where: str) -> float:
    value: Any = data.get(key)
    if type(value) not in (int, float) or not 0 <= value < _LONGEST_S:
        raise DataError(f"{where}: {key} is {value!r}, not a number of seconds; the layer is not used", code=_CODE)
    return float(value)


def _entry(item: Any, where: str) -> Entry:
    if not isinstance(item, dict):
        raise TypeError(f"{item!r} is no entry of files")
    for name, kind in _ENTRY_FIELDS.items():
        document.get(item, name, kind, where, _CODE)
    entry = Entry(**item)
    document.check_path(entry.path, ROOTS, where, _CODE)
    if entry.type not in ("file", "link", "folder"):
        raise DataError(f"{where}: /{entry.path} is of the unknown type {entry.type!r}; the layer is not used", code=_CODE)
    return entry


def _check(manifest: Manifest, where: str, layer: str) -> None:
    identity = manifest.identity
    # Version and kernel become parts of paths that are removed: nothing but what they should be (R8).
    right = {
        "kver": is_release(identity.kver),
        "arch": identity.arch in TRIPLETS,
        "kind": identity.kind in KINDS,
        "version": is_version(identity.version),
        "flavour": identity.flavour in (OPEN, PROPRIETARY),
        "config_digest": bool(identity.config_digest),
    }
    wrong = [name for name, is_right in right.items() if not is_right]
    if manifest.layer != layer or layer_name(identity) != layer:
        wrong.append("layer")
    if not manifest.modules:
        wrong.append("files (no kernel module among them)")
    if wrong:
        raise DataError(f"{where}: wrong or empty: {', '.join(wrong)}; the layer is not used", code=_CODE)


def read_all(root: Path) -> tuple[tuple[Manifest, ...], tuple[str, ...]]:
    """All layers of the system at ``root``, and what is wrong with those that cannot be used (never fatal, D11)."""
    good, bad = [], []
    for path in sorted((root / LAYERS).glob("*/manifest.json")):
        try:
            good.append(read(path))
        except DataError as error:
            bad.append(str(error))
    return tuple(good), tuple(bad)
