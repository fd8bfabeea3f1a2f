"""The decision: facts and policy in, one plan out, with a code and the reason in words. Pure: no clock, no file, no program.

The ladder: already right → the baked layer → a full install. Each rung that is refused says why. Codes: docs/codes.md.
"""

from __future__ import annotations

from dataclasses import replace

from .kmod import NEEDED_MODULES, ModuleInfo
from .manifest import Identity, Manifest
from .marker import Marker
from .model import Action, Facts, Plan, Policy, Refusal, Step

_READY, _BAKED, _INSTALL = "already-right", "baked-layer", "install"
# Which difference names the plan when there are several: the one that explains the others comes first.
_DIFFERENCE_CODES = {
    "arch": "arch_mismatch",
    "kind": "kind_mismatch",
    "version": "version_mismatch",
    "flavour": "flavour_mismatch",
    "kver": "kernel_mismatch",
    "config_digest": "digest_mismatch",
}
# After these the driver that is here is the right one for another kernel, or none: nothing has to go before an install.
_NOTHING_TO_REMOVE = (
    "never_baked",
    "kernel_mismatch",
    "no_manifest",
    "digest_unknown",
    "action_unknown",
    "marker_missing",
    "marker_invalid",
)


def decide(facts: Facts, policy: Policy) -> Plan:
    """The one plan for these facts under this policy; total: every combination has one."""
    plan = _no_driver_belongs_here(facts, policy) or _cannot_begin(facts, policy) or _climb(facts, policy)
    return replace(plan, warnings=_warnings(facts, plan))


def _no_driver_belongs_here(facts: Facts, policy: Policy) -> Plan | None:
    """Plans that leave the node as it is."""
    if not policy.managed:
        return _nothing("not_managed", "the driver of this node is not managed here")
    if facts.arch is None:
        return _failure("unsupported_arch", f"architecture {facts.machine}: x86_64 and aarch64 are known, no other")
    if facts.operator:
        return _nothing("operator_owned", f"a GPU operator owns the driver of this node ({'; '.join(facts.operator)})")
    if not facts.gpus:
        if policy.expected_gpus:
            return _gpu_missing(facts, policy)
        return _nothing("no_gpu", "no NVIDIA GPU on the PCI bus")
    passed = [g.address for g in facts.gpus if g.driver == "vfio-pci"]
    if len(passed) == len(facts.gpus):
        return _nothing("gpu_passthrough", f"every GPU is bound to vfio-pci ({', '.join(passed)}): it belongs to a virtual machine")
    if facts.foreign:
        return _nothing("foreign_driver", f"a driver that is not ours is here and stays: {'; '.join(facts.foreign)}")
    return None


def _cannot_begin(facts: Facts, policy: Policy) -> Plan | None:
    """Plans that are an error before anything is tried."""
    if policy.expected_gpus and len(facts.gpus) < policy.expected_gpus:
        return _gpu_missing(facts, policy)
    if not facts.containerd_ready and _ready(facts, policy) is not None:
        return _failure(
            "containerd_unavailable",
            "containerd does not answer, and the driver container needs it: systemctl status containerd",
        )
    return None


def _gpu_missing(facts: Facts, policy: Policy) -> Plan:
    return _failure(
        "gpu_missing",
        f"{policy.expected_gpus} GPUs are expected, {len(facts.gpus)} are on the PCI bus: look at the hardware, not at the driver",
    )


def _climb(facts: Facts, policy: Policy) -> Plan:
    refused: list[Refusal] = []
    refusal = _ready(facts, policy)
    if refusal is None:
        return _already_right(facts)
    if refusal.code == "other_flavour":
        plan = _failure("flavour_refused", f"{refusal.reason}: this image gives no others, use one of that flavour")
        return replace(plan, refused=(refusal,))
    refused.append(refusal)
    layer = _nearest_layer(facts, policy)
    refusal = _layer_refusal(facts, policy, layer)
    if refusal is None:
        return _fast(facts, policy, layer, tuple(refused))
    refused.append(refusal)
    return _install(facts, policy, tuple(refused))


# --- already right ---------------------------------------------------------------------------------------------------


