"""Reads and writes the node record: what this node itself has installed and checked. It survives reboots and names the machine.

States: ``started`` (a driver container was started and its end is not known), ``initialised`` (everything was installed and checked).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..container.reference import is_version
from ..driver.footprint import ROOTS
from ..errors import DataError
from ..paths import NODE_RECORD, STORE
from ..util import jsondoc, trust
from ..util.files import make_private, read_document, write_atomic
from .manifest import Identity

SCHEMA = 1
STARTED, INITIALISED = "started", "initialised"
_CODE = "record_invalid"
_FIELDS: dict[str, type] = {
    **dict.fromkeys(("machine_id", "state", "image", "action", "reason_code"), str),
    **dict.fromkeys(("device_check", "boot_id", "containerd_config", "updated"), str),
    "built_here": bool,
    "containerd_restarts": int,
    "modules": dict,
}


@dataclass(frozen=True)
class Record:
    """``identity`` is what was installed, for the kernel that ran then; ``modules`` maps each kernel that is ready to its modules' hashes.

    ``libraries`` maps the libraries' paths, relative to the root, to hashes. ``boot_id`` and ``containerd_config`` describe the boot and
    containerd's configuration before the container was started: after an interruption they show whether the restart is still due.
    """

    machine_id: str
    state: str
    identity: Identity
    image: str
    action: str
    reason_code: str
    built_here: bool
    device_check: str = ""
    boot_id: str = ""
    containerd_config: str = ""
    containerd_restarts: int = 0
    updated: str = ""
    modules: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)

    def ready_kernels(self) -> tuple[str, ...]:
        return tuple(sorted(self.modules))

    def same_driver(self, other: Identity) -> bool:
        """Whether the record is of the same driver and image as ``other``; kernel and flavour may differ."""
        mine = self.identity
        return (mine.kind, mine.version, mine.config_digest) == (other.kind, other.version, other.config_digest)


def write(root: Path, record: Record) -> None:
    """Writes the record durably."""
    make_private(trust.below(root, STORE))
    write_atomic(trust.below(root, NODE_RECORD), jsondoc.dump({"schema": SCHEMA, **asdict(record)}), 0o600)


def read(root: Path) -> Record | None:
    """The record of the system at ``root``; None if there is none. Raises DataError."""
    try:
        text = read_document(trust.document(root, NODE_RECORD))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"/{NODE_RECORD}: cannot be read ({error}); the node counts as new", code=_CODE) from error
    data = jsondoc.load(text, SCHEMA, f"/{NODE_RECORD}", _CODE)
    del data["schema"]
    for name, kind in _FIELDS.items():
        jsondoc.get(data, name, kind, f"/{NODE_RECORD}", _CODE)
    modules = {kver: jsondoc.texts(data["modules"], kver, f"/{NODE_RECORD}: modules", _CODE) for kver in data["modules"]}
    libraries = jsondoc.texts(data, "libraries", f"/{NODE_RECORD}", _CODE)
    try:
        identity = Identity(**jsondoc.texts(data, "identity", f"/{NODE_RECORD}", _CODE))
        record = Record(**{**data, "identity": identity, "modules": modules, "libraries": libraries})
    except TypeError as error:
        raise DataError(f"/{NODE_RECORD}: incomplete or of the wrong shape ({error}); the node counts as new", code=_CODE) from error
    for path in [*libraries, *(p for paths in modules.values() for p in paths)]:
        jsondoc.check_path(path, ROOTS, f"/{NODE_RECORD}", _CODE)
    if not is_version(identity.version):  # it becomes part of paths that are removed
        raise DataError(
            f"/{NODE_RECORD}: version {jsondoc.shown(identity.version)} is not a driver version; the node counts as new", code=_CODE
        )
    if record.state not in (STARTED, INITIALISED):
        raise DataError(f"/{NODE_RECORD}: state {jsondoc.shown(record.state)} is unknown; the node counts as new", code=_CODE)
    return record
