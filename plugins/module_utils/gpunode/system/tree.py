"""What a driver container did to the filesystem: a listing before, a listing after, and the difference as a record.

The record is used to verify files at boot (hashes), and to remove exactly what was placed, while it is unchanged (R3).
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ..util.files import sha256
from ..util.parallel import each

_Result = TypeVar("_Result")
# Labels belong to the node that a file is on, overlay's attributes to one mount.
_LOCAL_ATTRIBUTES = ("trusted.overlay.", "security.selinux", "security.SMACK64", "security.apparmor", "security.ima", "security.evm")

_UNKNOWN = -1


@dataclass(frozen=True)
class Entry:
    """A file, link or folder: path relative to the root, permission bits, owner, and a file's size in bytes and SHA-256.

    ``attributes`` are extended attributes, name and base64 of the value, sorted; without those that a system sets by itself. ``linked``
    is not a property of the file: it tells whether the file may be a hard link to its object in the store; None if that was not said.
    """

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    linked: bool | None = field(default=None, compare=False)

    @property
    def is_whole(self) -> bool:
        """Whether more than the content is known."""
        return self.mode != _UNKNOWN


def by_content(path: str, type_: str, content: str = "") -> Entry:
    """The entry of which only the content is known: a file's SHA-256, a link's target. ``completed`` adds the rest."""
    texts = {"file": "sha256", "link": "target"}
    return Entry(path, type_, _UNKNOWN, _UNKNOWN, _UNKNOWN, **({texts[type_]: content} if type_ in texts else {}))  # type: ignore[arg-type]


def completed(entry: Entry, now: Entry | None) -> Entry:
    """``entry``; if only its content is known, with the rest from what is there ``now``, if that is of the same type."""
    if entry.is_whole or now is None or now.type != entry.type:
        return entry
    return replace(now, sha256=entry.sha256, target=entry.target)


@dataclass(frozen=True)
class Difference:
    """Paths that were added, whose content or attributes changed, and that were deleted."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    deleted: tuple[str, ...]


Listing = Mapping[str, tuple[int, ...]]


def signature(status: os.stat_result) -> tuple[int, ...]:
    owner = (status.st_mode, status.st_uid, status.st_gid)
    if stat.S_ISDIR(status.st_mode):
        return owner
    # A link's ctime changes when it is renamed and renamed back, as a bake does to hide headers; its target cannot change.
    changed = () if stat.S_ISLNK(status.st_mode) else (status.st_ctime_ns,)
    return (*owner, status.st_size, status.st_mtime_ns, status.st_ino, *changed)


def walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    stack = [top]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield entry.path, status
                    if stat.S_ISDIR(status.st_mode):
                        stack.append(entry.path)
        except FileNotFoundError:
            continue


def difference(before: Listing, after: Listing) -> Difference:
    """Compares two listings."""
    return Difference(
        added=tuple(sorted(p for p in after if p not in before)),
        replaced=tuple(sorted(p for p in after if p in before and after[p] != before[p])),
        deleted=tuple(sorted(p for p in before if p not in after)),
    )


def describe(root: Path, paths: Iterable[str]) -> tuple[Entry, ...]:
    """The entries at ``paths``; contents are hashed in parallel. Raises OSError."""
    return tuple(_must(now) for now in _describe(root, paths).values())


def describe_present(root: Path, paths: Iterable[str]) -> dict[str, Entry | None]:
    """The entry of each path; None for a path that does not exist. Raises OSError."""
    return {path: None if _is_absent(now) else _must(now) for path, now in _describe(root, paths).items()}


def _is_absent(now: Entry | OSError) -> bool:
    return isinstance(now, OSError) and now.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _must(now: Entry | OSError) -> Entry:
    if isinstance(now, OSError):
        raise now
    return now