def _ready(facts: Facts, policy: Policy) -> Refusal | None:
    """Why the node is not ready as it is; None when it is: a loaded module alone proves nothing (D17)."""
    record = facts.record
    if facts.record_problem:
        return Refusal(_READY, "record_invalid", facts.record_problem)
    if record is None:
        return Refusal(_READY, "never_initialised", "this node has no record of an installation")
    if not facts.machine_id or record.machine_id != facts.machine_id:
        return Refusal(_READY, "other_machine", "the record is another machine's: the disk was copied from a used node")
    if record.state != "initialised":
        return Refusal(_READY, "interrupted", "the last run was interrupted: its record says started")
    wanted = policy.wanted
    found = record.identity
    if (found.kind, found.version, found.arch) != (wanted.kind, wanted.version, facts.arch):
        return Refusal(
            _READY,
            "other_driver",
            f"installed is {found.kind} {found.version} for {found.arch}, wanted {wanted.kind} {wanted.version} for {facts.arch}",
        )
    # An image that was collected since is not pulled again just to learn its digest: later boots use no network.
    # A digest that is not known is equal to nothing, not even to another such: then the name decides.
    digests = {found.config_digest, facts.config_digest}
    same_image = len(digests) == 1 if facts.image_present and "" not in digests else record.image == wanted.image.text
    if not same_image:
        return Refusal(_READY, "other_image", f"installed from another image than {wanted.image.text} is now")
    if policy.flavour not in ("any", found.flavour):
        return Refusal(_READY, "other_flavour", f"the installed modules are {found.flavour}, the policy asks for {policy.flavour}")
    if facts.kver not in record.modules:
        return Refusal(
            _READY,
            "kernel_changed",
            f"kernel {facts.kver} runs, the driver is ready for {', '.join(record.ready_kernels()) or 'none'}",
        )
    if facts.record_contents is None:
        return Refusal(_READY, "contents_unverified", "the installed files were not looked at")
    if facts.record_contents:
        return Refusal(_READY, "contents_changed", f"installed files have changed: {_some(facts.record_contents)}")
    resident = facts.is_loaded("nvidia")
    if resident and resident.version != wanted.version:
        return Refusal(_READY, "other_version_loaded", f"the kernel holds nvidia {resident.version}, wanted is {wanted.version}")
    return None


def _already_right(facts: Facts) -> Plan:
    record = facts.record
    assert record is not None
    missing = [name for name in NEEDED_MODULES if not (m := facts.is_loaded(name)) or m.state != "live"]
    new_boot = record.boot_id != facts.boot_id
    plan = Plan(
        Action.NONE,
        "already_initialised",
        f"{record.identity.kind} {record.identity.version} is installed on this node for kernel {facts.kver} and unchanged",
        identity=replace(record.identity, kver=facts.kver),
    )
    if missing or new_boot or not facts.device_nodes:
        return replace(plan, steps=(Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES))
    return plan


# --- the baked layer -------------------------------------------------------------------------------------------------


def _target(facts: Facts, policy: Policy, flavour: str) -> Identity:
    return Identity(facts.kver, facts.arch or "", policy.wanted.kind, policy.wanted.version, flavour, facts.config_digest)


def _differences(facts: Facts, policy: Policy, layer: Manifest) -> tuple[str, ...]:
    flavour = layer.identity.flavour if policy.flavour == "any" else policy.flavour
    differing = layer.identity.differences(_target(facts, policy, flavour))
    if not facts.image_present or not policy.require_digest:  # not known yet, or not asked for; a known other one still differs
        known = bool(facts.config_digest)
        differing = tuple(d for d in differing if d != "config_digest" or known)
    return tuple(sorted(differing, key=list(_DIFFERENCE_CODES).index))


def _nearest_layer(facts: Facts, policy: Policy) -> Manifest | None:
    """The layer with the fewest differences: its refusal explains the most."""
    return min(facts.layers, key=lambda m: len(_differences(facts, policy, m)), default=None)


def _layer_refusal(facts: Facts, policy: Policy, layer: Manifest | None) -> Refusal | None:
    if layer is None:
        return _no_layer_refusal(facts, policy)
    differing = _differences(facts, policy, layer)
    if differing:
        return Refusal(_BAKED, _difference_code(facts, differing), _difference_text(facts, policy, layer, differing))
    if Action.INSTALL_SKIP_BUILD.value not in layer.actions:
        return Refusal(_BAKED, "action_unknown", f"the image {layer.image} does not know install-skip-build")
    return (
        _module_refusal(facts, layer.identity.version, layer.identity.flavour)
        or _dkms_refusal(facts, layer.identity.version)
        or _marker_refusal(facts, policy)
        or _contents_refusal(facts)
    )


