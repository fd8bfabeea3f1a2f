"""Defines and validates the manifest, the record of one layer. Layout version 3, see docs/manifest.md."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from ..container.reference import KINDS, is_version
from ..driver.footprint import ROOTS, decides
from ..driver.gpu_list import UNKNOWN, Driver, GpuList, are_ranges, is_branch
from ..driver.modules import OPEN, PROPRIETARY, is_driver_file
from ..errors import DataError
from ..system.host import TRIPLETS
from ..system.kernels import is_release
from ..system.module_signature import Signer
from ..system.tree import Entry
from ..util import jsondoc
from ..util.expressions import expression
from . import linking

SCHEMA = 3
_OLDER = (2,)  # 0.1.0: with ``mode``, without ``linked``
_IN_PLACE, _CAPTURED = "in_place", "captured"
INVALID = "manifest_invalid"
_LONGEST_S = 1e9
_ENTRY_FIELDS: dict[str, type] = {
    **dict.fromkeys(("path", "type", "sha256", "target"), str),
    **dict.fromkeys(("mode", "uid", "gid", "size"), int),
    "attributes": list,
}
_ENTRY_KINDS = list(_ENTRY_FIELDS.values())
_FACT_FIELDS = ("path", "name", "version", "kver", "licence", "signer")
_SHA256 = expression(r"[0-9a-f]{64}")
_KEY_ID = expression(r"([0-9a-f]{2}){1,64}")
_ATTRIBUTE = expression(r"(security|system|trusted|user)\.[^\0]+")
_BASE64 = expression(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_INDEX = expression(r"(usr/)?lib/modules/[^/]+/modules\.[^/]+")
_HIGHEST_ID = 2**32 - 2


@dataclass(frozen=True)
class Identity:
    """The fields that must be equal before anything baked is used; an empty field equals nothing."""

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
class ModuleFact:
    """What modinfo printed for one module of the layer at bake; ``kver`` is the first word of its vermagic."""

    path: str
    name: str
    version: str
    kver: str
    licence: str
    signer: str


@dataclass(frozen=True)
class Index:
    """A ``modules.*`` of the layer's kernel: its SHA-256 at bake ("" if it did not exist), and what depmod makes of it with the layer."""

    path: str
    before: str
    after: Entry


@dataclass(frozen=True)
class Manifest:
    """One baked layer. ``actions`` are those that the image's entrypoint knows; ``build_s`` is in seconds.

    ``files`` is everything that an activation puts in place, replacements included; ``originals`` describes what each path of ``replaced``
    and ``deleted`` was at bake. ``stored``: the files' contents are objects of the store. False only for a layer that version 0.1.0 baked
    in place: ``files`` are live, and there are no ``originals``. ``gpus`` is what the driver says about the GPUs that it supports.
    """

    layer: str
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
    originals: tuple[Entry, ...] = ()
    module_facts: tuple[ModuleFact, ...] = ()
    indexes: tuple[Index, ...] = ()
    signer: Signer | None = None
    gpus: GpuList = UNKNOWN
    stored: bool = True

    @property
    def deciding_files(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.files if decides(entry))

    @property
    def modules(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.files if "lib/modules/" in e.path and is_driver_file(e.path.rsplit("/", 1)[-1]))


def driver_of(layer: Manifest) -> Driver:
    """The layer's kernel modules, to be asked which GPUs they drive."""
    identity = layer.identity
    return Driver(identity.kind, identity.version, identity.flavour, layer.gpus)


def layer_name(identity: Identity) -> str:
    """The name of a layer, which is also its folder in the store."""
    return f"{identity.kind}-{identity.version}-{identity.flavour}-{identity.kver}"


def parse(text: str, where: str, layer: str) -> Manifest:
    """Parses and validates a manifest; ``layer`` is the name of its folder, which it must repeat. Raises DataError."""
    data = jsondoc.load(text, SCHEMA, where, INVALID, _OLDER)
    try:
        linked = None if data["schema"] in _OLDER else frozenset(_words(data, "linked", where))
        manifest = Manifest(
            layer=jsondoc.get(data, "layer", str, where, INVALID),
            created=jsondoc.get(data, "created", str, where, INVALID),
            identity=Identity(**jsondoc.texts(data, "identity", where, INVALID)),
            image=jsondoc.get(data, "image", str, where, INVALID),
            actions=_words(data, "actions", where),
            accept_no_device=jsondoc.get(data, "accept_no_device", bool, where, INVALID),
            files=tuple(read_entry(item, where, INVALID, linked) for item in jsondoc.get(data, "files", list, where, INVALID)),
            replaced=_paths(data, "replaced", where),
            deleted=_paths(data, "deleted", where),
            build_s=_seconds(data, "build_s", where),
            tries=jsondoc.whole(data, "tries", where, INVALID),
            warnings=_words(data, "warnings", where),
            originals=tuple(read_entry(item, where, INVALID) for item in jsondoc.get(data, "originals", list, where, INVALID)),
            module_facts=tuple(_fact(item, where) for item in jsondoc.get(data, "module_facts", list, where, INVALID)),
            indexes=tuple(_index(item, where) for item in jsondoc.get(data, "indexes", list, where, INVALID)),
            signer=_signer(data, where),
            gpus=_gpus(data, where),
            stored=_is_stored(data, where),
        )
    except TypeError as error:
        raise DataError(f"{where}: incomplete or of the wrong shape ({error}); the layer is not used", code=INVALID) from error
    _check(manifest, where, layer)
    return manifest