def _describe(root: Path, paths: Iterable[str]) -> dict[str, Entry | OSError]:
    """The entry of each path, or the error. A file is read once, however many of the paths are its names."""
    top = f"{root}/"  # joined as text: pathlib takes longer than the system calls
    found = {path: _tried(_describe_unread, top, path) for path in paths}
    names = {one.file: (one.entry.size, path) for path, one in found.items() if isinstance(one, _Unread)}
    largest_first = sorted(names, key=names.__getitem__, reverse=True)  # so that no thread is left alone with a large one at the end
    hashes = dict(zip(largest_first, each(lambda file: _tried(sha256, top + names[file][1]), largest_first)))
    return {path: _with_hash(one.entry, hashes[one.file]) if isinstance(one, _Unread) else one for path, one in found.items()}


@dataclass(frozen=True)
class _Unread:
    """The entry of a file whose content is not hashed yet, and what is the same for all names of that file, and for no other file."""

    entry: Entry
    file: tuple[int, int, str]


def _tried(work: Callable[..., _Result], *arguments: str) -> _Result | OSError:
    try:
        return work(*arguments)
    except OSError as error:
        return error


def _with_hash(entry: Entry, found: str | OSError) -> Entry | OSError:
    return found if isinstance(found, OSError) else replace(entry, sha256=found)


def _describe_unread(top: str, path: str) -> Entry | _Unread:
    file = top + path
    status = os.lstat(file)
    mode = stat.S_IMODE(status.st_mode)
    found = attributes(file)
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(file)  # noqa: PTH115 - a Path would normalise it, and it must be restored byte for byte
        return Entry(path, "link", mode, status.st_uid, status.st_gid, target=target, attributes=found)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, "folder", mode, status.st_uid, status.st_gid, attributes=found)
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, "other", mode, status.st_uid, status.st_gid)  # a device or a pipe: reading it could block for ever
    entry = Entry(path, "file", mode, status.st_uid, status.st_gid, status.st_size, attributes=found)
    return _Unread(entry, (status.st_dev, status.st_ino, path if status.st_nlink == 1 else ""))


def attributes(file: Path | str) -> tuple[tuple[str, str], ...]:
    """The extended attributes that belong to a file wherever it is, such as capabilities and access lists. Raises OSError."""
    names = attribute_names(file, False)
    return tuple((name, base64.b64encode(os.getxattr(file, name, follow_symlinks=False)).decode()) for name in names)


def attribute_names(file: Path | str | int, follow_symlinks: bool) -> list[str]:
    """The names of these attributes, in order. Raises OSError."""
    try:
        return sorted(name for name in os.listxattr(file, follow_symlinks=follow_symlinks) if not name.startswith(_LOCAL_ATTRIBUTES))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def problems(root: Path, entries: Iterable[Entry]) -> tuple[str, ...]:
    """Which of ``entries`` are missing or differ now, a text for each; all contents are read and hashed (D9, D10)."""
    wanted = {entry.path: entry for entry in entries}
    return tuple(filter(None, (_problem(now, wanted[path]) for path, now in _describe(root, wanted).items())))


def hash_problems(root: Path, hashes: Mapping[str, str]) -> tuple[str, ...]:
    """The same for a mapping of path to SHA-256."""

    def problem(item: tuple[str, str]) -> str:
        path, wanted = item
        try:
            return "" if sha256(root / path) == wanted else f"/{path}: its content changed since it was recorded"
        except OSError as error:
            return f"/{path}: {error.strerror}"

    return tuple(filter(None, each(problem, hashes.items())))


def _problem(now: Entry | OSError, wanted: Entry) -> str:
    if isinstance(now, OSError):
        return f"/{wanted.path}: {now.strerror}"
    name = changed_field(now, wanted)
    return f"/{wanted.path}: its {name} changed since it was recorded" if name else ""


def changed_field(now: Entry, entry: Entry) -> str:
    """The first field in which two entries differ; empty if they are equal."""
    for name in ("type", "sha256", "target", "mode", "uid", "gid", "size", "attributes"):
        if getattr(now, name) != getattr(entry, name):
            return name
    return ""
