"""The rungs of the ladder that need no compile: why a node is not already right, and why its baked layer is not used. Pure.

Each function returns a Refusal with its code (docs/codes.md), or None where nothing is wrong.
"""

from __future__ import annotations

from dataclasses import replace

from ..container.marker import differences
from ..driver.gpu_list import UNKNOWN, Driver, GpuList
from ..driver.modules import ModuleInfo
from ..store.manifest import Identity, Manifest
from ..store.node_record import Record
from ..system.pci import PciFunction
from .facts import Facts
from .plan import Action, Refusal
from .policy import Policy

READY, BAKED = "already-right", "baked-layer"
# The code of each field that differs. Where several differ, the first of this order gives the plan its code: it explains the others.
DIFFERENCE_CODES = {
    "arch": "arch_mismatch",
    "kind": "kind_mismatch",
    "version": "version_mismatch",
    "flavour": "flavour_mismatch",
    "kver": "kernel_mismatch",
    "config_digest": "digest_mismatch",
}


def ready_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    """Why the node is not ready as it is; None if it is. Only the node record shows that; a loaded module does not (rule D17)."""
    record = facts.record
    if facts.active.removal_under_way:
        return Refusal(READY, "interrupted", "an earlier boot was interrupted while it removed the driver")
    if facts.record_problem:
        return Refusal(READY, "store_untrusted" if facts.record_problem in facts.untrusted else "record_invalid", facts.record_problem)
    if record is None:
        return Refusal(READY, "never_initialised", "this node has no node record, so nothing has been installed on it yet")
    return _record_refusal(facts, policy, record) or _state_refusal(facts, policy, record)


def _record_refusal(facts: Facts, policy: Policy, record: Record) -> Refusal | None:
    """Refuses a node record of another machine, of a run that did not finish, or of another driver or image."""
    if not facts.machine_id or record.machine_id != facts.machine_id:
        return Refusal(READY, "other_machine", "the node record names another machine: the disk was copied from a used node")
    if record.state != "initialised":
        return Refusal(READY, "interrupted", "the last run was interrupted: the node record says started")
    wanted = policy.wanted
    found = record.identity
    if (found.kind, found.version, found.arch) != (wanted.kind, wanted.version, facts.arch):
        return Refusal(
            READY,
            "other_driver",
            f"{found.kind} {found.version} for {found.arch} is installed, and {wanted.kind} {wanted.version} for {facts.arch} is wanted",
        )
    # An image that has been deleted from containerd is not pulled again only to learn its digest: later boots use no network.
    # An unknown digest equals nothing, not even another unknown one: then the image's name decides.
    digests = {found.config_digest, facts.config_digest}
    same_image = len(digests) == 1 if facts.image_present and "" not in digests else record.image == wanted.image.text
    if not same_image:
        return Refusal(READY, "other_image", f"the installed driver comes from another image than the one now called {wanted.image.text}")
    return None


def _state_refusal(facts: Facts, policy: Policy, record: Record) -> Refusal | None:
    """Refuses the driver as it is now, where the node record is of the wanted one."""
    wanted, found = policy.wanted, record.identity
    if policy.flavour not in ("any", found.flavour):
        return Refusal(READY, "other_flavour", f"the installed modules are {found.flavour}, and the policy asks for {policy.flavour} ones")
    if facts.kver not in record.modules:
        return Refusal(
            READY,
            "kernel_changed",
            f"kernel {facts.kver} runs, and the driver is installed for {', '.join(record.ready_kernels()) or 'no kernel'}",
        )
    if facts.record_contents is None:
        return Refusal(READY, "contents_unverified", "the installed files were not verified")
    if facts.record_contents:
        return Refusal(READY, "contents_changed", f"installed files have changed: {first_few(facts.record_contents)}")
    resident = facts.is_loaded("nvidia")
    if resident and resident.version != wanted.version:
        return Refusal(READY, "other_version_loaded", f"nvidia {resident.version} is loaded, and {wanted.version} is wanted")
    identity = record.identity
    return _gpu_refusal(facts, READY, identity.kind, identity.flavour, identity.version) or _installed_signature_refusal(facts, record)


