"""The cache: folders named by a hash of what they were made from, complete or absent, safe between processes.

Layout below the cache folder: `KIND/KEY/` is an entry; `KIND/.KEY.lock` is locked exclusively while the entry is built
or deleted and shared while it is in use; `KIND/.KEY.tmp` is an entry being built. Lock files are never deleted: a lock
on a deleted file would exclude nobody.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.machine import paths

KEPT = 3
_held: list[int] = []


def entry(kind: str, key_parts: Sequence[str], build: Callable[[Path], None], keep: int = KEPT) -> Path:
    """Return the entry of `kind` made from `key_parts`; `build(folder)` fills a temporary folder if there is none.

    The entry stays in use until this process, and each that it has spawned since, has ended. Errors of `build` pass
    through and leave no entry. The `keep` most recently used entries of the kind stay; older ones that are not in use
    are deleted.
    """
    place = paths.cache() / kind
    place.mkdir(parents=True, exist_ok=True)
    name = key(key_parts)
    final, temporary = place / name, place / f".{name}.tmp"
    lock = os.open(place / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if final.is_dir():
                break
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.is_dir():
                _build(final, temporary, build)
    except BaseException:
        os.close(lock)
        raise
    os.utime(final)
    _held.append(lock)
    prune(kind, keep)
    return final


def has(kind: str, key_parts: Sequence[str]) -> bool:
    """Whether there is such an entry, so that `entry` would build nothing."""
    return (paths.cache() / kind / key(key_parts)).is_dir()


def key(parts: Sequence[str]) -> str:
    """Hash of the parts; the same text, divided into other parts, gives another hash."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:16]


def held() -> list[int]:
    """Lock file descriptors of the entries this process uses; a child that inherits them uses the entries too."""
    return list(_held)


def prune(kind: str, keep: int) -> None:
    """Delete what is not in use: all but the `keep` most recently used entries of `kind`, and half-built ones."""
    place = paths.cache() / kind
    entries = [(path.stat().st_mtime, path) for path in place.iterdir() if path.is_dir() and path.name[0] != "."]
    surplus = [path for _, path in sorted(entries, reverse=True)[keep:]]
    for path in [*surplus, *place.glob(".*.tmp")]:
        _drop(path, place / f".{path.name.removeprefix('.').removesuffix('.tmp')}.lock")


def _build(final: Path, temporary: Path, build: Callable[[Path], None]) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        build(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    temporary.rename(final)


def _drop(path: Path, lock_path: Path) -> None:
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doomed = lock_path.with_suffix(".tmp")
        if path != doomed:
            path.rename(doomed)
        shutil.rmtree(doomed)
    except (BlockingIOError, FileNotFoundError):
        pass  # in use, or deleted by another process
    finally:
        os.close(lock)
