"""Finds what is in place of captured layers if the activation record is damaged: by the layers' manifests, content, mode and owner.

A damaged document is never fatal (rule D11), and never a reason to delete what no document accounts for (rule R3): a file is removed only
if it is exactly what a manifest describes and no package owns it. The document is kept under another name, so that somebody can find out
what damaged it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError
from ..paths import ACTIVATION, ACTIVATION_JOURNAL
from ..store import activation_record
from ..store import layers as store_layers
from ..store.activation_record import DEPMOD, LDCONFIG, Activation, Derived, Kept
from ..store.layers import path_of, read_all
from ..store.manifest import Manifest
from ..store.objects import Store, key
from ..system import host, tree
from ..system.dpkg import owned_by_dpkg
from ..system.tree import Entry
from ..util import files, trust
from .staging import in_order

ASIDE = ".damaged"


def found(root: Path) -> tuple[Activation, ...]:
    """An activation, as complete as can be known, for each layer in the store that has files in place. Reads all contents.

    Layers for several kernels share their user space. The layer with the most files in place comes first; once that is taken away, nothing
    of the others is left.
    """
    owned = owned_by_dpkg(root)
    layers = (layer for layer in read_all(root)[0] if layer.stored)
    actives = [one for layer in layers for one in _of_layer(root, layer, owned)]
    return tuple(one for _count, one in sorted(actives, key=lambda pair: pair[0], reverse=True))


def _of_layer(root: Path, layer: Manifest, owned: set[str]) -> list[tuple[int, Activation]]:
    """The layer's activation, with the number of its files that are in place; empty if there are none."""
    replaced = set(layer.replaced)
    ours = [e for e in layer.files if (e.type != "folder" or e.path in replaced) and e.path not in owned - replaced]
    present = tree.describe_present(root, [entry.path for entry in ours])
    count = sum(present[entry.path] == entry for entry in ours if entry.type != "folder")
    if not count:
        return []
    kept = tuple(filter(None, (_backup(root, entry) for entry in layer.originals)))
    # Where the original cannot be restored, the layer's file stays.
    lost = replaced - {one.entry.path for one in kept}
    one = Activation(
        layer=layer.layer,
        identity=layer.identity,
        machine_id=host.machine_id(root),
        activated="",
        placed=in_order(entry for entry in ours if entry.path not in lost),
        folders=tuple(entry.path for entry in layer.files if entry.type == "folder" and entry.path not in replaced),
        originals=kept,
        derived=(Derived(DEPMOD, ()), Derived(LDCONFIG, ())),
    )
    return [(count, one)]


def _backup(root: Path, entry: Entry) -> Kept | None:
    """The backup of what the layer replaced or deleted; None if the store does not have it. Its time of last change is lost."""
    store = Store(root)
    if entry.type != "file":
        return Kept(entry, 0)
    if not store.holds(entry):
        return None
    return Kept(entry, store.path(key(entry)).stat().st_mtime_ns)


def in_place(root: Path) -> tuple[Activation, ...]:
    """The layers in place: the one of the record, if only the journal is damaged, then those found by the manifests."""
    known = _readable_record(root)
    others = (one for one in found(root) if not known or one.layer != known.layer)
    return (*((known,) if known else ()), *others)


def copy_aside(root: Path, say: Callable[[str], None]) -> None:
    """Keeps each damaged document under a second name, which ends in ``ASIDE``. Raises OSError."""
    for path, read in ((ACTIVATION, activation_record.read), (ACTIVATION_JOURNAL, activation_record.read_journal)):
        try:
            read(root)
        except DataError:
            file = trust.below(root, path)
            aside = _free_name(file)
            say(f"/{path} is kept as {aside.name}")
            aside.unlink(missing_ok=True)
            try:
                os.link(file, aside)  # reads nothing, and needs no space
            except OSError:  # for example, it is a folder
                file.rename(aside)
            files.sync_folder(file.parent)


def _free_name(file: Path) -> Path:
    """The name under which a damaged document is kept. A folder that has that name is somebody's, and stays."""
    names = (f"{file.name}{ASIDE}", *(f"{file.name}{ASIDE}-{number}" for number in range(2, 100)))
    paths = (file.with_name(name) for name in names)
    return next(path for path in paths if path.is_symlink() or not path.is_dir())


def not_restored(root: Path, one: Activation) -> list[str]:
    """The originals that are missing after ``one`` was taken away, because the store does not have their contents."""
    layer = store_layers.read(path_of(root, one.layer))
    kept = {original.entry.path for original in one.originals}
    return [path for path in (*layer.replaced, *layer.deleted) if path not in kept and not _is_original(root, layer, path)]


def _is_original(root: Path, layer: Manifest, path: str) -> bool:
    (original,) = (entry for entry in layer.originals if entry.path == path)
    return tree.describe_present(root, [path])[path] == original


def _readable_record(root: Path) -> Activation | None:
    try:
        return activation_record.read(root)
    except DataError:
        return None