def _installed_signature_refusal(facts: Facts, record: Record) -> Refusal | None:
    """Refuses installed modules that are not loaded and that this kernel would not accept, for example since Secure Boot was turned on."""
    if not facts.signatures_enforced or facts.is_loaded("nvidia"):
        return None
    identity = replace(record.identity, kver=facts.kver)
    layer = next((m for m in facts.layers if m.identity == identity), None)
    if layer and not record.built_here:
        return _signature_refusal(facts, READY, layer)
    reason = install_refusal(facts)
    return Refusal(READY, "module_untrusted", f"the installed modules were compiled on this node, and {reason}") if reason else None


# --- signatures ------------------------------------------------------------------------------------------------------


def _signature_refusal(facts: Facts, rung: str, layer: Manifest | None) -> Refusal | None:
    """Refuses modules that this kernel would not accept. The manifest says who signed them; an unknown signer is not trusted (rule D3)."""
    if not facts.signatures_enforced:
        return None
    signer = layer.signer if layer else None
    if signer is None:
        by = next((m.signer for m in (facts.module, facts.uvm) if m and m.signer), "")
        if not by:
            return Refusal(rung, "module_unsigned", "the modules are not signed, and this kernel accepts only signed ones")
        reason = (
            f"this kernel enforces signatures, and the modules are signed by {by}, not by a bake; whether it trusts that key is unknown"
        )
        return Refusal(rung, "module_untrusted", reason)
    if facts.trusted_keys is None:
        reason = f"this kernel accepts only trusted signatures, and its keyrings cannot be read; whether it trusts {signer.name} is unknown"
        return Refusal(rung, "trust_unknown", reason)
    if signer.key_id not in facts.trusted_keys:
        return Refusal(
            rung,
            "module_untrusted",
            f"the modules are signed by {signer.name} (key {signer.key_id}), which this kernel does not trust, and only a trusted "
            "signature is accepted",
        )
    return None


def install_refusal(facts: Facts) -> str | None:
    """Why this kernel would not accept modules that a full install compiles on this node; None where it would."""
    if not facts.signatures_enforced:
        return None
    what = "this kernel accepts only modules with a trusted signature, and a module compiled here would"
    if not facts.install_signer:
        return f"{what} have none"
    if facts.install_signer not in (facts.trusted_keys or ()):
        return f"{what} be signed with DKMS's key {facts.install_signer}, which the kernel is not known to trust"
    return None


# --- the baked layer -------------------------------------------------------------------------------------------------


def target(facts: Facts, policy: Policy, flavour: str) -> Identity:
    """The identity that this node needs."""
    return Identity(facts.kver, facts.arch or "", policy.wanted.kind, policy.wanted.version, flavour, facts.config_digest)


def _differences(facts: Facts, policy: Policy, layer: Manifest) -> tuple[str, ...]:
    flavour = layer.identity.flavour if policy.flavour == "any" else policy.flavour
    differing = layer.identity.differences(target(facts, policy, flavour))
    if not facts.image_present or not policy.require_digest:  # unknown until the pull, or not asked for; a known digest is compared
        known = bool(facts.config_digest)
        differing = tuple(d for d in differing if d != "config_digest" or known)
    return tuple(sorted(differing, key=list(DIFFERENCE_CODES).index))


def nearest_layer(facts: Facts, policy: Policy) -> Manifest | None:
    """The layer that differs least from what this node needs, whose refusal explains most; None if there is no layer."""
    return min(facts.layers, key=lambda m: len(_differences(facts, policy, m)), default=None)


