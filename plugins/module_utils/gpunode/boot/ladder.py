"""The rungs of the ladder that need no compile: why a node is not right as it is, and why what was baked is not used. Pure.

Each function gives a Refusal with its code (docs/codes.md), or None where there is nothing against it.
"""

from __future__ import annotations

from dataclasses import replace

from ..container.marker import differences
from ..driver import gpus
from ..driver.modules import ModuleInfo
from ..store.manifest import Identity, Manifest
from ..store.node_record import Record
from ..system.pci import PciFunction
from .facts import Facts
from .plan import Action, Refusal
from .policy import Policy

READY, BAKED = "already-right", "baked-layer"
# Which difference names the plan when there are several: the one that explains the others comes first.
DIFFERENCE_CODES = {
    "arch": "arch_mismatch",
    "kind": "kind_mismatch",
    "version": "version_mismatch",
    "flavour": "flavour_mismatch",
    "kver": "kernel_mismatch",
    "config_digest": "digest_mismatch",
}


def ready_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    """Why the node is not ready as it is; None when it is: a loaded module alone proves nothing (D17)."""
    record = facts.record
    if facts.removal_under_way:
        return Refusal(READY, "interrupted", "a boot was taking the driver away, and was interrupted")
    if facts.record_problem:
        return Refusal(READY, "record_invalid", facts.record_problem)
    if record is None:
        return Refusal(READY, "never_initialised", "this node has no record of an installation")
    return _record_refusal(facts, policy, record) or _state_refusal(facts, policy, record)


def _record_refusal(facts: Facts, policy: Policy, record: Record) -> Refusal | None:
    """Against the record: of another machine, of a run that did not end, of another driver or image."""
    if not facts.machine_id or record.machine_id != facts.machine_id:
        return Refusal(READY, "other_machine", "the record is another machine's: the disk was copied from a used node")
    if record.state != "initialised":
        return Refusal(READY, "interrupted", "the last run was interrupted: its record says started")
    wanted = policy.wanted
    found = record.identity
    if (found.kind, found.version, found.arch) != (wanted.kind, wanted.version, facts.arch):
        return Refusal(
            READY,
            "other_driver",
            f"installed is {found.kind} {found.version} for {found.arch}, wanted {wanted.kind} {wanted.version} for {facts.arch}",
        )
    # An image that was collected since is not pulled again just to learn its digest: later boots use no network.
    # A digest that is not known is equal to nothing, not even to another such: then the name decides.
    digests = {found.config_digest, facts.config_digest}
    same_image = len(digests) == 1 if facts.image_present and "" not in digests else record.image == wanted.image.text
    if not same_image:
        return Refusal(READY, "other_image", f"installed from another image than {wanted.image.text} is now")
    return None


def _state_refusal(facts: Facts, policy: Policy, record: Record) -> Refusal | None:
    """Against the driver as it is now, where the record is of the right one."""
    wanted, found = policy.wanted, record.identity
    if policy.flavour not in ("any", found.flavour):
        return Refusal(READY, "other_flavour", f"the installed modules are {found.flavour}, the policy asks for {policy.flavour}")
    if facts.kver not in record.modules:
        return Refusal(
            READY,
            "kernel_changed",
            f"kernel {facts.kver} runs, the driver is ready for {', '.join(record.ready_kernels()) or 'none'}",
        )
    if facts.record_contents is None:
        return Refusal(READY, "contents_unverified", "the installed files were not looked at")
    if facts.record_contents:
        return Refusal(READY, "contents_changed", f"installed files have changed: {some(facts.record_contents)}")
    resident = facts.is_loaded("nvidia")
    if resident and resident.version != wanted.version:
        return Refusal(READY, "other_version_loaded", f"the kernel holds nvidia {resident.version}, wanted is {wanted.version}")
    return _gpu_refusal(facts, READY, record.identity.flavour, record.identity.version) or _installed_signature_refusal(facts, record)


def _installed_signature_refusal(facts: Facts, record: Record) -> Refusal | None:
    """Against modules that are to be loaded again where signatures are enforced now, as after Secure Boot was turned on."""
    if not facts.signatures_enforced or facts.is_loaded("nvidia"):
        return None
    identity = replace(record.identity, kver=facts.kver)
    layer = next((m for m in facts.layers if m.identity == identity), None)
    if layer and not record.built_here:
        return _signature_refusal(facts, READY, layer)
    reason = install_refusal(facts)
    return Refusal(READY, "module_untrusted", f"the modules were compiled on this node: {reason}") if reason else None


# --- signatures ------------------------------------------------------------------------------------------------------


