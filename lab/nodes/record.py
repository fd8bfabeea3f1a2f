"""Records of a session's nodes: one JSON file each in the session's run folder, so that separate commands find them."""

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
    """What is known of one node, native or VM. `pid` is in the session's pid namespace; 0 when it does not run."""

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
        """Where its sshd answers."""
        return ssh.Target(self.address, self.port)


def session() -> str:
    """Name of the session this process runs in; LabError outside of one."""
    name = os.environ.get(paths.SESSION_VARIABLE, "")
    if not name or not paths.run(name).is_dir():
        raise LabError("not inside a lab session: run this as `python -m lab session -- COMMAND …`")
    return name


@contextmanager
def lock() -> Iterator[Path]:
    """Hold the session's lock: names, ports and addresses are taken under it. Yields the run folder."""
    folder = paths.run(session())
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def new(name: str, kind: str) -> Record:
    """A record with a fresh folder, saved; LabError for a bad or taken name. Call it under `lock`."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
        raise LabError(f"node name {name!r}: use small letters, digits and hyphens, a letter first, 41 at most")
    folder = paths.run(session()) / "nodes" / name
    if folder.exists():
        raise LabError(f"a node named {name} is there already in this session: take it down first")
    folder.mkdir(parents=True)
    record = Record(name=name, kind=kind, folder=str(folder))
    save(record)
    return record


def save(record: Record) -> None:
    """Write a record to its file, at once or not at all."""
    file = Path(record.folder) / "record.json"
    fresh = file.with_name(f"record.{os.getpid()}")
    fresh.write_text(json.dumps(asdict(record), indent=2) + "\n")
    fresh.rename(file)


def load(name: str, kind: str | None = None) -> Record:
    """The record of node `name` of this session; LabError if there is none, or none of that kind."""
    file = paths.run(session()) / "nodes" / name / "record.json"
    try:
        record = Record(**json.loads(file.read_text()))
    except FileNotFoundError:
        there = ", ".join(record.name for record in all_records()) or "none"
        raise LabError(f"no node named {name} in this session (there: {there})") from None
    if kind and record.kind != kind:
        raise LabError(f"node {name} is of kind {record.kind}, not {kind}")
    return record


def all_records() -> list[Record]:
    """The records of all nodes of this session."""
    files = sorted((paths.run(session()) / "nodes").glob("*/record.json"))
    return [Record(**json.loads(file.read_text())) for file in files]
