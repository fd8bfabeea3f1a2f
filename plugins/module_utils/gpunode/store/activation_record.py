"""Reads and writes the activation record (``activation.json``, exists while a layer is active) and the activation journal
(``activation-journal.json``, exists while an activation or a deactivation is under way). Layout version 1, see docs/manifest.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..driver.footprint import ROOTS
from ..errors import DataError
from ..paths import ACTIVATION, ACTIVATION_JOURNAL, STORE
from ..system.tree import Entry
from ..util import files, jsondoc, trust
from .linking import linked_paths
from .manifest import Identity, layer_name, plain_entry, read_entry

SCHEMA = 1
ACTIVATE, DEACTIVATE = "activate", "deactivate"
LINK, REFLINK, COPY, MADE = "link", "reflink", "copy", "made"
DEPMOD, LDCONFIG = "depmod", "ldconfig"
_CODE = "activation_invalid"
# On a node, even these topmost folders of a driver's files may have been missing.
_TOPS = (*ROOTS, "var", "var/lib", "var/lib/shim-signed")


@dataclass(frozen=True)
class Kept:
    """A backup: a file, link or folder of the node that was replaced or deleted. A file's content is an object in the store."""

    entry: Entry
    mtime_ns: int


@dataclass(frozen=True)
class Derived:
    """Files that ``program`` generates from others, as they were before and as they are after; ``after`` is empty until it is known."""

    program: str
    before: tuple[Kept, ...]
    after: tuple[Entry, ...] = ()
    swapped: bool = False


@dataclass(frozen=True)
class Activation:
    """A layer on this node. ``placed`` lists what was put in place, in that order; ``how`` says how each file and link of it was placed;
    ``folders`` are those created for it; ``originals`` are the backups of what it replaced or deleted.

    ``verified``: all contents were hashed. Otherwise only modules, setuid files, programs and copied files were.
    """

    layer: str
    identity: Identity
    machine_id: str
    activated: str
    placed: tuple[Entry, ...]
    folders: tuple[str, ...]
    originals: tuple[Kept, ...]
    derived: tuple[Derived, ...]
    how: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False

    @property
    def all_kept(self) -> tuple[Kept, ...]:
        return (*self.originals, *(kept for derived in self.derived for kept in derived.before))

    @property
    def activated_ns(self) -> int:
        """``activated`` in nanoseconds since the epoch, like the times of files; 0 if it is not known."""
        import datetime  # noqa: PLC0415 - only a removal asks for it

        try:
            return int(datetime.datetime.fromisoformat(self.activated).timestamp() * 1e6) * 1000
        except (ValueError, OverflowError, OSError):  # no time, or one that this machine's calendar does not have
            return 0


@dataclass(frozen=True)
class Journal:
    """The operation that is under way, ``ACTIVATE`` or ``DEACTIVATE``, and the activation that it creates or removes."""

    operation: str
    activation: Activation


def write(root: Path, activation: Activation) -> None:
    """Writes the record durably. Everything that it names must already be on disk."""
    files.write_atomic(trust.below(root, ACTIVATION), jsondoc.dump_compact({"schema": SCHEMA, **_plain(activation)}), 0o600)


def write_journal(root: Path, journal: Journal) -> None:
    """Writes the journal durably, before the operation changes anything."""
    files.make_private(trust.below(root, STORE))
    text = jsondoc.dump_compact({"schema": SCHEMA, "operation": journal.operation, "activation": _plain(journal.activation)})
    files.write_atomic(trust.below(root, ACTIVATION_JOURNAL), text, 0o600)


def read(root: Path) -> Activation | None:
    """The active layer of the system at ``root``; None if there is none. Raises DataError."""
    data = _load(root, ACTIVATION)
    return None if data is None else _activation(data, f"/{ACTIVATION}")


def read_journal(root: Path) -> Journal | None:
    """The operation that was under way when the last run ended; None if there was none. Raises DataError."""
    data = _load(root, ACTIVATION_JOURNAL)
    if data is None:
        return None
    operation = jsondoc.get(data, "operation", str, f"/{ACTIVATION_JOURNAL}", _CODE)
    if operation not in (ACTIVATE, DEACTIVATE):
        raise DataError(f"/{ACTIVATION_JOURNAL}: the operation {jsondoc.shown(operation)} is unknown; inspect the node by hand", code=_CODE)
    return Journal(operation, _activation(jsondoc.get(data, "activation", dict, f"/{ACTIVATION_JOURNAL}", _CODE), f"/{ACTIVATION_JOURNAL}"))


