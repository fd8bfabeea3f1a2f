"""The words of the decision: facts (what the node is), policy (what its owner wants), plan (the answer)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import kmod
from .dkms import DkmsEntry
from .errors import InputError
from .imageref import DriverWanted
from .kmod import LoadedModule, ModuleInfo
from .manifest import IN_PLACE, Identity, Manifest
from .marker import Marker
from .pci import PciFunction
from .record import Record


class Action(str, enum.Enum):
    """What the driver container is asked to do on this node."""

    NONE = "none"
    INSTALL_SKIP_BUILD = "install-skip-build"
    INSTALL = "install"


class Step(str, enum.Enum):
    """The steps of a plan, in the order in which they are taken."""

    PULL_IMAGE = "pull-image"
    UNLOAD_MODULES = "unload-modules"
    REMOVE_DRIVER = "remove-driver"
    ACTIVATE_LAYER = "activate-layer"
    RUN_CONTAINER = "run-container"
    LOAD_MODULES = "load-modules"
    CHECK_DRIVER = "check-driver"
    RESTART_CONTAINERD = "restart-containerd"
    WRITE_RECORD = "write-record"
    START_SERVICES = "start-services"


@dataclass(frozen=True)
class Facts:
    """What the node is. None means: not known; "" and () mean: looked, and there is nothing.

    ``trusted_keys`` are the ids of keys whose signatures the kernel takes on modules, ``install_signer`` the id of the one that DKMS signs
    with on this node: both are looked at only where signatures are enforced.
    """

    kver: str
    machine: str
    arch: str | None
    machine_id: str
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
    active_layer: str = ""
    active_machine_id: str = ""
    active_version: str = ""
    activation_problem: str = ""
    activation_is_newer: bool = False
    unrecorded_layers: tuple[str, ...] = ()
    removal_under_way: bool = False
    record: Record | None = None
    record_problem: str = ""
    record_contents: tuple[str, ...] | None = None
    containerd_ready: bool = False
    imports_dropins: bool = False
    image_present: bool = False
    config_digest: str = ""
    boot_id: str = ""
    device_nodes: bool = False

    @property
    def gpus(self) -> tuple[PciFunction, ...]:
        return tuple(f for f in self.functions if f.is_gpu)

    @property
    def is_ours_active(self) -> bool:
        """Whether the captured layer that is in place was put there on this machine."""
        return bool(self.active_layer and self.machine_id and self.active_machine_id == self.machine_id)

    def is_in_place(self, layer: Manifest) -> bool:
        """Whether a layer's files lie where they belong: baked there, or activated on this machine and not being taken away."""
        is_active = self.is_ours_active and layer.layer == self.active_layer
        return layer.mode == IN_PLACE or (is_active and not self.removal_under_way)

    @property
    def layers_modules(self) -> tuple[LoadedModule, ...]:
        """Those in the kernel that are of the version of the captured layer that is in place, or was until a removal was interrupted."""
        return kmod.of_version(self.loaded, self.leaving_versions)

    @property
    def leaving_versions(self) -> tuple[str, ...]:
        """The versions of which a removal takes the modules out of the kernel."""
        recorded = self.record.identity.version if self.removal_under_way and self.record else ""
        return tuple(filter(None, (self.active_version, recorded)))

    def is_loaded(self, name: str) -> LoadedModule | None:
        return next((m for m in self.loaded if m.name == name), None)


@dataclass(frozen=True)
class Policy:
    """What the node's owner wants. ``expected_gpus`` None is "auto": as many as there are; times in seconds."""

    wanted: DriverWanted
    managed: bool = True
    expected_gpus: int | None = None
    flavour: str = "any"
    require_digest: bool = True
    accept_no_device: bool = False
    deadline_s: float = 780.0
    try_s: float = 600.0
    tries: int = 5
    delay_s: float = 10.0
    fallback_s: float = 240.0
    late_gpus_s: float = 30.0
    restart_containerd: str = "auto"


def expected_gpus(value: object) -> int | None:
    """The policy's number for ``auto`` (None) or a number, also as text. Raises InputError."""
    if value in (None, "", "auto"):
        return None
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
        raise InputError(f"gpu_boot_expected_gpus: {value!r} is neither auto nor a number of GPUs")
    return int(text)


@dataclass(frozen=True)
class Refusal:
    """A rung of the ladder that was not taken, and why."""

    rung: str
    code: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The answer. ``fails`` says that this plan is an error of its own; ``provisional`` that an image must be pulled first to know."""

    action: Action
    code: str
    reason: str
    steps: tuple[Step, ...] = ()
    refused: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    identity: Identity | None = None
    layer: Manifest | None = None
    fails: bool = False
    provisional: bool = False


@dataclass
class Outcome:
    """What came of a plan.

    ``action`` is what the container was last asked for, ``result`` is ``fast``, ``compiled``, ``ready`` (it was right already),
    ``nothing``, ``removed`` (a layer that was in place where no driver belongs) or ``planned``.
    """

    plan: Plan
    action: Action
    result: str
    code: str
    reason: str
    changed: bool = False
    device_check: str = ""
    module_version: str = ""
    containers: int = 0
    containerd_restarted: bool = False
    steps: list[dict[str, object]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