def _signature_refusal(facts: Facts, rung: str, layer: Manifest | None) -> Refusal | None:
    """Against modules that this kernel would not take. Who signed them stands in the manifest; unknown is a mismatch (D3)."""
    if not facts.signatures_enforced:
        return None
    signer = layer.signer if layer else None
    if signer is None:
        by = next((m.signer for m in (facts.module, facts.uvm) if m and m.signer), "")
        if not by:
            return Refusal(rung, "module_unsigned", "the modules are not signed, and this kernel enforces signatures")
        reason = (
            f"the modules are signed by {by}, not by a bake: whether this kernel, which enforces signatures, trusts that key is unknown"
        )
        return Refusal(rung, "module_untrusted", reason)
    if facts.trusted_keys is None:
        reason = f"this kernel enforces signatures, and its keyrings cannot be read: whether it trusts {signer.name} is unknown"
        return Refusal(rung, "trust_unknown", reason)
    if signer.key_id not in facts.trusted_keys:
        return Refusal(
            rung,
            "module_untrusted",
            f"the modules are signed by {signer.name} (key {signer.key_id}), which this kernel does not trust, and it enforces signatures",
        )
    return None


def install_refusal(facts: Facts) -> str | None:
    """Why this kernel would not take what a full install compiles here; None where it would."""
    if not facts.signatures_enforced:
        return None
    what = "this kernel enforces module signatures, and a module compiled here would be signed"
    if not facts.install_signer:
        return f"{what} with no key that it trusts"
    if facts.install_signer not in (facts.trusted_keys or ()):
        return f"{what} with DKMS's own key {facts.install_signer}, which it is not known to trust"
    return None


# --- the baked layer -------------------------------------------------------------------------------------------------


def target(facts: Facts, policy: Policy, flavour: str) -> Identity:
    return Identity(facts.kver, facts.arch or "", policy.wanted.kind, policy.wanted.version, flavour, facts.config_digest)


def _differences(facts: Facts, policy: Policy, layer: Manifest) -> tuple[str, ...]:
    flavour = layer.identity.flavour if policy.flavour == "any" else policy.flavour
    differing = layer.identity.differences(target(facts, policy, flavour))
    if not facts.image_present or not policy.require_digest:  # not known yet, or not asked for; a known other one still differs
        known = bool(facts.config_digest)
        differing = tuple(d for d in differing if d != "config_digest" or known)
    return tuple(sorted(differing, key=list(DIFFERENCE_CODES).index))


def nearest_layer(facts: Facts, policy: Policy) -> Manifest | None:
    """The layer with the fewest differences: its refusal explains the most."""
    return min(facts.layers, key=lambda m: len(_differences(facts, policy, m)), default=None)


def layer_refusal(facts: Facts, policy: Policy, layer: Manifest | None) -> Refusal | None:
    if facts.activation_problem:
        return Refusal(
            BAKED,
            "activation_invalid",
            f"what was put in place here is not known ({facts.activation_problem}): what the layers' manifests account for is taken away, "
            "and the damaged document set aside; look at it to find out who damaged it",
        )
    if layer is None:
        return _no_layer_refusal(facts, policy) or _removal_refusal(facts)
    differing = _differences(facts, policy, layer)
    if differing:
        return Refusal(BAKED, _difference_code(facts, differing), _difference_text(facts, policy, layer, differing))
    if Action.INSTALL_SKIP_BUILD.value not in layer.actions:
        return Refusal(BAKED, "action_unknown", f"the image {layer.image} does not know install-skip-build")
    # An inert layer carries DKMS's tree and the marker: they were asserted at bake, and come with it.
    registered = _removal_refusal(facts) or _dkms_refusal(facts, layer.identity.version) or _marker_refusal(facts, policy)
    return (
        _module_refusal(facts, layer.identity.version, layer.identity.flavour)
        or _signature_refusal(facts, BAKED, layer)
        or (registered if facts.is_in_place(layer) else _placing_refusal(facts, layer))
        or _contents_refusal(facts)
        or _gpu_refusal(facts, BAKED, layer.identity.flavour, layer.identity.version)
    )


def _no_layer_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    if facts.layer_problems:
        return Refusal(BAKED, "manifest_invalid", f"what was baked cannot be used: {some(facts.layer_problems)}")
    if facts.marker_problem:
        return Refusal(BAKED, "marker_invalid", facts.marker_problem)
    if facts.marker is None:
        return Refusal(BAKED, "never_baked", "nothing was baked into this image: no manifest and no marker")
    if policy.require_digest:
        return Refusal(
            BAKED,
            "no_manifest",
            "a driver container's marker is here, but no manifest of ours: from which image it was built is unknown (require_digest)",
        )
    refusal = _marker_refusal(facts, policy)
    if refusal:
        return refusal
    flavour = facts.module.flavour if facts.module else None
    return (
        _module_refusal(facts, policy.wanted.version, policy.flavour)
        or _signature_refusal(facts, BAKED, None)
        or _dkms_refusal(facts, policy.wanted.version)
        or _gpu_refusal(facts, BAKED, flavour or "", policy.wanted.version)
    )


