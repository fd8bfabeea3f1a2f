"""The list of the driver images that we brought into containerd (``driver-images.json``): fetches by it, and drops those not needed.

An image takes 1 to 2 GB, and kubelet keeps a pinned one for ever. containerd does not know who pulled an image, so its names are listed
before the pull. An image is dropped when no layer, no node record and no caller names it any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..container.containerd import Containerd
from ..container.pull import DEFAULT_TRIES, Tries, ensure_image
from ..container.reference import DriverWanted
from ..container.registry import DEFAULT_SOURCE, ImageSource
from ..errors import CommandError, DataError, GpuNodeError
from ..paths import DRIVER_IMAGES, STORE
from ..util import files, jsondoc
from ..util.deadline import Deadline
from . import node_record
from .layers import read_all

SCHEMA = 1
_CODE = "images_invalid"
_DROP_S = 120.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class DriverImages:
    """``pulled`` are the names that we gave to images, by a pull, an import or a tag; ``pinned`` are names of other people's images that we
    labelled as pinned."""

    pulled: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.pulled, *self.pinned)

    def without(self, names: Collection[str]) -> DriverImages:
        return DriverImages(*(tuple(name for name in kept if name not in names) for kept in (self.pulled, self.pinned)))


@dataclass(frozen=True)
class Unneeded:
    """Names on the list that nothing needs: ``pulled`` ones are removed, ``pinned`` ones unpinned, ``gone`` ones only forgotten."""

    pulled: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def is_anything(self) -> bool:
        return bool(self.pulled or self.pinned)


# --- the document ----------------------------------------------------------------------------------------------------


def read(root: Path) -> DriverImages:
    """The list of the system at ``root``, an empty one if there is no document. Raises DataError."""
    where = f"/{DRIVER_IMAGES}"
    try:
        text = (root / DRIVER_IMAGES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return DriverImages()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read ({error}); it is not used", code=_CODE) from error
    data = jsondoc.load(text, SCHEMA, where, _CODE)
    found = [jsondoc.get(data, key, list, where, _CODE) for key in ("pulled", "pinned")]
    if not all(isinstance(name, str) for names in found for name in names):
        raise DataError(f"{where}: contains a name that is not text; it is not used", code=_CODE)
    return DriverImages(*(tuple(names) for names in found))


def forget(root: Path, names: Collection[str]) -> None:
    """Takes names off the list. An empty list has no document. Raises DataError."""
    known = read(root)
    left = known.without(names)
    if left.names:
        _write(root, left)
    elif known.names:
        files.remove_durably(root / DRIVER_IMAGES)
        files.remove_empty_folder(root / STORE)


def _add(root: Path, say: Say, pulled: Collection[str] = (), pinned: Collection[str] = ()) -> None:
    """Puts names on the list. A damaged list is replaced; one of a newer version is left alone."""
    try:
        known = read(root)
    except DataError as error:
        say(str(error))
        if jsondoc.is_newer(error, SCHEMA):
            return
        known = DriverImages()
    more = DriverImages(tuple(dict.fromkeys((*known.pulled, *pulled))), tuple(dict.fromkeys((*known.pinned, *pinned))))
    if more != known:
        _write(root, more)


def _write(root: Path, images: DriverImages) -> None:
    files.make_private(root / STORE)
    document = {"schema": SCHEMA, "pulled": list(images.pulled), "pinned": list(images.pinned)}
    files.write_atomic(root / DRIVER_IMAGES, jsondoc.dump(document), 0o600)


# --- images in containerd --------------------------------------------------------------------------------------------


def fetch(
    root: Path,
    containerd: Containerd,
    wanted: DriverWanted,
    deadline: Deadline,
    source: ImageSource = DEFAULT_SOURCE,
    tries: Tries = DEFAULT_TRIES,
    say: Say = lambda _: None,
) -> bool:
    """Fetches the driver image as ``ensure_image`` does, and lists the names that it gives before that. Returns whether it did anything."""
    tries.require_possible()
    if containerd.target_digest(wanted.image.text, wanted.pin):
        return False
    names = dict.fromkeys((wanted.image.text, wanted.pull.text))
    with _listed(root, containerd, [name for name in names if not containerd.target_digest(name, wanted.pin)], say):
        return ensure_image(containerd, wanted, deadline, source, tries, say)


@contextlib.contextmanager
def _listed(root: Path, containerd: Containerd, names: Collection[str], say: Say) -> Iterator[None]:
    """Lists ``names`` for the body. If it fails, forgets those that it has not given."""
    _add(root, say, pulled=names)
    try:
        yield
    except BaseException:
        with contextlib.suppress(GpuNodeError, OSError):
            there = containerd.targets()
            forget(root, [name for name in names if name not in there])
        raise


def pin(root: Path, containerd: Containerd, name: str, say: Say = lambda _: None) -> None:
    """Labels an image as pinned, and lists it before. Raises CommandError."""
    if not containerd.is_pinned(name):
        with contextlib.suppress(DataError):
            if name not in read(root).pulled:
                _add(root, say, pinned=[name])
        containerd.pin(name)


def unneeded(root: Path, containerd: Containerd, wanted: Collection[str]) -> Unneeded:
    """What of the list neither a document nor ``wanted`` names, by whatever name; nothing if a document cannot be read. Raises
    CommandError."""
    try:
        known = read(root)
        if set(known.names) <= {*wanted}:
            return Unneeded()
        needed = {*wanted, *named(root)}
    except DataError:
        return Unneeded()
    if set(known.names) <= needed:
        return Unneeded()
    targets = containerd.targets()
    kept = {targets[name] for name in needed if name in targets}
    pulled, pinned = (tuple(name for name in names if targets.get(name, "") not in {*kept, ""}) for names in (known.pulled, known.pinned))
    return Unneeded(pulled, pinned, tuple(name for name in known.names if name not in targets and name not in needed))


def named(root: Path) -> set[str]:
    """The driver images that layers and the node record name. Raises DataError if one of these cannot be read."""
    layers, problems = read_all(root)
    if problems:
        raise DataError(problems[0], code=_CODE)
    node = node_record.read(root)
    return {layer.image for layer in layers} | ({node.image} if node else set())


def drop(root: Path, containerd: Containerd, found: Unneeded, limit_s: float = _DROP_S) -> None:
    """Removes and unpins what was ``found``, then takes it off the list. Raises CommandError, DataError."""
    for name in found.pulled:
        containerd.remove(name, limit_s)
    for name in found.pinned:
        containerd.unpin(name)
    forget(root, (*found.pulled, *found.pinned, *found.gone))


def drop_unneeded(root: Path, containerd: Containerd, wanted: Collection[str], limit_s: float = _DROP_S) -> tuple[Unneeded, str]:
    """Drops what is not needed. Returns what that was, and what went wrong, in words: old images only take space, so no run fails."""
    found = Unneeded()
    try:
        found = unneeded(root, containerd, wanted)
        if found.is_anything or found.gone:
            drop(root, containerd, found, limit_s)
    except (CommandError, DataError) as error:
        return found, f"old driver images stay in containerd until the next run: {error}"
    return found, ""
