"""Plans a bake: what is in the store already, what must be built, and what happens to the layer that is active. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..driver import nouveau_blacklist
from ..store import activation_record
from ..store.activation_record import Activation
from ..store.layers import drivers_files, read_all
from ..store.manifest import Manifest
from ..store.objects import Store, objects_of
from ..system import tree
from .context import Bake


@dataclass(frozen=True)
class Plan:
    """``present`` are the requested layers that the store has, by kernel; ``missing`` are the kernels to build for; ``others`` are the
    names of all other layers, which are discarded. ``resumes``: an activation or a deactivation was interrupted and is ended first.
    ``deactivates`` is the name of the active layer if it must not stay; ``activates`` whether the layer is activated at the end."""

    present: Mapping[str, Manifest]
    missing: tuple[str, ...]
    others: tuple[str, ...]
    resumes: bool
    deactivates: str
    activates: bool
    nouveau: nouveau_blacklist.Change

    @property
    def is_anything(self) -> bool:
        """Whether the bake changes the image."""
        return bool(self.missing or self.others or self.resumes or self.deactivates or self.activates or self.nouveau.is_needed)


def plan(bake: Bake, kernels: Sequence[str]) -> Plan:
    """The plan of a bake for ``kernels``. Reads the contents of the layers that it keeps. Raises GpuNodeError."""
    root, request = bake.root, bake.request
    layers, active = read_all(root)[0], activation_record.read(root)
    present = {kver: layer for kver in kernels if (layer := _present(bake, layers, kver, active))}
    missing = tuple(kver for kver in kernels if kver not in present)
    layer = present[kernels[0]] if request.is_in_place and not missing else None
    stays = bool(active and layer and _is_in_place(bake, active, layer))
    settled = stays and active is not None and active.verified and not active.machine_id
    return Plan(
        present,
        missing,
        tuple(other.layer for other in layers if other not in present.values()),
        activation_record.read_journal(root) is not None,
        active.layer if active and not stays else "",
        request.is_in_place and not settled,
        nouveau_blacklist.required_change(root, bake.runner, request.blacklist_nouveau, drivers_files(root)),
    )


def _present(bake: Bake, layers: Iterable[Manifest], kver: str, active: Activation | None) -> Manifest | None:
    """The requested layer, if the store has it undamaged and the files that it replaces or deletes are as they were; else None."""
    layer = next((layer for layer in layers if _is_requested(bake, layer, kver)), None)
    if layer is None or Store(bake.root).problems(objects_of(layer)):
        return None
    kept = {one.entry.path: one.entry for one in active.originals} if active else {}
    here = [entry for entry in layer.originals if entry.path not in kept]
    is_unchanged = all(kept.get(entry.path, entry) == entry for entry in layer.originals) and not tree.problems(bake.root, here)
    return layer if is_unchanged else None


def _is_requested(bake: Bake, layer: Manifest, kver: str) -> bool:
    wanted, found = bake.request.wanted, layer.identity
    asked = (kver, bake.arch, wanted.kind, wanted.version, bake.digest)
    if layer.image != wanted.image.text:  # a node finds the driver image in its containerd by this name, and the seal compares it
        return False
    is_same = (found.kver, found.arch, found.kind, found.version, found.config_digest) == asked
    signer = bake.certificate.signer if bake.certificate else None
    return is_same and layer.signer == signer and bake.request.flavour in ("any", found.flavour)


def _is_in_place(bake: Bake, active: Activation, layer: Manifest) -> bool:
    """Whether the active layer is ``layer`` and all its files are unchanged."""
    return active.identity == layer.identity and not tree.problems(bake.root, active.placed)
