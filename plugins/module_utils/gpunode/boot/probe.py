"""Reads a node and returns the facts for the decision. Whatever is wrong with a baked driver is a fact too, not an error (rule D11)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..activation import preconditions
from ..container import containerd_config, marker
from ..container.containerd import Containerd
from ..container.marker import Marker
from ..container.reference import DriverWanted
from ..driver import dkms, foreign, kmod
from ..driver.modules import ModuleInfo
from ..errors import CommandError, DataError, LayerError, PreflightError
from ..paths import BOOT_REMOVAL_JOURNAL
from ..store import activation_record, node_record
from ..store import layers as store_layers
from ..store.layers import read_all, why_judged_bad
from ..store.manifest import Manifest, ModuleFact
from ..store.node_record import Record
from ..store.objects import Store
from ..system import host, keyrings, pci, tree
from ..system.pci import PciFunction
from ..util import trust
from ..util.run import Runner
from .facts import Active, Facts


def probe(
    root: Path,
    runner: Runner,
    containerd: Containerd | None,
    wanted: DriverWanted,
    marker_path: str = marker.DEFAULT_PATH,
    kver: str = "",
    functions: tuple[PciFunction, ...] | None = None,
) -> Facts:
    """Returns the facts of the node at ``root``, as far as a decision about the driver ``wanted`` needs them.

    ``kver`` and ``functions`` stand in for the running kernel and the GPUs on the bus: the seal asks about a finished image. ``containerd``
    is None for a mounted image.
    """
    uname = os.uname()
    unreadable = ""
    try:
        functions = pci.nvidia_functions(root) if functions is None else functions
    except OSError as error:
        functions, unreadable = (), _said(error)
    facts = Facts(
        kver=kver or uname.release,
        machine=uname.machine,
        arch=host.normal_arch(uname.machine),
        machine_id=host.machine_id(root),
        boot_id=host.boot_id(),
        unreadable=unreadable,
        functions=functions,
        loaded=kmod.loaded(root),
        signatures_enforced=host.signatures_enforced(root),
        secure_boot=host.secure_boot(root),
        operator=foreign.operator_signs(root),
        device_nodes=(root / "dev/nvidiactl").exists(),
        active=_active(root),
    )
    belongs = facts.arch is not None and bool(facts.gpus)
    if facts.unreadable:
        return facts
    must_go = bool(facts.active.layer and not facts.is_unadopted) or bool(facts.active.unrecorded)
    if not belongs and not (must_go or facts.active.removal_under_way):
        return facts  # no driver belongs here: what was baked is read only if a layer or the rest of one must go
    facts = _with_records(facts, root, marker_path)
    try:
        facts = _with_other_drivers(facts, root)
    except OSError as error:
        return replace(facts, unreadable=_said(error))
    if not belongs or (facts.foreign and not must_go):
        return facts  # a foreign driver stays, whatever was baked
    facts = replace(facts, record_contents=_record_contents(root, facts), containerd_config=containerd_config.read_main(root))
    facts = _with_modules(_with_contents(facts, root, wanted, containerd is None), root, runner, wanted)
    if facts.signatures_enforced:
        facts = replace(facts, trusted_keys=keyrings.read(root), install_signer=_install_signer(root, runner))
    return with_image(facts, containerd, wanted) if containerd else facts


def _with_other_drivers(facts: Facts, root: Path) -> Facts:
    """Raises OSError if a place of a driver cannot be listed: what is there may be somebody's."""
    if not facts.arch:
        return facts
    signs = foreign.signs(root, facts.arch, own_versions(facts), own_files(facts))
    # A layer in the store may have been active until a moment ago, and its modules may still be in use.
    signs += foreign.resident_signs(facts.loaded, own_versions(facts) | {layer.identity.version for layer in facts.layers})
    return replace(facts, dkms=dkms.entries(root), foreign=signs, service_packages=foreign.service_packages(root))


def _said(error: OSError) -> str:
    return f"{error.filename} cannot be read ({error.strerror})"


def with_image(facts: Facts, containerd: Containerd, wanted: DriverWanted) -> Facts:
    """Returns the facts with containerd and the driver image read again, as after a pull."""
    try:
        found = containerd.target_digest(wanted.image.text, wanted.pin)
    except CommandError:  # so ctr fails where containerd is not ready; asking that first would cost another process
        return replace(facts, containerd_ready=False, image_present=False, config_digest="")
    digest = containerd.config_behind(found, facts.arch or "") if found else None
    return replace(facts, containerd_ready=True, image_present=bool(found), config_digest=digest or "")


def _with_records(facts: Facts, root: Path, marker_path: str) -> Facts:
    layers, layer_problems = read_all(root)
    untrusted = [store_layers.untrusted(root)] if layer_problems else []
    found_marker: Marker | None = None
    found_record: Record | None = None
    marker_problem = record_problem = ""
    try:
        found_marker = marker.read(root, marker_path)
    except DataError as error:
        marker_problem = str(error)
    try:
        found_record = node_record.read(root)
    except DataError as error:
        record_problem = str(error)
        untrusted += [record_problem] if error.code == "store_untrusted" else []
    return replace(
        facts,
        layers=layers,
        layer_problems=layer_problems,
        marker=found_marker,
        marker_problem=marker_problem,
        record=found_record,
        record_problem=record_problem,
        untrusted=tuple(filter(None, untrusted)),
    )