def _no_layer_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    if facts.layer_problems:
        return Refusal(_BAKED, "manifest_invalid", f"what was baked cannot be used: {_some(facts.layer_problems)}")
    if facts.marker_problem:
        return Refusal(_BAKED, "marker_invalid", facts.marker_problem)
    if facts.marker is None:
        return Refusal(_BAKED, "never_baked", "nothing was baked into this image: no manifest and no marker")
    if policy.require_digest:
        return Refusal(
            _BAKED,
            "no_manifest",
            "a driver container's marker is here, but no manifest of ours: from which image it was built is unknown (require_digest)",
        )
    refusal = _marker_refusal(facts, policy)
    if refusal:
        return refusal
    return _module_refusal(facts, policy.wanted.version, policy.flavour) or _dkms_refusal(facts, policy.wanted.version)


def _difference_code(facts: Facts, differing: tuple[str, ...]) -> str:
    if differing == ("config_digest",) and not facts.config_digest:
        return "digest_unknown"
    return _DIFFERENCE_CODES[differing[0]]


def _difference_text(facts: Facts, policy: Policy, layer: Manifest, differing: tuple[str, ...]) -> str:
    target = _target(facts, policy, policy.flavour)
    pairs = [f"{name} {getattr(layer.identity, name) or 'unknown'}, here {getattr(target, name) or 'unknown'}" for name in differing]
    return f"baked for {'; '.join(pairs)}"


def _module_refusal(facts: Facts, version: str, flavour: str) -> Refusal | None:
    for name, module in (("nvidia", facts.module), ("nvidia-uvm", facts.uvm)):
        if module is None:
            return Refusal(_BAKED, "module_missing", f"there is no module {name} for kernel {facts.kver}")
        refusal = _one_module_refusal(facts, name, module, version, flavour if name == "nvidia" else "any")
        if refusal:
            return refusal
    return None


def _one_module_refusal(facts: Facts, name: str, module: ModuleInfo, version: str, flavour: str) -> Refusal | None:
    if module.kver != facts.kver:  # modprobe --dry-run would not say so
        return Refusal(
            _BAKED,
            "vermagic_mismatch",
            f"{module.path} was compiled for {module.kver or 'an unknown kernel'}, not {facts.kver}",
        )
    if module.version != version and (module.version or name == "nvidia"):
        return Refusal(
            _BAKED,
            "module_version_mismatch",
            f"{module.path} is of version {module.version or 'unknown'}, not {version}",
        )
    if flavour not in ("any", module.flavour) or (name == "nvidia" and module.flavour is None):
        return Refusal(
            _BAKED,
            "module_flavour_mismatch",
            f"{module.path} has the licence {module.licence!r}, not that of {flavour if flavour != 'any' else 'NVIDIA'} modules",
        )
    if facts.signatures_enforced and not module.signer:
        return Refusal(_BAKED, "module_unsigned", f"{module.path} is not signed, and this kernel enforces signatures")
    return None


def _dkms_refusal(facts: Facts, version: str) -> Refusal | None:
    mine = [e for e in facts.dkms if e.kver == facts.kver and e.arch == facts.arch]
    if not any(e.version == version and e.state == "installed" for e in mine):
        return Refusal(_BAKED, "dkms_not_registered", f"DKMS has no installed nvidia/{version} for kernel {facts.kver}")
    others = sorted({e.version for e in facts.dkms} - {version})
    if others:
        return Refusal(_BAKED, "dkms_ambiguous", f"DKMS holds other versions of nvidia too: {', '.join(others)}")
    return None


def _marker_refusal(facts: Facts, policy: Policy) -> Refusal | None:
    """The container looks at the marker itself before it skips: what it would refuse is not sent to it."""
    if facts.marker_problem:
        return Refusal(_BAKED, "marker_invalid", facts.marker_problem)
    if facts.marker is None:
        return Refusal(_BAKED, "marker_missing", "the driver container's marker is gone, without which it would compile")
    wrong = marker_differences(facts.marker, facts.kver, policy.wanted.version, policy.wanted.kind, facts.arch)
    if wrong:
        return Refusal(_BAKED, "marker_mismatch", f"the driver container's marker says otherwise: {'; '.join(wrong)}")
    return None


def marker_differences(marker: Marker, kver: str, version: str, kind: str, arch: str | None) -> tuple[str, ...]:
    """Fields of a marker that are not what is asked for, in words; one that it leaves out is unknown, thus differs (D3)."""
    pairs = (
        ("kernel", marker.kernel, kver),
        ("driver_version", marker.version, version),
        ("driver_kind", marker.kind, kind),
        ("arch", marker.arch, arch),
    )
    return tuple(f"{name}={found or 'unknown'}, wanted {asked or 'unknown'}" for name, found, asked in pairs if not found or found != asked)