def layer_refusal(facts: Facts, policy: Policy, layer: Manifest | None) -> Refusal | None:
    """Why ``layer``, or without one a driver that only a marker records, is not used; None if it is."""
    if facts.active.problem:
        return Refusal(
            BAKED,
            "store_untrusted" if facts.active.is_untrusted else "activation_invalid",
            f"which layer is active is unknown ({facts.active.problem}); the unchanged files that the "
            "layers' manifests list are removed, and the damaged document is renamed to end in .damaged; look at it to find the cause",
        )
    if layer is None:
        return _no_layer_refusal(facts, policy) or _removal_refusal(facts)
    differing = _differences(facts, policy, layer)
    if differing:
        code = _difference_code(facts, differing)
        removes = code not in ("kernel_mismatch", "digest_unknown")
        return Refusal(BAKED, code, _difference_text(facts, policy, layer, differing), removes)
    if Action.INSTALL_SKIP_BUILD.value not in layer.actions:
        return Refusal(
            BAKED, "action_unknown", f"the driver image {layer.image} does not know the action install-skip-build", needs_removal=False
        )
    # An inert layer has DKMS's tree and the marker among its files. They were checked at bake, and activation puts them in place.
    registered = _removal_refusal(facts) or _dkms_refusal(facts, layer.identity.version) or _marker_refusal(facts, policy)
    return (
        _module_refusal(facts, layer.identity.version, layer.identity.flavour)
        or _signature_refusal(facts, BAKED, layer)
        or (registered if facts.is_in_place(layer) else _activation_refusal(facts, layer))
        or _contents_refusal(facts)
        or _gpu_refusal(facts, BAKED, layer.identity.kind, layer.identity.flavour, layer.identity.version)
    )


def _no_layer_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    if facts.layer_problems:
        is_untrusted = not set(facts.untrusted).isdisjoint(facts.layer_problems)
        reason = f"the baked layers cannot be used: {first_few(facts.layer_problems)}"
        return Refusal(BAKED, "store_untrusted" if is_untrusted else "manifest_invalid", reason)
    if facts.marker_problem:
        return Refusal(BAKED, "marker_invalid", facts.marker_problem, needs_removal=False)
    if facts.marker is None:
        return Refusal(
            BAKED, "never_baked", "nothing was baked into this image: it has neither a manifest nor a marker", needs_removal=False
        )
    if policy.require_digest:
        return Refusal(
            BAKED,
            "no_manifest",
            "there is a marker but no manifest, so it is unknown from which image the driver was built (gpu_boot_require_digest is true)",
            needs_removal=False,
        )
    refusal = _marker_refusal(facts, policy)
    if refusal:
        return refusal
    flavour = facts.module.flavour if facts.module else None
    return (
        _module_refusal(facts, policy.wanted.version, policy.flavour)
        or _signature_refusal(facts, BAKED, None)
        or _dkms_refusal(facts, policy.wanted.version)
        or _gpu_refusal(facts, BAKED, policy.wanted.kind, flavour or "", policy.wanted.version)
    )


def _difference_code(facts: Facts, differing: tuple[str, ...]) -> str:
    if differing == ("config_digest",) and not facts.config_digest:
        return "digest_unknown"
    return DIFFERENCE_CODES[differing[0]]


def _difference_text(facts: Facts, policy: Policy, layer: Manifest, differing: tuple[str, ...]) -> str:
    here = target(facts, policy, policy.flavour)
    words = {"kver": "kernel", "config_digest": "config digest"}
    needs = {name: f"this node needs {getattr(here, name)}" if getattr(here, name) else "this node's is unknown" for name in differing}
    pairs = [f"{words.get(name, name)} {getattr(layer.identity, name) or 'unknown'} ({needs[name]})" for name in differing]
    return f"the layer was baked for {', '.join(pairs)}"


def _module_refusal(facts: Facts, version: str, flavour: str) -> Refusal | None:
    for name, module in (("nvidia", facts.module), ("nvidia-uvm", facts.uvm)):
        if module is None:
            return Refusal(BAKED, "module_missing", f"there is no kernel module {name} for kernel {facts.kver}")
        refusal = _one_module_refusal(facts, name, module, version, flavour if name == "nvidia" else "any")
        if refusal:
            return refusal
    return None


def _one_module_refusal(facts: Facts, name: str, module: ModuleInfo, version: str, flavour: str) -> Refusal | None:
    if module.kver != facts.kver:  # modprobe --dry-run would not say so
        return Refusal(
            BAKED,
            "vermagic_mismatch",
            f"{module.path} was compiled for {module.kver or 'an unknown kernel'}, not {facts.kver}",
        )
    if module.version != version and (module.version or name == "nvidia"):
        return Refusal(
            BAKED,
            "module_version_mismatch",
            f"{module.path} is of version {module.version or 'unknown'}, not {version}",
        )
    if flavour not in ("any", module.flavour) or (name == "nvidia" and module.flavour is None):
        return Refusal(
            BAKED,
            "module_flavour_mismatch",
            f"{module.path} has the licence {module.licence!r}, which is not that of {flavour if flavour != 'any' else 'NVIDIA'} modules",
        )
    return None