def problems(root: Path) -> tuple[DataError, ...]:
    """What is wrong with the two documents; empty if each is valid or absent."""
    found = []
    for reads in (read, read_journal):
        try:
            reads(root)
        except DataError as error:
            found.append(error)
    return tuple(found)


def is_newer(error: DataError) -> bool:
    """Whether a document has a later layout than this program reads. Then it is not damaged, and a newer program can read it."""
    return jsondoc.is_newer(error, SCHEMA)


def _plain(activation: Activation) -> dict[str, Any]:
    """The activation as JSON values. dataclasses.asdict would take longer than putting the files in place."""

    def kept(items: Iterable[Kept]) -> list[dict[str, Any]]:
        return [{"entry": plain_entry(item.entry), "mtime_ns": item.mtime_ns} for item in items]

    return {
        **vars(activation),
        "identity": vars(activation.identity),
        "placed": [plain_entry(entry) for entry in activation.placed],
        "linked": linked_paths(activation.placed),
        "originals": kept(activation.originals),
        "derived": [{**vars(d), "before": kept(d.before), "after": [plain_entry(entry) for entry in d.after]} for d in activation.derived],
        "how": dict(activation.how),
    }


def _load(root: Path, path: str) -> dict[str, Any] | None:
    try:
        text = files.read_document(trust.document(root, path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"/{path}: cannot be read ({error}); what is in place is unknown", code=_CODE) from error
    return jsondoc.load(text, SCHEMA, f"/{path}", _CODE)


def _activation(data: dict[str, Any], where: str) -> Activation:
    def get(key: str, kind: type[Any]) -> Any:
        return jsondoc.get(data, key, kind, where, _CODE)

    try:
        linked = frozenset(get("linked", list)) if "linked" in data else None  # 0.1.0 has no such list, and does not mind it
        found = Activation(
            layer=get("layer", str),
            identity=Identity(**jsondoc.texts(data, "identity", where, _CODE)),
            machine_id=get("machine_id", str),
            activated=get("activated", str),
            placed=tuple(read_entry(item, where, _CODE, linked) for item in get("placed", list)),
            folders=tuple(_folder(path, where) for path in get("folders", list)),
            originals=tuple(_kept(item, where) for item in get("originals", list)),
            derived=tuple(_derived(item, where) for item in get("derived", list)),
            how=jsondoc.texts(data, "how", where, _CODE),
            verified=get("verified", bool),
        )
    except (TypeError, AttributeError) as error:
        raise DataError(f"{where}: incomplete or of the wrong shape ({error}); what is in place is unknown", code=_CODE) from error
    if found.layer != layer_name(found.identity):
        raise DataError(f"{where}: layer {jsondoc.shown(found.layer)} does not match its identity; what is in place is unknown", code=_CODE)
    return found


def _folder(path: Any, where: str) -> str:
    if not isinstance(path, str):
        raise TypeError(f"{jsondoc.shown(path)} is not a folder")
    return path if path in _TOPS else jsondoc.check_path(path, ROOTS, where, _CODE)


def _kept(item: Any, where: str) -> Kept:
    if not isinstance(item, dict) or set(item) != {"entry", "mtime_ns"}:
        raise TypeError(f"{jsondoc.shown(item)} is not a backup")
    return Kept(read_entry(item["entry"], where, _CODE), jsondoc.whole(item, "mtime_ns", where, _CODE, -jsondoc.HIGHEST))


def _derived(item: Any, where: str) -> Derived:
    if not isinstance(item, dict):
        raise TypeError(f"{jsondoc.shown(item)} is not an entry of generated files")
    program = jsondoc.get(item, "program", str, where, _CODE)
    if program not in (DEPMOD, LDCONFIG):
        raise DataError(f"{where}: the program {jsondoc.shown(program)} is unknown; what is in place is unknown", code=_CODE)
    return Derived(
        program,
        tuple(_kept(inner, where) for inner in jsondoc.get(item, "before", list, where, _CODE)),
        tuple(read_entry(inner, where, _CODE) for inner in jsondoc.get(item, "after", list, where, _CODE)),
        jsondoc.get(item, "swapped", bool, where, _CODE),
    )
