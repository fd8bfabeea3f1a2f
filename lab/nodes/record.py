"""Records of a session's nodes: a JSON file for each in the session's run folder, so that separate commands find the nodes."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.machine import paths, ssh
from lab.machine.errors import LabError


@dataclass
class Record:
    """What is known about one node, native or VM. `pid` is that in the session's pid namespace, 0 while the node is not running."""

    name: str
    kind: str
    folder: str
    pid: int = 0
    address: str = ""
    port: int = 22
    root: str = ""
    disk: str = ""
    kver: str = ""
    gpu: str = ""
    smp: int = 2
    memory_mb: int = 2048
    boots: int = 0
    append: str = ""

    @property
    def target(self) -> ssh.Target:
        """Address and port of its sshd."""
        return ssh.Target(self.address, self.port)


def session() -> str:
    """Name of the session in which this process runs. Raises LabError outside of a session."""
    name = os.environ.get(paths.SESSION_VARIABLE, "")
    if not name or not paths.run(name).is_dir():
        raise LabError("not inside a lab session: run this as `python -m lab session -- COMMAND …`")
    return name


@contextmanager
def lock() -> Iterator[Path]:
    """Hold the session's lock, which is needed to choose a name, port or address for a node. Yields the run folder."""
    folder = paths.run(session())
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def new(name: str, kind: str) -> Record:
    """A new record with a new folder, saved; the caller must hold `lock`. Raises LabError for an invalid name or one that is in use."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
        raise LabError(f"node name {name!r}: use at most 41 lower-case letters, digits and hyphens, a letter first")
    folder = paths.run(session()) / "nodes" / name
    if folder.exists():
        raise LabError(f"this session has a node named {name} already: take that one down first")
    folder.mkdir(parents=True)
    record = Record(name=name, kind=kind, folder=str(folder))
    save(record)
    return record


def save(record: Record) -> None:
    """Write a record to its file, completely or not at all."""
    file = Path(record.folder) / "record.json"
    fresh = file.with_name(f"record.{os.getpid()}")
    fresh.write_text(json.dumps(asdict(record), indent=2) + "\n")
    fresh.rename(file)


def load(name: str, kind: str | None = None) -> Record:
    """The record of node `name` of this session. Raises LabError if there is none, or if it is of another kind than `kind`."""
    file = paths.run(session()) / "nodes" / name / "record.json"
    try:
        record = Record(**json.loads(file.read_text()))
    except FileNotFoundError:
        names = ", ".join(record.name for record in all_records()) or "none"
        raise LabError(f"no node named {name} in this session; its nodes: {names}") from None
    if kind and record.kind != kind:
        raise LabError(f"node {name} is of kind {record.kind}, not {kind}")
    return record


def all_records() -> list[Record]:
    """The records of all nodes of this session."""
    files = sorted((paths.run(session()) / "nodes").glob("*/record.json"))
    return [Record(**json.loads(file.read_text())) for file in files]
