"""What of captured layers is in place where the record of it is damaged: told by the layers' manifests, by content, mode and owner.

A damaged document is never fatal (D11), and never a reason to delete what nothing accounts for (R3): a file goes only while it is exactly
what a manifest describes and no package owns it. The document is set aside under another name, for whoever asks what happened to it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError
from ..paths import ACTIVATION, ACTIVATION_JOURNAL
from ..store import activation_record
from ..store import layers as store_layers
from ..store.activation_record import DEPMOD, LDCONFIG, Activation, Derived, Kept
from ..store.layers import path_of, read_all
from ..store.manifest import CAPTURED, Manifest
from ..store.objects import Store, key
from ..system import host, tree
from ..system.dpkg import owned_by_dpkg
from ..system.tree import Entry
from ..util import files
from .staging import in_order

ASIDE = ".damaged"


def found(root: Path) -> tuple[Activation, ...]:
    """An activation, as far as it can be told, of each captured layer of which files are in place. All of their contents are read.

    Layers for several kernels share their user space: the one of which the most is there comes first, and after it nothing is left.
    """
    owned = owned_by_dpkg(root)
    layers = (layer for layer in read_all(root)[0] if layer.mode == CAPTURED)
    actives = [one for layer in layers for one in _of_layer(root, layer, owned)]
    return tuple(one for _count, one in sorted(actives, key=lambda pair: pair[0], reverse=True))


def _of_layer(root: Path, layer: Manifest, owned: set[str]) -> list[tuple[int, Activation]]:
    """The layer's, with the number of its files that are there; none where there is no file."""
    replaced = set(layer.replaced)
    ours = [e for e in layer.files if (e.type != "folder" or e.path in replaced) and e.path not in owned - replaced]
    present = tree.describe_present(root, [entry.path for entry in ours])
    count = sum(present[entry.path] == entry for entry in ours if entry.type != "folder")
    if not count:
        return []
    kept = tuple(filter(None, (_kept(root, entry) for entry in layer.originals)))
    # What cannot be put back stays as the layer has it.
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


def _kept(root: Path, entry: Entry) -> Kept | None:
    """What the layer replaced or deleted, if it can be put back; when it was changed last is not known any more."""
    store = Store(root)
    if entry.type != "file":
        return Kept(entry, 0)
    if not store.holds(entry):
        return None
    return Kept(entry, store.path(key(entry)).stat().st_mtime_ns)


def in_place(root: Path) -> tuple[Activation, ...]:
    """What is accounted for: by the record where it is only the journal that is damaged, then by the manifests."""
    known = _readable_record(root)
    others = (one for one in found(root) if not known or one.layer != known.layer)
    return (*((known,) if known else ()), *others)


def copy_aside(root: Path, say: Callable[[str], None]) -> None:
    """Keeps a copy of each damaged document under another name. Raises OSError."""
    for path, read in ((ACTIVATION, activation_record.read), (ACTIVATION_JOURNAL, activation_record.read_journal)):
        try:
            read(root)
        except DataError:
            file = root / path
            aside = file.with_name(file.name + ASIDE)
            say(f"/{path} is set aside as {aside.name}")
            if aside.is_dir() and not aside.is_symlink():
                shutil.rmtree(aside)
            aside.unlink(missing_ok=True)
            try:
                os.link(file, aside)  # nothing is read, and no space needed
            except OSError:  # a folder, say
                file.rename(aside)
            files.sync_folder(file.parent)


def lost(root: Path, one: Activation) -> list[str]:
    """What cannot be put back after ``one`` was taken away."""
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