def _contents_refusal(facts: Facts) -> Refusal | None:
    if facts.layer_contents is None:
        return Refusal(_BAKED, "contents_unverified", "the baked files were not looked at")
    if facts.layer_contents:
        return Refusal(_BAKED, "contents_mismatch", f"baked files are not as they were: {_some(facts.layer_contents)}")
    return None


# --- plans -----------------------------------------------------------------------------------------------------------

_AFTER_CONTAINER = (
    Step.LOAD_MODULES,
    Step.CHECK_DRIVER,
    Step.RESTART_CONTAINERD,
    Step.WRITE_RECORD,
    Step.START_SERVICES,
)


def _fast(facts: Facts, policy: Policy, layer: Manifest | None, refused: tuple[Refusal, ...]) -> Plan:
    resident = facts.is_loaded("nvidia")
    unload = _unload(facts) if facts.is_loaded("nouveau") or (resident and resident.version != policy.wanted.version) else ()
    flavour = layer.identity.flavour if layer else (facts.module.flavour if facts.module else None) or ""
    wanted = policy.wanted
    return Plan(
        Action.INSTALL_SKIP_BUILD,
        "baked_layer_matches" if layer else "marker_matches",
        f"baked {wanted.kind} {wanted.version} ({flavour}) for exactly kernel {facts.kver}"
        + (", every file verified" if layer else "; its image's digest was not asked for"),
        steps=(*_pull(facts), *unload, Step.RUN_CONTAINER, *_AFTER_CONTAINER),
        refused=refused,
        identity=_target(facts, policy, flavour),
        layer=layer,
        provisional=not facts.image_present,
    )


def _install(facts: Facts, policy: Policy, refused: tuple[Refusal, ...]) -> Plan:
    refusal = refused[-1]
    if facts.signatures_enforced:
        reason = "this kernel enforces module signatures, and a module compiled here would be signed with no key that it trusts"
        return replace(
            _failure("signatures_enforced", f"{refusal.reason}; {reason}: bake with a signing key"),
            refused=(*refused, Refusal(_INSTALL, "signatures_enforced", reason)),
        )
    remove = (Step.REMOVE_DRIVER,) if _must_go(facts, policy, refusal.code) else ()
    return Plan(
        Action.INSTALL,
        refusal.code,
        f"full install of {policy.wanted.kind} {policy.wanted.version}: {refusal.reason}",
        steps=(*_pull(facts), *_unload(facts), *remove, Step.RUN_CONTAINER, *_AFTER_CONTAINER),
        refused=refused,
        identity=_target(facts, policy, policy.flavour if policy.flavour != "any" else ""),
        provisional=not facts.image_present,
    )


def _must_go(facts: Facts, policy: Policy, code: str) -> bool:
    """Whether a driver of ours is here that is not the wanted one: it must be out before another comes in (I1)."""
    wanted = (policy.wanted.kind, policy.wanted.version)
    mine = [(m.identity.kind, m.identity.version) for m in facts.layers]
    if facts.record:
        mine.append((facts.record.identity.kind, facts.record.identity.version))
    if facts.marker and facts.marker.kind and facts.marker.version:
        mine.append((facts.marker.kind, facts.marker.version))
    if any(found != wanted for found in mine) or any(e.version != policy.wanted.version for e in facts.dkms):
        return True
    return bool(facts.layers or facts.record) and code not in _NOTHING_TO_REMOVE


def _pull(facts: Facts) -> tuple[Step, ...]:
    return () if facts.image_present else (Step.PULL_IMAGE,)


def _unload(facts: Facts) -> tuple[Step, ...]:
    return (Step.UNLOAD_MODULES,) if facts.loaded else ()


def _nothing(code: str, reason: str) -> Plan:
    return Plan(Action.NONE, code, reason)


def _failure(code: str, reason: str) -> Plan:
    return Plan(Action.NONE, code, reason, fails=True)


def _warnings(facts: Facts, plan: Plan) -> tuple[str, ...]:
    found = []
    if plan.action is not Action.NONE and not facts.imports_dropins:
        found.append(
            'containerd\'s config.toml does not import config.d: the "nvidia" runtime will not be in force. '
            'Add imports = ["/etc/containerd/config.d/*.toml"] to it in the image build'
        )
    passed = [g.address for g in facts.gpus if g.driver == "vfio-pci"]
    if plan.steps and passed:
        found.append(f"GPUs bound to vfio-pci are left alone: {', '.join(passed)}")
    return tuple(found)


def _some(problems: tuple[str, ...]) -> str:
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
