"""Turns what a driver container wrote in a sandbox into the lists of a layer, by comparing the overlays' upper folders with the real root.

Format of an upper folder: kernel documentation, filesystems/overlayfs. A character device 0:0 is a whiteout: the path was deleted. A
folder with ``trusted.overlay.opaque`` hides everything below it in the lower folder. Anything else was written, or only copied up.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..driver import dkms, footprint
from ..driver.modules import KERNELS_OWN
from ..errors import BuildError
from ..paths import STORE
from ..store.linking import may_be_linked
from ..store.manifest import Index
from ..system import tree
from ..system.tree import Entry
from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import read_text
from .sandbox import Sandbox

_OPAQUE = "trusted.overlay.opaque"
_REFERENCES = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
# Never part of a layer: scratch, logs and caches, what the sandbox has mounted itself, containers, and the store.
_NEVER = (
    *("dev", "proc", "run", "sys", "tmp", "var/cache", "var/log", "var/tmp"),
    *("opt/actions", "opt/gpu", "var/lib/containerd", STORE),
)
_PACKAGES = ("var/lib/apt", "var/lib/dpkg")  # on a node this would list packages that are not installed there
_DKMS_BUILD = expression(r"var/lib/dkms/[^/]+/[^/]+/build(/|$)")
_INDEX = expression(r"(usr/)?lib/modules/(?P<kver>[^/]+)/modules\.[^/]+")
_INITRAMFS = ("etc/dracut.conf.d/", "etc/initramfs-tools/", "usr/lib/dracut/", "usr/share/initramfs-tools/")
_MODPROBE = ("etc/modprobe.d/", "lib/modprobe.d/", "usr/lib/modprobe.d/")
_PACKAGE_STATUS = "var/lib/dpkg/status"


@dataclass(frozen=True)
class Captured:
    """The lists of a layer. ``files`` are to be put in place; ``originals`` describe each path of ``replaced`` and ``deleted`` as it was
    before; ``left_out`` says which of the driver's files are not part of the layer, and why."""

    files: tuple[Entry, ...]
    replaced: tuple[str, ...]
    deleted: tuple[str, ...]
    originals: tuple[Entry, ...]
    indexes: tuple[Index, ...]
    left_out: tuple[str, ...]


@dataclass
class Changes:
    """What the upper folders say, by path relative to the root: ``written`` or only copied up, and ``deleted``."""

    written: set[str]
    deleted: set[str]


def read(root: Path, sandbox: Sandbox, kver: str) -> Captured:
    """The differences between the open ``sandbox`` and ``root``, for a layer of kernel ``kver``. Raises BuildError, which names what
    cannot be part of a layer."""
    changes = changes_in(root, sandbox)
    left_out: list[str] = []
    own_keys = {name for top in (root, sandbox.merged) for key in dkms.own_keys(top) for name in (key, _behind_links(top, key))}
    carried = {p for p in changes.written if _is_carried(p, sandbox.merged, own_keys, left_out)}
    now = {e.path: e for e in tree.describe(sandbox.merged, sorted(carried))}
    before = {e.path: e for e in tree.describe(root, sorted(p for p in now if os.path.lexists(root / p)))}
    changed = {p: e for p, e in now.items() if before.get(p) != e}
    indexes = {p for p in changed if _INDEX.fullmatch(p)}
    special = sorted(p for p in changed if "other" in (now[p].type, before[p].type if p in before else ""))
    left_out += [f"/{p}: neither a file, a link nor a folder" for p in special]
    files = {p: e for p, e in changed.items() if p not in indexes and p not in special}
    _refuse_changed_kind(files, before)
    _prune(files, before, changes.written - carried)
    deleted = sorted(p for p in changes.deleted if _is_carried(p, root, own_keys, left_out) and not _INDEX.fullmatch(p))
    replaced = sorted(p for p in files if p in before)
    gone = tree.describe(root, deleted)
    _refuse_special(gone)
    return Captured(
        files=tuple(replace(files[p], linked=may_be_linked(files[p])) for p in sorted(files)),
        replaced=tuple(replaced),
        deleted=tuple(deleted),
        originals=tuple(sorted((*(before[p] for p in replaced), *gone), key=lambda e: e.path)),
        indexes=tuple(Index(p, before[p].sha256 if p in before else "", now[p]) for p in sorted(indexes) if _is_of(p, kver)),
        left_out=tuple(sorted(left_out)),
    )


def packages_changed(root: Path, merged: Path) -> bool:
    """Whether a package was installed, changed or removed in the sandbox. Its files are captured; dpkg's record of it is not."""
    return read_text(root / _PACKAGE_STATUS) != read_text(merged / _PACKAGE_STATUS)


# --- the upper folders -------------------------------------------------------------------------------------------------


def changes_in(root: Path, sandbox: Sandbox) -> Changes:
    """Every path in the upper folders; whiteouts and opaque folders become the paths of ``root`` that they delete. Raises BuildError."""
    changes = Changes(set(), set())
    for top, upper in sandbox.uppers.items():
        for path in _walk(upper, top, sandbox.hidden, changes, root):
            changes.written.add(path)
    return changes