def _active(root: Path) -> Active:
    """Which layer is active. It is read on every node, because an active layer is removed where no driver belongs."""
    errors = activation_record.problems(root)
    active = Active(removal_under_way=trust.below(root, BOOT_REMOVAL_JOURNAL).exists())
    if errors:
        from ..activation import recovery  # noqa: PLC0415 - only a damaged record needs it

        unrecorded = recovery.found(root)
        active = replace(
            active,
            problem="; ".join(str(error) for error in errors),
            is_newer=any(activation_record.is_newer(error) for error in errors),
            is_untrusted=any(error.code == "store_untrusted" for error in errors),
            unrecorded=tuple(one.layer for one in unrecorded),
            version=unrecorded[0].identity.version if unrecorded else "",
        )
    try:
        found = activation_record.read(root)
    except DataError:
        return active
    return replace(active, layer=found.layer, machine_id=found.machine_id, version=found.identity.version) if found else active


def in_place(facts: Facts) -> tuple[Manifest, ...]:
    """The layers whose files are in their places, also if another machine activated them or the activation record is damaged."""
    return tuple(m for m in facts.layers if facts.is_in_place(m) or m.layer in facts.active.layers)


def own_versions(facts: Facts) -> set[str]:
    """The driver versions that are ours: of layers that are not inert, of the node record and of the marker."""
    versions = {layer.identity.version for layer in in_place(facts)}
    if facts.record:
        versions.add(facts.record.identity.version)
    if facts.marker and facts.marker.version:
        versions.add(facts.marker.version)
    return versions


def own_files(facts: Facts) -> set[str]:
    """The paths that are ours: of layers that are not inert, and of the node record."""
    paths = {entry.path for layer in in_place(facts) for entry in layer.files}
    if facts.record:
        paths |= set(facts.record.libraries) | {p for modules in facts.record.modules.values() for p in modules}
    return paths


def _candidates(facts: Facts, wanted: DriverWanted) -> Sequence[Manifest]:
    asked = (facts.kver, wanted.kind, wanted.version)
    return [m for m in facts.layers if (m.identity.kver, m.identity.kind, m.identity.version) == asked]


def _with_contents(facts: Facts, root: Path, wanted: DriverWanted, is_mounted: bool) -> Facts:
    """Adds what is wrong with the contents of the layers that could be used, and what keeps them from being activated. Of an inert layer
    only modules and programs are hashed here; the rest is hashed during its activation."""
    layers = _candidates(facts, wanted)
    if not layers or facts.active.problem:
        return facts
    problems: list[str] = []
    obstacle = ""
    for layer in layers:
        if facts.is_in_place(layer):
            problems += tree.problems(root, layer.deciding_files)
            continue
        problems += Store(root).problems(preconditions.urgent(layer.files))
        if facts.active.layer:
            continue  # the active layer's own files are in the way; other obstacles show once it has been deactivated
        try:
            preconditions.check(root, Store(root), layer, is_mounted)
        except LayerError as error:
            if error.code == "layer_damaged":
                problems.append(str(error))
            else:
                obstacle = str(error)
        except OSError as error:  # for example a loop of links in place of one of the layer's folders
            obstacle = f"{error.filename}: {error.strerror}"
    judged = {m.layer: why_judged_bad(root, m, facts.machine_id) for m in layers}
    bad = {name: why for name, why in judged.items() if why is not None}
    return replace(facts, layer_contents=tuple(problems), layer_obstacle=obstacle, layers_judged_bad=bad)


def _with_modules(facts: Facts, root: Path, runner: Runner, wanted: DriverWanted) -> Facts:
    """Adds what modinfo says of the modules that would be loaded; for an inert layer its manifest has it."""
    inert = [m for m in _candidates(facts, wanted) if not facts.is_in_place(m)]
    if inert:
        found = {fact.name: fact for fact in inert[0].module_facts}
        return replace(facts, module=_module(found.get("nvidia")), uvm=_module(found.get("nvidia-uvm")))
    return replace(
        facts,
        module=kmod.modinfo(runner, root, facts.kver, "nvidia"),
        uvm=kmod.modinfo(runner, root, facts.kver, "nvidia-uvm"),
    )


def _install_signer(root: Path, runner: Runner) -> str:
    """The id of the key with which DKMS signs on this node; "" if it has none: no kernel trusts the key that DKMS would make itself."""
    key, cert = dkms.signing_pair(root)
    if not (root / key).is_file() or not (root / cert).is_file():
        return ""
    from ..system import certificate  # noqa: PLC0415 - few nodes have such a key

    try:
        return certificate.read(runner, root / cert).signer.key_id
    except (CommandError, PreflightError):
        return ""


def _module(fact: ModuleFact | None) -> ModuleInfo | None:
    return ModuleInfo(f"/{fact.path}", fact.version, fact.licence, fact.kver, fact.signer) if fact else None


def _record_contents(root: Path, facts: Facts) -> tuple[str, ...] | None:
    if facts.record is None or facts.kver not in facts.record.modules:
        return None
    return tree.hash_problems(root, {**facts.record.modules[facts.kver], **facts.record.libraries})