def _words(data: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = jsondoc.get(data, key, list, where, INVALID)
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"{where}: {key} contains something that is not text; the layer is not used", code=INVALID)
    return tuple(values)


def _seconds(data: dict[str, Any], key: str, where: str) -> float:
    value: Any = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LONGEST_S:
        raise DataError(f"{where}: {key} is {jsondoc.shown(value)}, not a number of seconds; the layer is not used", code=INVALID)
    return float(value)


def _paths(data: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    return tuple(jsondoc.check_path(path, ROOTS, where, INVALID) for path in _words(data, key, where))


def plain_entry(entry: Entry) -> dict[str, Any]:
    """An entry as JSON values, as ``read_entry`` reads it."""
    plain = {**vars(entry)}
    del plain["linked"]  # the document has a list
    return plain


def read_entry(item: Any, where: str, code: str, linked: Collection[str] | None = None, roots: Collection[str] = ROOTS) -> Entry:
    """Parses one file, link or folder in one of our documents; ``linked`` are the paths that the document lists as such, or None if it has
    no such list; all paths are below ``roots``. Raises DataError; TypeError for a wrong shape."""
    if not isinstance(item, dict):
        raise TypeError(f"{jsondoc.shown(item)} is not an entry")
    if [type(item.get(name)) for name in _ENTRY_FIELDS] != _ENTRY_KINDS:
        for name, kind in _ENTRY_FIELDS.items():
            jsondoc.get(item, name, kind, where, code)
    pairs = item["attributes"]
    if pairs and not all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], str) for p in pairs):
        raise TypeError(f"{jsondoc.shown(pairs)} are not attributes")
    if len(item) != len(_ENTRY_FIELDS):
        raise TypeError(f"{jsondoc.shown(sorted(set(item) - set(_ENTRY_FIELDS)))}: unknown")
    is_linked = None if linked is None else item["path"] in linked
    entry = Entry(**{**item, "attributes": tuple((name, value) for name, value in pairs)}, linked=is_linked)
    jsondoc.check_path(entry.path, roots, where, code)
    if entry.type not in ("file", "link", "folder"):
        raise DataError(f"{where}: /{entry.path} has the unknown type {jsondoc.shown(entry.type)}; it is not used", code=code)
    wrong = _wrong_fields(entry)
    if wrong:
        raise DataError(f"{where}: /{entry.path}: wrong for a {entry.type}: {', '.join(wrong)}; it is not used", code=code)
    return entry


def _wrong_fields(entry: Entry) -> list[str]:
    is_file, is_link = entry.type == "file", entry.type == "link"
    right = {
        "mode": 0 <= entry.mode <= 0o7777,
        "uid": 0 <= entry.uid <= _HIGHEST_ID,
        "gid": 0 <= entry.gid <= _HIGHEST_ID,
        "size": 0 <= entry.size <= jsondoc.HIGHEST if is_file else entry.size == 0,
        "sha256": is_sha256(entry.sha256) if is_file else not entry.sha256,
        "target": bool(entry.target) and jsondoc.is_possible(entry.target) if is_link else not entry.target,
        "attributes": not entry.attributes or _are_attributes(entry.attributes),
    }
    return [name for name, is_right in right.items() if not is_right]


def _are_attributes(pairs: tuple[tuple[str, str], ...]) -> bool:
    names = [name for name, _value in pairs]
    return names == sorted(set(names)) and all(
        _ATTRIBUTE.fullmatch(name) and not name.startswith("trusted.overlay.") and _BASE64.fullmatch(value) for name, value in pairs
    )


def is_sha256(text: str) -> bool:
    """Whether the text is a SHA-256 in lower-case hexadecimal."""
    return bool(_SHA256.fullmatch(text))


def _fact(item: Any, where: str) -> ModuleFact:
    if not isinstance(item, dict):
        raise TypeError(f"{jsondoc.shown(item)} is not a module fact")
    for name in _FACT_FIELDS:
        jsondoc.get(item, name, str, where, INVALID)
    return ModuleFact(**item)