def _walk(folder: Path, path: str, hidden: Collection[str], changes: Changes, root: Path, opaque: bool = False) -> Iterator[str]:
    """Every path in ``folder``, the upper folder of ``path``. ``opaque`` is true below an opaque folder: only the topmost is marked."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda e: e.name)
    for entry in found:
        inside = f"{path}/{entry.name}" if path else entry.name
        if inside in hidden or _is_below(inside, _NEVER):
            continue
        status = entry.stat(follow_symlinks=False)
        if is_whiteout(status):
            changes.deleted |= set(_lower(root, inside))
            continue
        yield inside
        _refuse_reference(Path(entry.path), inside)
        if stat.S_ISDIR(status.st_mode):
            below = root / inside
            hides = opaque or bool(_attribute(Path(entry.path), _OPAQUE))
            if hides and below.is_dir() and not below.is_symlink():
                for name in sorted({p.name for p in below.iterdir()} - {p.name for p in Path(entry.path).iterdir()}):
                    changes.deleted |= set(_lower(root, f"{inside}/{name}"))
            yield from _walk(Path(entry.path), inside, hidden, changes, root, hides)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a file of an upper folder says that the file of this name was deleted."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _lower(root: Path, path: str) -> Iterator[str]:
    """A deleted path of the real root, and everything below it."""
    file = root / path
    if not os.path.lexists(file):
        return  # created and deleted again in the sandbox
    yield path
    if file.is_dir() and not file.is_symlink():
        for below in sorted(file.iterdir()):
            yield from _lower(root, f"{path}/{below.name}")


def _attribute(path: Path, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return b""
        raise


def _refuse_reference(file: Path, path: str) -> None:
    for name in _REFERENCES:
        if _attribute(file, name):
            raise BuildError(
                f"/{path} has the attribute {name}: the overlay is not mounted with our options, so its contents are elsewhere; "
                "bake on another kernel",
                code="capture_refused",
            )


# --- what becomes part of the layer ------------------------------------------------------------------------------------


def _behind_links(top: Path, path: str) -> str:
    """The path without links to folders; an absolute link counts as one from ``top``."""
    real = (top / path).parent.resolve()
    folder = real.relative_to(top.resolve()) if real.is_relative_to(top.resolve()) else real.relative_to("/")
    return str(folder / Path(path).name)


def _is_carried(path: str, root: Path, own_keys: Collection[str], left_out: list[str]) -> bool:
    """Whether a changed path of ``root`` belongs in the layer. Adds a line to ``left_out`` if somebody could expect it there."""
    if _is_below(path, (*_NEVER, *_PACKAGES)) or _is_generated(path) or path in own_keys:
        return False
    reason = _why_left_out(path, root)
    if reason and not (root / path).is_dir():
        left_out.append(f"/{path}: {reason}")
    return not reason


def _why_left_out(path: str, root: Path) -> str:
    """Why a path that somebody could expect in the layer is not part of it; "" for all other paths."""
    if not path.startswith(tuple(f"{top}/" for top in footprint.ROOTS)):
        return "outside the folders in which a driver may have files"
    if path.startswith(_INITRAMFS):
        return "configuration of the initramfs, which must not contain the driver"
    if path.startswith(_MODPROBE) and _is_about_kernels_own(root / path):
        return "concerns only nouveau or Nova, for which there is an option (nvidia_prebake_blacklist_nouveau)"
    return ""


def _is_generated(path: str) -> bool:
    """Whether a node generates it, or never needs it: the loader's cache, initramfs images, other tools' build folders."""
    if _INDEX.fullmatch(path):
        return False  # recorded in a list of its own
    return bool(footprint.is_ignored(path) or _DKMS_BUILD.match(path))


def _is_about_kernels_own(file: Path) -> bool:
    """Whether every line of a modprobe.d(5) file is about one of the kernel's own drivers."""
    said = [line.split() for line in lines(read_text(file)) if line.strip() and not line.lstrip().startswith("#")]
    return bool(said) and all(len(words) > 1 and words[1].replace("_", "-") in KERNELS_OWN for words in said)


def _is_of(index: str, kver: str) -> bool:
    match = _INDEX.fullmatch(index)
    return bool(match and match["kver"] == kver)


def _refuse_changed_kind(files: dict[str, Entry], before: dict[str, Entry]) -> None:
    """Refuses a folder that became something else, or the reverse: all below it changes too, and its originals could not be checked."""
    for path, entry in files.items():
        was = before[path].type if path in before else entry.type
        if "folder" in (was, entry.type) and was != entry.type:
            raise BuildError(
                f"the build puts a {entry.type} in place of the {was} /{path}: such a change cannot be part of a layer, which nodes "
                "activate and deactivate; use another driver image",
                code="capture_refused",
            )


def _refuse_special(gone: Iterable[Entry]) -> None:
    for entry in gone:
        if entry.type == "other":
            raise BuildError(
                f"the build deletes /{entry.path}, which is neither a file, a link nor a folder: a node that deactivates the layer could "
                "not restore it; use another driver image",
                code="capture_refused",
            )


def _prune(files: dict[str, Entry], before: Collection[str], dropped: Iterable[str]) -> None:
    """Drops new folders that contain only files that are left out."""
    emptied = {str(parent) for path in dropped for parent in Path(path).parents}
    for path in sorted((p for p, e in files.items() if e.type == "folder" and p not in before), reverse=True):
        if path in emptied and not any(other.startswith(path + "/") for other in files):
            del files[path]


def _is_below(path: str, tops: Iterable[str]) -> bool:
    return any(path == top or path.startswith(top + "/") for top in tops)
