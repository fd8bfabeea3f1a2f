"""The facts: what a node is, as the decision needs it. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..container.marker import Marker
from ..driver import modules
from ..driver.dkms import DkmsEntry
from ..driver.modules import LoadedModule, ModuleInfo
from ..store.manifest import Manifest
from ..store.node_record import Record
from ..system.pci import PciFunction


@dataclass(frozen=True)
class Active:
    """What is known of the active layer. ``layer`` is "" if there is none; ``machine_id`` is that of the machine that activated it, "" if a
    bake did so in the image.

    ``problem`` says why the activation record or its journal cannot be used, ``is_newer`` that a newer version of this program wrote it,
    ``is_untrusted`` that somebody else than root could have written it;
    ``unrecorded`` are the layers that their files show to be active then. ``removal_under_way``: a boot was interrupted while it removed
    the driver.
    """

    layer: str = ""
    machine_id: str = ""
    version: str = ""
    problem: str = ""
    is_newer: bool = False
    unrecorded: tuple[str, ...] = ()
    removal_under_way: bool = False
    is_untrusted: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers with files in place, as far as is known."""
        return tuple(dict.fromkeys(filter(None, (self.layer, *self.unrecorded))))


@dataclass(frozen=True)
class Facts:
    """What the node is. None means unknown; "" and () mean that nothing was found.

    ``untrusted`` are those of the problems with layers and node record that are about whose they are.

    ``trusted_keys`` are the ids of the keys whose signatures on modules the kernel accepts, ``install_signer`` is the id of the key with
    which DKMS signs on this node. Both are read only where signatures are enforced.

    ``unreadable`` says which folder could not be listed, although all else depends on it: the bus, or a place of a driver. What follows it
    was not read then.

    ``containerd_config`` is the text of its main file, "" if there is none: reading TOML takes longer than most of a look, so only a plan
    that runs a container does.
    """

    kver: str
    machine: str
    arch: str | None
    machine_id: str
    unreadable: str = ""
    functions: tuple[PciFunction, ...] = ()
    loaded: tuple[LoadedModule, ...] = ()
    signatures_enforced: bool = False
    secure_boot: bool | None = None
    trusted_keys: tuple[str, ...] | None = None
    install_signer: str = ""
    operator: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    service_packages: tuple[tuple[str, str], ...] = ()
    module: ModuleInfo | None = None
    uvm: ModuleInfo | None = None
    dkms: tuple[DkmsEntry, ...] = ()
    marker: Marker | None = None
    marker_problem: str = ""
    layers: tuple[Manifest, ...] = ()
    layer_problems: tuple[str, ...] = ()
    layer_contents: tuple[str, ...] | None = None
    layer_obstacle: str = ""
    layers_judged_bad: Mapping[str, str] = field(default_factory=dict)
    active: Active = field(default_factory=Active)
    record: Record | None = None
    record_problem: str = ""
    untrusted: tuple[str, ...] = ()
    record_contents: tuple[str, ...] | None = None
    containerd_ready: bool = False
    containerd_config: str | None = ""
    image_present: bool = False
    config_digest: str = ""
    boot_id: str = ""
    device_nodes: bool = False

    @property
    def gpus(self) -> tuple[PciFunction, ...]:
        return tuple(f for f in self.functions if f.is_gpu)

    @property
    def passed_through(self) -> tuple[PciFunction, ...]:
        """The GPUs that belong to virtual machines."""
        return tuple(gpu for gpu in self.gpus if gpu.is_passed_through)

    @property
    def is_shared(self) -> bool:
        """Whether a driver of another owner is here too, or may be."""
        return bool(self.operator or self.foreign or self.unreadable)

    @property
    def is_unadopted(self) -> bool:
        """Whether the active layer was activated in the image by a bake, and no machine has adopted it yet."""
        return bool(self.active.layer and not self.active.machine_id)

    @property
    def is_ours_active(self) -> bool:
        """Whether the active layer is this machine's: activated on it, or in its image."""
        return self.is_unadopted or bool(self.active.layer and self.machine_id and self.active.machine_id == self.machine_id)

    def is_in_place(self, layer: Manifest) -> bool:
        """Whether a layer's files are in their places and are this machine's, with no removal under way. Those of a layer without objects
        are always in their places."""
        is_active = self.is_ours_active and layer.layer == self.active.layer
        return not layer.stored or (is_active and not self.active.removal_under_way)

    @property
    def layers_modules(self) -> tuple[LoadedModule, ...]:
        """The loaded modules of the active layer's version, or of the version that an interrupted removal was removing."""
        return modules.of_version(self.loaded, self.leaving_versions)

    @property
    def leaving_versions(self) -> tuple[str, ...]:
        """The driver versions whose modules a removal unloads."""
        recorded = self.record.identity.version if self.active.removal_under_way and self.record else ""
        return tuple(filter(None, (self.active.version, recorded)))

    def is_loaded(self, name: str) -> LoadedModule | None:
        return next((m for m in self.loaded if m.name == name), None)
