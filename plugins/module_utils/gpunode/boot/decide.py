"""The decision: facts and policy in, one plan out, with a code and the reason in words. Pure: no clock, no file, no program.

The ladder: already right → the baked layer → a full install. Each rung that is refused says why. Codes: docs/codes.md.
"""

from __future__ import annotations

from dataclasses import replace

from ..driver import gpus, modules
from ..driver.modules import NEEDED_MODULES, NOUVEAU
from ..store.manifest import Manifest
from .facts import Facts
from .ladder import driven, install_refusal, layer_refusal, nearest_layer, ready_refusal, target
from .plan import Action, Plan, Refusal, Step
from .policy import Policy

_INSTALL = "install"
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
        return _left_alone(facts, "not_managed", "the driver of this node is not managed here")
    if facts.arch is None:
        return _failure("unsupported_arch", f"architecture {facts.machine}: x86_64 and aarch64 are known, no other")
    if facts.operator:
        return _left_alone(facts, "operator_owned", f"a GPU operator owns the driver of this node ({'; '.join(facts.operator)})")
    if not facts.gpus:
        if policy.expected_gpus:
            return _gpu_missing(facts, policy)
        return _left_alone(facts, "no_gpu", "no NVIDIA GPU on the PCI bus")
    passed = [g.address for g in facts.gpus if g.driver == "vfio-pci"]
    if len(passed) == len(facts.gpus):
        return _left_alone(
            facts, "gpu_passthrough", f"every GPU is bound to vfio-pci ({', '.join(passed)}): it belongs to a virtual machine"
        )
    if facts.foreign:
        return _left_alone(facts, "foreign_driver", f"a driver that is not ours is here and stays: {'; '.join(facts.foreign)}")
    return None


def _cannot_begin(facts: Facts, policy: Policy) -> Plan | None:
    """Plans that are an error before anything is tried."""
    if facts.activation_is_newer and ready_refusal(facts, policy) is not None:
        reason = f"{facts.activation_problem}: a newer version of this program has written it, and must take away what it put in place"
        return _failure("activation_invalid", reason)
    if policy.expected_gpus and len(facts.gpus) < policy.expected_gpus:
        return _gpu_missing(facts, policy)
    for gpu in driven(facts):
        generation = gpus.of_device(gpu.device)
        if generation and not generation.supports_version(policy.wanted.version):
            refusals = "; ".join(sorted({generation.refusal(flavour, policy.wanted.version) for flavour in generation.flavours}))
            return _failure("gpu_not_supported", f"GPU {gpu.address} (device {gpu.device}): {refusals}: use another driver image")
    if not facts.containerd_ready and ready_refusal(facts, policy) is not None:
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
    refusal = ready_refusal(facts, policy)
    if refusal is None:
        return _already_right(facts)
    if refusal.code == "other_flavour":
        plan = _failure("flavour_refused", f"{refusal.reason}: this image gives no others, use one of that flavour")
        return replace(plan, refused=(refusal,))
    refused.append(refusal)
    layer = nearest_layer(facts, policy)
    refusal = layer_refusal(facts, policy, layer)
    if refusal is None:
        return _fast(facts, policy, layer, tuple(refused))
    refused.append(refusal)
    return _install(facts, policy, tuple(refused))


# --- plans -----------------------------------------------------------------------------------------------------------


def _already_right(facts: Facts) -> Plan:
    record = facts.record
    if record is None:
        raise AssertionError("already right without a record")
    missing = [name for name in NEEDED_MODULES if not (m := facts.is_loaded(name)) or m.state != "live"]
    taken = _unload(facts) if any(gpu.driver == NOUVEAU for gpu in facts.gpus) else ()
    new_boot = record.boot_id != facts.boot_id
    plan = Plan(
        Action.NONE,
        "already_initialised",
        f"{record.identity.kind} {record.identity.version} is installed on this node for kernel {facts.kver} and unchanged",
        identity=replace(record.identity, kver=facts.kver),
    )
    if missing or new_boot or taken or not facts.device_nodes:
        return replace(plan, steps=(*taken, Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES))
    return plan


_AFTER_CONTAINER = (
    Step.LOAD_MODULES,
    Step.CHECK_DRIVER,
    Step.RESTART_CONTAINERD,
    Step.WRITE_RECORD,
    Step.START_SERVICES,
)


def _fast(facts: Facts, policy: Policy, layer: Manifest | None, refused: tuple[Refusal, ...]) -> Plan:
    resident = facts.is_loaded("nvidia")
    # A layer in place that is not this one, or another machine's, is ours to take away first.
    takes_away = (bool(facts.active_layer) or facts.removal_under_way) and not (layer and facts.is_in_place(layer))
    wrong_resident = _has_nouveau(facts) or (resident and resident.version != policy.wanted.version)
    unload = _unload(facts) if wrong_resident or takes_away else ()
    activate = (Step.ACTIVATE_LAYER,) if layer and not facts.is_in_place(layer) else ()
    remove = (Step.REMOVE_DRIVER,) if takes_away else ()
    flavour = layer.identity.flavour if layer else (facts.module.flavour if facts.module else None) or ""
    wanted = policy.wanted
    return Plan(
        Action.INSTALL_SKIP_BUILD,
        "baked_layer_matches" if layer else "marker_matches",
        f"baked {wanted.kind} {wanted.version} ({flavour}) for exactly kernel {facts.kver}"
        + (", every file verified" if layer else "; its image's digest was not asked for"),
        steps=(*_pull(facts), *unload, *remove, *activate, Step.RUN_CONTAINER, *_AFTER_CONTAINER),
        refused=refused,
        identity=target(facts, policy, flavour),
        layer=layer,
        provisional=not facts.image_present,
    )


