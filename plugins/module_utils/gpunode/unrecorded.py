"""What of captured layers is in place where the record of it is damaged: told by the layers' manifests, by content, mode and owner.

A damaged document is never fatal (D11), and never a reason to delete what nothing accounts for (R3): a file goes only while it is exactly
what a manifest describes and no package owns it. The document is set aside under another name, for whoever asks what happened to it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import activated, derived, files, host, inventory, manifest, takeaway
from .activated import DEPMOD, LDCONFIG, Activation, Derived, Kept
from .errors import DataError
from .inventory import Entry
from .manifest import CAPTURED, Manifest
from .runner import Runner
from .store import Store, key
from .takeaway import TakenAway, in_order
from .takeback import owned_by_dpkg

ASIDE = ".damaged"


def found(root: Path) -> tuple[Activation, ...]:
    """An activation, as far as it can be told, of each captured layer of which files are in place. All of their contents are read."""
    owned = owned_by_dpkg(root)
    layers = (layer for layer in manifest.read_all(root)[0] if layer.mode == CAPTURED)
    return tuple(filter(None, (_of_layer(root, layer, owned) for layer in layers)))


def _of_layer(root: Path, layer: Manifest, owned: set[str]) -> Activation | None:
    replaced = set(layer.replaced)
    ours = [e for e in layer.files if (e.type != "folder" or e.path in replaced) and e.path not in owned - replaced]
    present = inventory.describe_present(root, [entry.path for entry in ours])
    if not any(present[entry.path] == entry for entry in ours if entry.type != "folder"):
        return None
    kept = tuple(filter(None, (_kept(root, entry) for entry in layer.originals)))
    # What cannot be put back stays as the layer has it.
    lost = replaced - {one.entry.path for one in kept}
    return Activation(
        layer=layer.layer,
        identity=layer.identity,
        machine_id=host.machine_id(root),
        activated="",
        placed=in_order(entry for entry in ours if entry.path not in lost),
        folders=tuple(entry.path for entry in layer.files if entry.type == "folder" and entry.path not in replaced),
        originals=kept,
        derived=(),
    )


def _kept(root: Path, entry: Entry) -> Kept | None:
    """What the layer replaced or deleted, if it can be put back; when it was changed last is not known any more."""
    store = Store(root)
    if entry.type != "file":
        return Kept(entry, 0)
    if store.problems([entry]):
        return None
    return Kept(entry, store.path(key(entry)).stat().st_mtime_ns)


def take_away(root: Path, runner: Runner, say: Callable[[str], None]) -> TakenAway:
    """Takes away what is accounted for: by the record where it is only the journal that is damaged, otherwise by the manifests; then sets
    the damaged documents aside. May be interrupted and done again. Raises OSError, LayerError, CommandError."""
    known = _readable_record(root)
    actives = [*([known] if known else []), *(one for one in found(root) if not known or one.layer != known.layer)]
    done = TakenAway(", ".join(one.layer for one in actives))
    for one in actives:
        _add(done, takeaway.take_away(root, runner, one, say, interrupted=True))
        for path in () if one is known else _lost(root, one):
            done.keep(path, "what was there before the layer is not in the store any more")
    for kver in sorted({one.identity.kver for one in actives}):
        derived.make(root, runner, Derived(DEPMOD, ()), kver)
    if actives:
        derived.make(root, runner, Derived(LDCONFIG, ()), "")
        files.sync_filesystem(root)
    for path in (activated.PATH, activated.JOURNAL):
        file = root / path
        if file.exists():
            say(f"/{path} is set aside as {file.name}{ASIDE}")
            file.replace(file.with_name(file.name + ASIDE))
            files.sync_folder(file.parent)
    return done


def _lost(root: Path, one: Activation) -> list[str]:
    """What cannot be put back."""
    layer = manifest.read(manifest.path_of(root, one.layer))
    kept = {original.entry.path for original in one.originals}
    return [path for path in (*layer.replaced, *layer.deleted) if path not in kept and not _is_original(root, layer, path)]


def _is_original(root: Path, layer: Manifest, path: str) -> bool:
    (original,) = (entry for entry in layer.originals if entry.path == path)
    return inventory.describe_present(root, [path])[path] == original


def _readable_record(root: Path) -> Activation | None:
    try:
        return activated.read(root)
    except DataError:
        return None


def _add(done: TakenAway, more: TakenAway) -> None:
    for name in ("removed", "restored", "second_copies", "kept"):
        getattr(done, name).extend(getattr(more, name))
    done.kept_paths |= more.kept_paths
