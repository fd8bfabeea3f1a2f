"""Runs in the VM, with the node's own Python: reads attributes and contents of paths, and a layer's documents after power-on.

``details`` reads paths from standard input, each ended by NUL, with a ``+`` before those whose content is wanted; ``found LAYER`` reads no
input. Both print JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from gpunode.paths import ACTIVATION, STORE
from gpunode.store import activation_record, layers


def content(path: str) -> str:
    """SHA-256 of a file; for the activation record, without the time of the activation and the times of the backups."""
    with Path(path).open("rb") as stream:
        if path == f"/{ACTIVATION}":
            record = json.load(stream)
            record.pop("activated")
            for kept in (kept for one in record["derived"] for kept in one["before"]):
                kept.pop("mtime_ns")
            return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def attributes(path: str) -> list[str]:
    return [f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in sorted(os.listxattr(path, follow_symlinks=False))]


def details() -> dict[str, list[object]]:
    """Path → its attributes, and the hash of its content if that is wanted."""
    wanted = [name for name in sys.stdin.read().split("\0") if name]
    return {name[1:]: [attributes(name[1:]), content(name[1:]) if name[0] == "+" else ""] for name in wanted}


def found(layer: str) -> dict[str, object]:
    """Which documents exist, and how many of the layer's files are in place."""
    root = Path("/")
    journal, record, path = activation_record.read_journal(root), activation_record.read(root), layers.path_of(root, layer)
    files = [entry.path for entry in layers.read(path).files if entry.type != "folder"] if path.exists() else []
    return {
        "journal": journal.operation if journal else "",
        "record": record is not None,
        "manifest": path.exists(),
        "in_place": sum(os.path.lexists(f"/{name}") for name in files),
        "files": len(files),
        "half_written": len(list((root / STORE).glob(".*.tmp"))),
    }


if __name__ == "__main__":
    json.dump(details() if sys.argv[1] == "details" else found(sys.argv[2]), sys.stdout)