def _install(facts: Facts, policy: Policy, refused: tuple[Refusal, ...]) -> Plan:
    refusal = refused[-1]
    reason = install_refusal(facts)
    if reason:
        return replace(
            _failure("signatures_enforced", f"{refusal.reason}; {reason}: bake with a signing key that this kernel trusts"),
            refused=(*refused, Refusal(_INSTALL, "signatures_enforced", reason)),
        )
    remove = (Step.REMOVE_DRIVER,) if _must_go(facts, policy, refusal.code) else ()
    return Plan(
        Action.INSTALL,
        refusal.code,
        f"full install of {policy.wanted.kind} {policy.wanted.version}: {refusal.reason}",
        steps=(*_pull(facts), *_unload(facts), *remove, Step.RUN_CONTAINER, *_AFTER_CONTAINER),
        refused=refused,
        identity=target(facts, policy, policy.flavour if policy.flavour != "any" else ""),
        provisional=not facts.image_present,
    )


def _must_go(facts: Facts, policy: Policy, code: str) -> bool:
    """Whether a driver of ours is here that is not the wanted one: it must be out before another comes in (I1)."""
    if facts.removal_under_way:
        return True
    if facts.active_layer or facts.activation_problem:
        return True  # whatever is against it: a container that installs over hard links would write into the store's objects
    wanted = (policy.wanted.kind, policy.wanted.version)
    in_place = [m for m in facts.layers if facts.is_in_place(m)]
    mine = [(m.identity.kind, m.identity.version) for m in in_place]
    if facts.record:
        mine.append((facts.record.identity.kind, facts.record.identity.version))
    if facts.marker and facts.marker.kind and facts.marker.version:
        mine.append((facts.marker.kind, facts.marker.version))
    if any(found != wanted for found in mine) or any(e.version != policy.wanted.version for e in facts.dkms):
        return True
    return bool(in_place or facts.record) and code not in _NOTHING_TO_REMOVE


def _pull(facts: Facts) -> tuple[Step, ...]:
    return () if facts.image_present else (Step.PULL_IMAGE,)


def _has_nouveau(facts: Facts) -> bool:
    """Whether nouveau is in the kernel, as a module or, with a GPU, for good."""
    return bool(facts.is_loaded(NOUVEAU)) or any(gpu.driver == NOUVEAU for gpu in facts.gpus)


def _unload(facts: Facts) -> tuple[Step, ...]:
    return (Step.UNLOAD_MODULES,) if facts.loaded or _has_nouveau(facts) else ()


def _left_alone(facts: Facts, code: str, reason: str) -> Plan:
    """Nothing is done; but a layer that was put in place here does not stay on a node where it does not belong (R1)."""
    in_place = ", ".join(dict.fromkeys(filter(None, (facts.active_layer, *facts.unrecorded_layers))))
    if facts.activation_is_newer or not (in_place or facts.removal_under_way):
        return Plan(Action.NONE, code, reason)
    unload = (Step.UNLOAD_MODULES,) if modules.takeable(facts.loaded, facts.leaving_versions, bool(facts.operator or facts.foreign)) else ()
    steps = (*unload, Step.REMOVE_DRIVER)
    what = f"layer {in_place}, which is in place here, is taken away" if in_place else "a removal that was interrupted is ended"
    return Plan(Action.NONE, code, f"{reason}; {what}", steps=steps)


def _failure(code: str, reason: str) -> Plan:
    return Plan(Action.NONE, code, reason, fails=True)


def _warnings(facts: Facts, plan: Plan) -> tuple[str, ...]:
    found = []
    if facts.activation_problem:
        found.append(f"{facts.activation_problem}; the baked layers are not used until it is gone")
    if plan.action is not Action.NONE and not facts.imports_dropins:
        found.append(
            'containerd\'s config.toml does not import config.d: the "nvidia" runtime will not be in force. '
            'Add imports = ["/etc/containerd/config.d/*.toml"] to it in the image build'
        )
    version = plan.identity.version if plan.identity else ""
    others = [f"{name} {its}" for name, its in facts.service_packages if its != version]
    if plan.action is not Action.NONE and others:
        found.append(
            f"packages of another driver's version than {version} are installed, and serve this one only if it brings its own: "
            f"{', '.join(others)}"
        )
    mine = facts.layers_modules
    if plan.action is Action.NONE and Step.REMOVE_DRIVER in plan.steps and Step.UNLOAD_MODULES not in plan.steps and mine:
        found.append(
            f"modules of {', '.join(facts.leaving_versions)} are in use and left in the kernel ({', '.join(m.name for m in mine)}): "
            "they may be the layer's or the other owner's; if they are not that owner's, reboot"
        )
    passed = [g.address for g in facts.gpus if g.driver == "vfio-pci"]
    if plan.steps and passed:
        found.append(f"GPUs bound to vfio-pci are left alone: {', '.join(passed)}")
    return tuple(found)
