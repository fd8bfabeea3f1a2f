"""The decision: takes facts and policy, returns one plan with a reason code and the reason as a sentence. Pure: no clock, file or program.

The rungs of the ladder: already right, baked layer, full install. Each rung that is not taken is refused with a code and a reason
(docs/codes.md).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..container.containerd_config import why_no_runtime
from ..driver import modules
from ..driver.gpu_list import Driver
from ..driver.modules import KERNELS_OWN, NEEDED_MODULES
from ..store.manifest import Manifest
from ..system.pci import PciFunction
from .facts import Facts
from .ladder import driven, install_refusal, layer_refusal, listed, nearest_layer, ready_refusal, target
from .plan import Action, Plan, Refusal, Step
from .policy import Policy

_INSTALL = "install"


def decide(facts: Facts, policy: Policy) -> Plan:
    """Returns the plan for these facts under this policy. Every combination of facts and policy has exactly one."""
    plan = _no_driver_belongs_here(facts, policy) or _cannot_begin(facts, policy) or _take_rung(facts, policy)
    return replace(plan, warnings=(*plan.warnings, *_warnings(facts, plan)))


def _no_driver_belongs_here(facts: Facts, policy: Policy) -> Plan | None:
    """The plan for a node where no driver of ours belongs; None where one belongs."""
    if not policy.managed:
        return _left_alone(facts, "not_managed", "the policy does not manage the driver of this node (gpu_boot_managed is false)")
    if facts.arch is None:
        return _failure("unsupported_arch", f"the architecture {facts.machine} is not supported; only x86_64 and aarch64 are")
    if facts.operator:
        return _left_alone(facts, "operator_owned", f"a GPU operator owns the driver of this node ({'; '.join(facts.operator)})")
    if facts.unreadable:
        return _failure(
            "unreadable",
            f"{facts.unreadable}, so what is here is unknown, and nothing was changed: look at its filesystem and at dmesg",
        )
    if not facts.gpus:
        if policy.expected_gpus:
            return _gpu_missing(facts, policy)
        return _left_alone(facts, "no_gpu", "no NVIDIA GPU is on the PCI bus")
    passed = facts.passed_through
    if len(passed) == len(facts.gpus):
        return _left_alone(facts, "gpu_passthrough", f"every GPU is bound to {_drivers_of(passed)} and so belongs to a virtual machine")
    if facts.foreign:
        return _left_alone(facts, "foreign_driver", f"a foreign driver is here and is not removed ({'; '.join(facts.foreign)})")
    return None


def _cannot_begin(facts: Facts, policy: Policy) -> Plan | None:
    """The plan that is an error before anything is tried; None where the ladder can be tried."""
    if facts.active.is_newer and ready_refusal(facts, policy) is not None:
        reason = f"{facts.active.problem}: a newer version of this program wrote it; deactivate the layer with that version"
        return _failure("activation_invalid", reason)
    if policy.expected_gpus and len(facts.gpus) < policy.expected_gpus:
        return _gpu_missing(facts, policy)
    wanted = policy.wanted
    driver = Driver(wanted.kind, wanted.version, listed=listed(facts, wanted.kind, wanted.version))
    for gpu in driven(facts):
        reason = driver.unsupported(gpu.device)
        if reason:
            return _failure("gpu_not_supported", f"GPU {gpu.address} (device {gpu.device}) needs another driver image: {reason}")
    if not facts.containerd_ready and ready_refusal(facts, policy) is not None:
        return _failure(
            "containerd_unavailable",
            "containerd does not answer, and the driver container needs it; see systemctl status containerd",
        )
    return None


def _gpu_missing(facts: Facts, policy: Policy) -> Plan:
    return _failure(
        "gpu_missing",
        f"{policy.expected_gpus} GPUs are expected, and {len(facts.gpus)} are on the PCI bus; check the hardware, not the driver",
    )


def _take_rung(facts: Facts, policy: Policy) -> Plan:
    """The plan of the first rung that is not refused, with the refusals of those before it."""
    refused: list[Refusal] = []
    refusal = ready_refusal(facts, policy)
    if refusal is None:
        return _already_right(facts)
    if refusal.code == "other_flavour":
        plan = _failure("flavour_refused", f"{refusal.reason}; this driver image builds no other flavour, so use another driver image")
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
        raise AssertionError("a node without a node record cannot be already right")
    missing = [name for name in NEEDED_MODULES if not (m := facts.is_loaded(name)) or m.state != "live"]
    taken = _unload(facts) if any(modules.kernels_own(gpu.driver) for gpu in facts.gpus) else ()
    new_boot = record.boot_id != facts.boot_id
    brings_up = bool(missing or new_boot or taken or not facts.device_nodes)
    what = "its modules are loaded and its services started" if brings_up else "nothing is to be done"
    return Plan(
        Action.NONE,
        "already_initialised",
        f"{record.identity.kind} {record.identity.version} is installed on this node for kernel {facts.kver} and unchanged; {what}",
        steps=(*taken, Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES) if brings_up else (),
        identity=replace(record.identity, kver=facts.kver),
    )


_AFTER_CONTAINER = (
    Step.LOAD_MODULES,
    Step.CHECK_DRIVER,
    Step.RESTART_CONTAINERD,
    Step.WRITE_RECORD,
    Step.START_SERVICES,
)


def _fast(facts: Facts, policy: Policy, layer: Manifest | None, refused: tuple[Refusal, ...]) -> Plan:
    resident = facts.is_loaded("nvidia")
    # Another layer that is active, or one that another machine activated, is removed first.
    removes_first = (bool(facts.active.layer) or facts.active.removal_under_way) and not (layer and facts.is_in_place(layer))
    wrong_resident = _has_kernels_own(facts) or (resident and resident.version != policy.wanted.version)
    unload = _unload(facts) if wrong_resident or removes_first else ()
    activate = (Step.ACTIVATE_LAYER,) if layer and not facts.is_in_place(layer) else ()
    remove = (Step.REMOVE_DRIVER,) if removes_first else ()
    flavour = layer.identity.flavour if layer else (facts.module.flavour if facts.module else None) or ""
    wanted = policy.wanted
    return Plan(
        Action.INSTALL_SKIP_BUILD,
        "baked_layer_matches" if layer else "marker_matches",
        f"{wanted.kind} {wanted.version} ({flavour}) was baked for exactly kernel {facts.kver}, "
        + ("and its files were verified" if layer else "and gpu_boot_require_digest does not ask for the image's digest")
        + "; the build is skipped",
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
            _failure(
                "signatures_enforced", f"{refusal.reason}; nothing is compiled: {reason}; bake with a signing key that this kernel trusts"
            ),
            refused=(*refused, Refusal(_INSTALL, "signatures_enforced", reason)),
        )
    remove = (Step.REMOVE_DRIVER,) if _must_remove(facts, policy, refusal) else ()
    return Plan(
        Action.INSTALL,
        refusal.code,
        f"full install of {policy.wanted.kind} {policy.wanted.version}: {refusal.reason}",
        steps=(*_pull(facts), *_unload(facts), *remove, Step.RUN_CONTAINER, *_AFTER_CONTAINER),
        refused=refused,
        identity=target(facts, policy, policy.flavour if policy.flavour != "any" else ""),
        provisional=not facts.image_present,
    )


def _must_remove(facts: Facts, policy: Policy, refusal: Refusal) -> bool:
    """Whether this node has a driver of ours that is not the wanted one. It must be removed completely before an install (rule I1)."""
    if facts.active.removal_under_way:
        return True
    if facts.active.layer or facts.active.problem:
        return True  # whatever the reason: a container that installs over hard links would write into the store's objects
    wanted = (policy.wanted.kind, policy.wanted.version)
    in_place = [m for m in facts.layers if facts.is_in_place(m)]
    mine = [(m.identity.kind, m.identity.version) for m in in_place]
    if facts.record:
        mine.append((facts.record.identity.kind, facts.record.identity.version))
    if facts.marker and facts.marker.kind and facts.marker.version:
        mine.append((facts.marker.kind, facts.marker.version))
    if any(found != wanted for found in mine) or any(e.version != policy.wanted.version for e in facts.dkms):
        return True
    return bool(in_place or facts.record) and refusal.needs_removal


def _pull(facts: Facts) -> tuple[Step, ...]:
    return () if facts.image_present else (Step.PULL_IMAGE,)


def _has_kernels_own(facts: Facts) -> bool:
    """Whether nouveau or Nova is loaded as a module, or a GPU is bound to it, as to one that is built into the kernel."""
    return any(m.name in KERNELS_OWN for m in facts.loaded) or any(modules.kernels_own(gpu.driver) for gpu in facts.gpus)


def _unload(facts: Facts) -> tuple[Step, ...]:
    return (Step.UNLOAD_MODULES,) if facts.loaded or _has_kernels_own(facts) else ()


def _left_alone(facts: Facts, code: str, reason: str) -> Plan:
    """The node is left as it is; but a layer that this machine or another one has activated is deactivated, because it does not belong on
    this node. A layer that a bake activated in the image stays: this node was made from the image as it is."""
    if facts.is_unadopted and not (facts.active.unrecorded or facts.active.removal_under_way):
        stays = (
            f"layer {facts.active.layer} was activated in this node's image, and no boot of this node has used it: its files stay in "
            "place; the module gpu_layer deactivates it"
        )
        return Plan(Action.NONE, code, f"{reason}; the node is left as it is", warnings=(stays,))
    in_place = ", ".join(facts.active.layers)
    if facts.active.is_newer or not (in_place or facts.active.removal_under_way):
        return Plan(Action.NONE, code, f"{reason}; the node is left as it is")
    unload = (Step.UNLOAD_MODULES,) if modules.takeable(facts.loaded, facts.leaving_versions, facts.is_shared) else ()
    steps = (*unload, Step.REMOVE_DRIVER)
    what = f"layer {in_place}, which is active here, is deactivated" if in_place else "an interrupted removal is finished"
    return Plan(Action.NONE, code, f"{reason}; {what}", steps=steps)


def _failure(code: str, reason: str) -> Plan:
    return Plan(Action.NONE, code, reason, fails=True)


def _warnings(facts: Facts, plan: Plan) -> tuple[str, ...]:
    found = []
    if facts.active.problem:
        found.append(f"{facts.active.problem}; no baked layer is used while this document is here")
    if plan.action is not Action.NONE:
        found += filter(None, [why_no_runtime(facts.containerd_config)])
    version = plan.identity.version if plan.identity else ""
    others = [f"{name} {its}" for name, its in facts.service_packages if its != version]
    if plan.action is not Action.NONE and others:
        found.append(
            f"service packages for another driver version than {version} are installed ({', '.join(others)}); "
            "their services work with this driver only if it brings its own"
        )
    mine = facts.layers_modules
    if plan.action is Action.NONE and Step.REMOVE_DRIVER in plan.steps and Step.UNLOAD_MODULES not in plan.steps and mine:
        found.append(
            f"modules of {', '.join(facts.leaving_versions)} are in use and stay loaded ({', '.join(m.name for m in mine)}): "
            "they may belong to the layer or to the driver's other owner; if they belong to the layer, reboot"
        )
    if plan.steps and facts.passed_through:
        found.append(f"GPUs that belong to a virtual machine are left alone: bound to {_drivers_of(facts.passed_through)}")
    return tuple(found)


def _drivers_of(functions: Collection[PciFunction]) -> str:
    """Each driver, and in brackets the addresses of the functions that are bound to it."""
    bound: dict[str, list[str]] = {}
    for function in functions:
        bound.setdefault(function.driver or "", []).append(function.address)
    return ", ".join(f"{driver} ({', '.join(addresses)})" for driver, addresses in bound.items())