def _difference_code(facts: Facts, differing: tuple[str, ...]) -> str:
    if differing == ("config_digest",) and not facts.config_digest:
        return "digest_unknown"
    return DIFFERENCE_CODES[differing[0]]


def _difference_text(facts: Facts, policy: Policy, layer: Manifest, differing: tuple[str, ...]) -> str:
    here = target(facts, policy, policy.flavour)
    pairs = [f"{name} {getattr(layer.identity, name) or 'unknown'}, here {getattr(here, name) or 'unknown'}" for name in differing]
    return f"baked for {'; '.join(pairs)}"


def _module_refusal(facts: Facts, version: str, flavour: str) -> Refusal | None:
    for name, module in (("nvidia", facts.module), ("nvidia-uvm", facts.uvm)):
        if module is None:
            return Refusal(BAKED, "module_missing", f"there is no module {name} for kernel {facts.kver}")
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
            f"{module.path} has the licence {module.licence!r}, not that of {flavour if flavour != 'any' else 'NVIDIA'} modules",
        )
    return None


def _dkms_refusal(facts: Facts, version: str) -> Refusal | None:
    mine = [e for e in facts.dkms if e.kver == facts.kver and e.arch == facts.arch]
    if not any(e.version == version and e.state == "installed" for e in mine):
        return Refusal(BAKED, "dkms_not_registered", f"DKMS has no installed nvidia/{version} for kernel {facts.kver}")
    others = sorted({e.version for e in facts.dkms} - {version})
    if others:
        return Refusal(BAKED, "dkms_ambiguous", f"DKMS holds other versions of nvidia too: {', '.join(others)}")
    return None


def _marker_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    """The container looks at the marker itself before it skips: what it would refuse is not sent to it."""
    if facts.marker_problem:
        return Refusal(BAKED, "marker_invalid", facts.marker_problem)
    if facts.marker is None:
        return Refusal(BAKED, "marker_missing", "the driver container's marker is gone, without which it would compile")
    wrong = differences(facts.marker, facts.kver, policy.wanted.version, policy.wanted.kind, facts.arch)
    if wrong:
        return Refusal(BAKED, "marker_mismatch", f"the driver container's marker says otherwise: {'; '.join(wrong)}")
    return None


def _placing_refusal(facts: Facts, layer: Manifest) -> Refusal | None:
    bad = facts.layers_judged_bad.get(layer.layer)
    if bad is not None:
        return Refusal(BAKED, "layer_judged_bad", f"layer {layer.layer} was put in place on this node before, and did not work: {bad}")
    if facts.layer_obstacle:
        return Refusal(BAKED, "layer_unplaceable", f"layer {layer.layer} cannot be put in place: {facts.layer_obstacle}")
    return None


def _removal_refusal(facts: Facts) -> Refusal | None:
    """Against what was baked in place: a removal has no order that the checks of it know."""
    if facts.removal_under_way:
        return Refusal(BAKED, "interrupted", "a boot was taking away what was baked, and was interrupted")
    return None


def _contents_refusal(facts: Facts) -> Refusal | None:
    if facts.layer_contents is None:
        return Refusal(BAKED, "contents_unverified", "the baked files were not looked at")
    if facts.layer_contents:
        return Refusal(BAKED, "contents_mismatch", f"baked files are not as they were: {some(facts.layer_contents)}")
    return None


def driven(facts: Facts) -> tuple[PciFunction, ...]:
    """The GPUs that the driver is for: those given to virtual machines are none of its."""
    return tuple(gpu for gpu in facts.gpus if gpu.driver != "vfio-pci")


def _gpu_refusal(facts: Facts, rung: str, flavour: str, version: str) -> Refusal | None:
    """All GPUs of the node must accept the modules (D16). One that is not known accepts none (D3), but is not asked again where the
    driver has been seen to work."""
    for gpu in driven(facts):
        where = f"GPU {gpu.address} (device {gpu.device})"
        generation = gpus.of_device(gpu.device)
        if generation is None and rung != READY:
            return Refusal(rung, "gpu_unknown", f"{where} is of no generation that is known here: which modules drive it cannot be told")
        refusal = generation.refusal(flavour, version) if generation else ""
        if refusal:
            return Refusal(rung, "gpu_refuses_modules", f"{where}: {refusal}")
    return None


def some(problems: tuple[str, ...]) -> str:
    """The first of many problems, and how many more there are."""
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
