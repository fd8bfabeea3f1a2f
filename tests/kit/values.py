"""Values that the library's tests share, each to be taken with one field changed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.marker import Marker
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.dkms import DkmsEntry
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.modules import LoadedModule, ModuleInfo
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Identity, Index, Manifest, ModuleFact, layer_name
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.node_record import Record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.module_signature import Signer
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.pci import PciFunction
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.tree import Entry

DATA = Path(__file__).parents[1] / "data"
KVER = "6.1.0-56-cloud-amd64"
OLDER = "6.1.0-9-cloud-amd64"
NEWER = "6.12.95+deb12-cloud-amd64"
VERSION = "580.126.09"
IMAGE = f"registry.lab:5000/aks/aks-gpu-cuda:{VERSION}-20260430040408"
MACHINE = "0123456789abcdef0123456789abcdef"
MARKER = "opt/azure/aks-gpu/dkms-marker"
LIBRARIES = "usr/bin/lib64/lib64"
LOADER = "usr/lib/x86_64-linux-gnu"
DROPIN = "etc/containerd/config.d/10-nvidia-runtime.toml"


def digest(word: str) -> str:
    return "sha256:" + hashlib.sha256(word.encode()).hexdigest()


CONFIG_DIGEST = digest("config")
SIGNER = Signer("Fleet modules", "a1" * 20, "0f" * 32)


# --- values ----------------------------------------------------------------------------------------------------------


def identity(**changes: str) -> Identity:
    return replace(Identity(KVER, "x86_64", "cuda", VERSION, "open", CONFIG_DIGEST), **changes)


def entry(path: str, **changes: Any) -> Entry:
    return replace(Entry(path, "file", 0o644, 0, 0, 3, hashlib.sha256(b"abc").hexdigest()), **changes)


def manifest(who: Identity | None = None, **changes: Any) -> Manifest:
    """A layer that version 0.1.0 baked in place."""
    who = who or identity()
    base = Manifest(
        layer=layer_name(who),
        created="2026-07-01T00:00:00+00:00",
        identity=who,
        image=IMAGE,
        actions=("copy", "install", "build-only", "install-skip-build"),
        accept_no_device=False,
        files=(entry(f"usr/lib/modules/{who.kver}/updates/dkms/nvidia.ko"), entry(f"{LIBRARIES}/libcuda.so.{who.version}")),
        replaced=(),
        deleted=(),
        build_s=92.1,
        tries=1,
        warnings=(),
        stored=False,
    )
    layer = replace(base, **changes)
    return layer if "module_facts" in changes else replace(layer, module_facts=facts_of(layer))


def captured(**changes: Any) -> Manifest:
    """A captured layer that also replaces, deletes, and carries attributes and an index."""
    base = manifest()
    files = (*base.files, entry("etc/replaced.conf", attributes=(("user.a", "QQ=="),)))
    originals = (entry("etc/replaced.conf", mode=0o600), entry("etc/deleted.conf"))
    return manifest(
        stored=True,
        files=files,
        replaced=("etc/replaced.conf",),
        deleted=("etc/deleted.conf",),
        originals=originals,
        indexes=(index(f"usr/lib/modules/{KVER}/modules.dep"),),
        **changes,
    )


def index(path: str) -> Index:
    return Index(path, "0" * 64, entry(path))


def facts_of(layer: Manifest) -> tuple[ModuleFact, ...]:
    """What modinfo would say of each of a layer's modules."""
    return tuple(
        ModuleFact(e.path, Path(e.path).name.partition(".")[0], layer.identity.version, layer.identity.kver, "Dual MIT/GPL", "")
        for e in layer.modules
    )


def module(name: str = "nvidia", **changes: str) -> ModuleInfo:
    base = ModuleInfo(f"/lib/modules/{KVER}/updates/dkms/{name}.ko", VERSION, "Dual MIT/GPL", f"{KVER} SMP preempt", "")
    return replace(base, **changes)


def a_marker(**changes: Any) -> Marker:
    return replace(Marker(KVER, VERSION, "cuda", "x86_64", False), **changes)


def a_record(**changes: Any) -> Record:
    base = Record(
        machine_id=MACHINE,
        state="initialised",
        identity=identity(),
        image=IMAGE,
        action="install",
        reason_code="never_baked",
        built_here=True,
        boot_id="boot-1",
        modules={KVER: {f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko": "00"}},
        libraries={f"{LIBRARIES}/libcuda.so.{VERSION}": "00"},
    )
    return replace(base, **changes)


def gpu(driver: str | None = None, address: str = "0000:01:00.0", pci_class: str = "030200", device: str = "2330") -> PciFunction:
    return PciFunction(address, device, pci_class, driver)


def resident(name: str = "nvidia", version: str = VERSION, state: str = "live") -> LoadedModule:
    return LoadedModule(name, version, state, 0, ())


BOTH_LOADED = (resident("nvidia"), resident("nvidia-uvm"))


# The fields of ``Facts.active`` as the tests name them.
_ACTIVE = {
    **{"active_layer": "layer", "active_machine_id": "machine_id", "active_version": "version", "unrecorded_layers": "unrecorded"},
    **{"activation_problem": "problem", "activation_is_newer": "is_newer", "removal_under_way": "removal_under_way"},
}


def changed(facts: Facts, **changes: Any) -> Facts:
    """The same facts with other values, those about the active layer among them."""
    active = {_ACTIVE[name]: changes.pop(name) for name in [*changes] if name in _ACTIVE}
    return replace(facts, active=replace(facts.active, **active), **changes)


def never_baked(**changes: Any) -> Facts:
    """A new node with a GPU, containerd and the image, and nothing else."""
    base = Facts(
        kver=KVER,
        machine="x86_64",
        arch="x86_64",
        machine_id=MACHINE,
        functions=(gpu(),),
        containerd_ready=True,
        containerd_config='imports = ["/etc/containerd/config.d/*.toml"]',
        image_present=True,
        config_digest=CONFIG_DIGEST,
        boot_id="boot-1",
    )
    return changed(base, **changes)


def baked(**changes: Any) -> Facts:
    """A new node whose image was baked for exactly it: the fast path."""
    base = never_baked(
        module=module(),
        uvm=module("nvidia-uvm"),
        dkms=(DkmsEntry(VERSION, KVER, "x86_64", "installed"),),
        marker=a_marker(),
        layers=(manifest(),),
        layer_contents=(),
    )
    return changed(base, **changes)


def ready(**changes: Any) -> Facts:
    """The same node after a finished run, in the same boot."""
    return changed(baked(record=a_record(), record_contents=(), loaded=BOTH_LOADED, device_nodes=True), **changes)


def policy(image: str = IMAGE, pull: str | None = None, **changes: Any) -> Policy:
    return replace(Policy(reference.wanted(image, pull), late_gpus_s=0.0), **changes)