def _index(item: Any, where: str) -> Index:
    if not isinstance(item, dict):
        raise TypeError(f"{jsondoc.shown(item)} is not an index")
    before = jsondoc.get(item, "before", str, where, INVALID)
    index = Index(**{**item, "after": read_entry(item.get("after"), where, INVALID)})
    if index.path != index.after.path or index.after.type != "file" or not (before == "" or is_sha256(before)):
        raise DataError(f"{where}: the entry of the index {jsondoc.shown(index.path)} is invalid; the layer is not used", code=INVALID)
    return index


def _is_stored(data: dict[str, Any], where: str) -> bool:
    if data["schema"] == SCHEMA:
        return True
    mode = jsondoc.get(data, "mode", str, where, INVALID)
    if mode not in (_IN_PLACE, _CAPTURED):
        raise DataError(f"{where}: the mode {jsondoc.shown(mode)} is unknown; the layer is not used", code=INVALID)
    return mode == _CAPTURED


def _signer(data: dict[str, Any], where: str) -> Signer | None:
    """The signer; None, also if the key is absent, for a layer that was not signed in the bake."""
    if data.get("signer") is None:
        return None
    signer = Signer(**jsondoc.texts(data, "signer", where, INVALID))
    if not signer.name or not _KEY_ID.fullmatch(signer.key_id) or not is_sha256(signer.fingerprint):
        raise DataError(f"{where}: the entry of the signer is invalid; the layer is not used", code=INVALID)
    return signer


def _gpus(data: dict[str, Any], where: str) -> GpuList:
    """The driver's list of GPUs; unknown, also if the key is absent, for a layer whose bake found none."""
    if data.get("gpus") is None:
        return UNKNOWN
    found = jsondoc.get(data, "gpus", dict, where, INVALID)
    legacy = jsondoc.texts(found, "legacy", where, INVALID)
    known = {name: found[name] for name in ("source", "supported", "kernelopen", "gsp_proprietary")}
    listed = GpuList(**known, legacy=tuple(sorted(legacy.items())))
    texts = (listed.supported, listed.kernelopen, listed.gsp_proprietary, *legacy.values())
    is_right = all(isinstance(text, str) and are_ranges(text) for text in texts) and all(map(is_branch, legacy))
    if not is_right or not isinstance(listed.source, str) or not listed.source:
        raise DataError(f"{where}: the list of GPUs is invalid; the layer is not used", code=INVALID)
    return listed


def _check(manifest: Manifest, where: str, layer: str) -> None:
    identity = manifest.identity
    # Version and kernel become parts of paths that are removed, so they must be exactly what they should be.
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
    wrong += _wrong_lists(manifest)
    if wrong:
        raise DataError(f"{where}: wrong or empty: {', '.join(wrong)}; the layer is not used", code=INVALID)


def _wrong_lists(manifest: Manifest) -> list[str]:
    """The lists that contradict themselves or each other, in words."""
    files = {entry.path: entry for entry in manifest.files}
    originals = [entry.path for entry in manifest.originals]
    facts, indexes = [fact.path for fact in manifest.module_facts], [index.path for index in manifest.indexes]
    wrong = [
        f"{name} (a path twice)"
        for name, paths in (
            ("files", [entry.path for entry in manifest.files]),
            ("replaced and deleted", [*manifest.replaced, *manifest.deleted]),
            ("originals", originals),
            ("module_facts", facts),
            ("indexes", indexes),
        )
        if len(paths) != len(set(paths))
    ]
    inside = next((path for path in files if _is_below_something_else(path, files)), "")
    if inside:
        wrong.append(f"files (/{inside} is below something that is not a folder)")
    if set(facts) != {entry.path for entry in manifest.modules}:
        wrong.append("module_facts (not those of the layer's modules)")
    if not all(linking.is_safe(entry) for entry in manifest.files if entry.linked):
        wrong.append("linked (not files, or files to which others may write)")
    folder = f"lib/modules/{manifest.identity.kver}/"
    if not all(_INDEX.fullmatch(path) and path.startswith((folder, "usr/" + folder)) for path in indexes) or files.keys() & set(indexes):
        wrong.append("indexes (not those of the layer's kernel)")
    if not manifest.stored and (manifest.originals or manifest.indexes):
        wrong.append("originals, indexes (not allowed in mode in_place)")
    if manifest.stored:
        if set(originals) != {*manifest.replaced, *manifest.deleted}:
            wrong.append("originals (not those of replaced and deleted)")
        if not files.keys() >= set(manifest.replaced) or files.keys() & set(manifest.deleted):
            wrong.append("replaced, deleted (contradict files)")
        was = {entry.path: entry.type for entry in manifest.originals}
        if any((was.get(path) == "folder") != (files[path].type == "folder") for path in manifest.replaced if path in files):
            wrong.append("replaced (a folder by something else, or something else by a folder)")
    return wrong


def _is_below_something_else(path: str, files: dict[str, Entry]) -> bool:
    while path := path.rpartition("/")[0]:
        above = files.get(path)
        if above:  # what is above this one is checked with this one
            return above.type != "folder"
    return False
