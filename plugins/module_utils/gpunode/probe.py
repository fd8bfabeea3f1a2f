"""Looking at a node: everything that the decision needs, as facts; whatever is wrong with what was baked is a fact too (D11)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import dkms, foreign, host, inventory, kmod, manifest, marker, pci, record
from .containerd import Containerd, imports_dropins
from .errors import CommandError, DataError
from .imageref import DriverWanted
from .manifest import Manifest
from .marker import Marker
from .model import Facts
from .record import Record
from .runner import Runner


def probe(
    root: Path,
    runner: Runner,
    containerd: Containerd,
    wanted: DriverWanted,
    marker_path: str = marker.DEFAULT_PATH,
    kver: str = "",
) -> Facts:
    """The facts of the node at ``root`` with the driver ``wanted`` in mind; ``kver`` other than the running kernel's for tests."""
    uname = os.uname()
    facts = Facts(
        kver=kver or uname.release,
        machine=uname.machine,
        arch=host.normal_arch(uname.machine),
        machine_id=host.machine_id(root),
        boot_id=host.boot_id(),
        functions=pci.nvidia_functions(root),
        loaded=kmod.loaded(root),
        signatures_enforced=host.signatures_enforced(root),
        secure_boot=host.secure_boot(root),
        operator=foreign.operator_signs(root),
        device_nodes=(root / "dev/nvidiactl").exists(),
        imports_dropins=imports_dropins(root),
    )
    if facts.arch is None or not facts.gpus:
        return facts  # no driver belongs here: nothing of what was baked is even looked at
    facts = replace(_with_records(facts, root, marker_path), dkms=dkms.entries(root))
    facts = replace(
        facts,
        foreign=foreign.signs(root, facts.arch or "", own_versions(facts), own_files(facts)),
        module=kmod.modinfo(runner, root, facts.kver, "nvidia"),
        uvm=kmod.modinfo(runner, root, facts.kver, "nvidia-uvm"),
        layer_contents=_layer_contents(root, facts, wanted),
        record_contents=_record_contents(root, facts),
    )
    return with_image(facts, containerd, wanted)


def with_image(facts: Facts, containerd: Containerd, wanted: DriverWanted) -> Facts:
    """The facts with containerd and the driver image looked at again, as after a pull."""
    if not containerd.is_ready():
        return replace(facts, containerd_ready=False, image_present=False, config_digest="")
    try:
        present = containerd.target_digest(wanted.image.text) is not None
        digest = containerd.config_digest(wanted.image.text, facts.arch or "") if present else None
    except CommandError:
        return replace(facts, containerd_ready=False, image_present=False, config_digest="")
    return replace(facts, containerd_ready=True, image_present=present, config_digest=digest or "")


def _with_records(facts: Facts, root: Path, marker_path: str) -> Facts:
    layers, layer_problems = manifest.read_all(root)
    found_marker: Marker | None = None
    found_record: Record | None = None
    marker_problem = record_problem = ""
    try:
        found_marker = marker.read(root, marker_path)
    except DataError as error:
        marker_problem = str(error)
    try:
        found_record = record.read(root)
    except DataError as error:
        record_problem = str(error)
    return replace(
        facts,
        layers=layers,
        layer_problems=layer_problems,
        marker=found_marker,
        marker_problem=marker_problem,
        record=found_record,
        record_problem=record_problem,
    )


def own_versions(facts: Facts) -> set[str]:
    """Driver versions that our layers, the record or a driver container's marker account for."""
    versions = {layer.identity.version for layer in facts.layers}
    if facts.record:
        versions.add(facts.record.identity.version)
    if facts.marker and facts.marker.version:
        versions.add(facts.marker.version)
    return versions


def own_files(facts: Facts) -> set[str]:
    """Paths that our layers and the record account for."""
    paths = {entry.path for layer in facts.layers for entry in layer.files}
    if facts.record:
        paths |= set(facts.record.libraries) | {p for modules in facts.record.modules.values() for p in modules}
    return paths


def _candidates(facts: Facts, wanted: DriverWanted) -> Sequence[Manifest]:
    asked = (facts.kver, wanted.kind, wanted.version)
    return [m for m in facts.layers if (m.identity.kver, m.identity.kind, m.identity.version) == asked]


def _layer_contents(root: Path, facts: Facts, wanted: DriverWanted) -> tuple[str, ...] | None:
    """Hashing a whole driver is worth it only for a layer that could be used."""
    layers = _candidates(facts, wanted)
    if not layers:
        return None
    return tuple(p for layer in layers for p in inventory.problems(root, layer.deciding_files))


def _record_contents(root: Path, facts: Facts) -> tuple[str, ...] | None:
    if facts.record is None or facts.kver not in facts.record.modules:
        return None
    return inventory.hash_problems(root, {**facts.record.modules[facts.kver], **facts.record.libraries})