def _dkms_refusal(facts: Facts, version: str) -> Refusal | None:
    mine = [e for e in facts.dkms if e.kver == facts.kver and e.arch == facts.arch]
    if not any(e.version == version and e.state == "installed" for e in mine):
        return Refusal(BAKED, "dkms_not_registered", f"DKMS does not list nvidia/{version} as installed for kernel {facts.kver}")
    others = sorted({e.version for e in facts.dkms} - {version})
    if others:
        return Refusal(BAKED, "dkms_ambiguous", f"DKMS also has other versions of nvidia: {', '.join(others)}")
    return None


def _marker_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    """Refuses a marker that the driver container would refuse too: it reads the marker before it skips the build, and else compiles."""
    if facts.marker_problem:
        return Refusal(BAKED, "marker_invalid", facts.marker_problem, needs_removal=False)
    if facts.marker is None:
        return Refusal(
            BAKED, "marker_missing", "the marker is missing, and without it the driver container would compile", needs_removal=False
        )
    wrong = differences(facts.marker, facts.kver, policy.wanted.version, policy.wanted.kind, facts.arch)
    if wrong:
        return Refusal(BAKED, "marker_mismatch", f"the marker does not match: {'; '.join(wrong)}")
    return None


def _activation_refusal(facts: Facts, layer: Manifest) -> Refusal | None:
    bad = facts.layers_judged_bad.get(layer.layer)
    if bad is not None:
        return Refusal(BAKED, "layer_judged_bad", f"layer {layer.layer} was judged bad on this node before: {bad}")
    if facts.layer_obstacle:
        return Refusal(BAKED, "layer_unplaceable", f"layer {layer.layer} cannot be activated: {facts.layer_obstacle}")
    return None


def _removal_refusal(facts: Facts) -> Refusal | None:
    """Refuses what was baked in place after an interrupted removal: its files go in no order that the other checks could rely on."""
    if facts.active.removal_under_way:
        return Refusal(BAKED, "interrupted", "an earlier boot was interrupted while it removed the baked driver")
    return None


def _contents_refusal(facts: Facts) -> Refusal | None:
    if facts.layer_contents is None:
        return Refusal(BAKED, "contents_unverified", "the baked files were not verified")
    if facts.layer_contents:
        return Refusal(BAKED, "contents_mismatch", f"baked files are missing or changed: {first_few(facts.layer_contents)}")
    return None


def driven(facts: Facts) -> tuple[PciFunction, ...]:
    """The GPUs that the driver drives: all except those that belong to virtual machines."""
    return tuple(gpu for gpu in facts.gpus if not gpu.is_passed_through)


def listed(facts: Facts, kind: str, version: str) -> GpuList:
    """What the driver says about the GPUs that it supports: the same for each kernel, so any layer of the driver has it."""
    asked = (facts.arch, kind, version)
    same = (m.gpus for m in facts.layers if (m.identity.arch, m.identity.kind, m.identity.version) == asked)
    return next((gpus for gpus in same if gpus.is_known), UNKNOWN)


def _gpu_refusal(facts: Facts, rung: str, kind: str, flavour: str, version: str) -> Refusal | None:
    """Refuses modules that do not drive every GPU of the node (rule D16). A GPU that neither the driver's list nor our table knows accepts
    none (rule D3), except on a node that is already right: there the driver is known to work, and a mark that its list lacks would not be
    there after another install either."""
    driver = Driver(kind, version, flavour, listed(facts, kind, version), list_refuses=rung != READY)
    for gpu in driven(facts):
        where = f"GPU {gpu.address} (device {gpu.device})"
        refusal = driver.refusal(gpu.device)
        if refusal:
            return Refusal(rung, "gpu_refuses_modules", f"{where}: {refusal}")
        if refusal is None and rung != READY:
            reason = f"neither the driver's list of GPUs nor this release knows {where}, so it is unknown which modules drive it"
            return Refusal(rung, "gpu_unknown", reason)
    return None


def first_few(problems: tuple[str, ...]) -> str:
    """The first three problems, and how many more there are."""
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
