"""The seal: proof that an image is what it is said to be. Inert, covered, usable, and *right*: the decision is replayed on it.

It runs last in an image build, or on a mounted image offline (``root`` other than ``/``), where containerd cannot be asked. Its report
stays in the image.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import (
    bake,
    bootloader,
    contract,
    document,
    files,
    generations,
    host,
    inert,
    inventory,
    kernels,
    manifest,
    nouveau,
    preflight,
    toolchain,
)
from .containerd import Containerd
from .decide import decide
from .errors import CommandError, DataError, GpuNodeError, InputError, SealError
from .generations import Generation
from .imageref import wanted as wanted_image
from .manifest import CAPTURED, IN_PLACE, STORE, Manifest
from .model import Action, Facts, Policy
from .pci import PciFunction
from .probe import probe
from .runner import Runner
from .store import Store, objects_of

SCHEMA = 1
REPORT = f"{STORE}/seal-report.json"
REPORTED, FAIL = "report", "fail"
_SAID = 6  # refusals in the error itself
_ADDRESS, _CLASS = "0000:00:00.0", "030200"


@dataclass(frozen=True)
class SealRequest:
    """``kernels`` as ``kernels.choices`` gives them; ``uncovered`` what to do about a bootable kernel without a layer; ``generations`` the
    GPUs that the image is meant for, empty for all that a layer supports; where it need not be baked (``must_be_baked``), one without a
    layer is not looked at. ``blacklist_nouveau`` is the choice of the bake."""

    kernels: tuple[str, ...] = (kernels.NEWEST,)
    uncovered: str = REPORTED
    generations: tuple[str, ...] = ()
    marker_path: str = "/opt/azure/aks-gpu/dkms-marker"
    min_free_mb: int = 1024
    must_be_baked: bool = True
    blacklist_nouveau: bool = True


@dataclass
class Report:
    """What was found: ``refusals`` are why the image must not ship, ``notes`` what is worth knowing, ``replayed`` every decision,
    ``secure_boot`` for each layer what a node decides that enforces signatures and trusts the layer's signer;
    ``kernels`` are all that are installed, ``covered`` those with a layer, ``outside_store`` what of ours is not in the store, ``nouveau``
    what the image does about nouveau, in words, ``summary`` what was proven, "" after a refusal."""

    root: str
    offline: bool
    kernels: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    refusals: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    replayed: list[dict[str, str]] = field(default_factory=list)
    secure_boot: list[dict[str, str]] = field(default_factory=list)
    outside_store: list[str] = field(default_factory=list)
    nouveau: str = ""
    sealed: str = ""
    summary: str = ""

    def proven(self) -> str:
        """What was proven, in one line."""
        gpus = dict.fromkeys(replayed["gpu"] for replayed in self.replayed)
        state = "live (baked in place)" if IN_PLACE in self.modes else "inert"
        return f"sealed: {state}, covered: {', '.join(self.covered)}, fast path for {', '.join(gpus)}"

    def refuse(self, check: str, problems: Iterable[str]) -> None:
        self.refusals += [{"check": check, "problem": problem} for problem in problems]


def request_from(params: Mapping[str, Any]) -> SealRequest:
    """Validates the options of a seal. Raises InputError."""
    uncovered = params.get("uncovered") or REPORTED
    if uncovered not in (REPORTED, FAIL):
        raise InputError(f"nvidia_prebake_uncovered: {uncovered!r} is neither {REPORTED} nor {FAIL}")
    asked = tuple(params.get("gpu_generations") or ())
    unknown = [name for name in asked if name not in generations.NAMES]
    if unknown:
        raise InputError(f"nvidia_prebake_gpu_generations: {', '.join(unknown)} unknown; known are {', '.join(generations.NAMES)}")
    return SealRequest(
        kernels=kernels.choices(params.get("kernels") or kernels.NEWEST),
        uncovered=uncovered,
        generations=asked,
        marker_path=params.get("marker_path") or SealRequest.marker_path,
        min_free_mb=SealRequest.min_free_mb if params.get("min_free_mb") is None else int(params["min_free_mb"]),
        must_be_baked=params.get("baked") is not False,
        blacklist_nouveau=params.get("blacklist_nouveau") is not False,
    )


def seal(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, write: bool = True) -> Report:
    """Looks at everything and writes the report into the image. Raises SealError, with the report in its details, when the image must
    not ship, BusyError while a bake, a boot or a removal changes the image; ``containerd`` is None offline."""
    live = root == Path("/")
    with files.locked(contract.LOCK, "a seal") if live else contextlib.nullcontext():
        return _seal(root, runner, containerd, request, write)


def _seal(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, write: bool) -> Report:
    host.require_system(root, "nvidia_prebake_seal_root")
    report = Report(str(root), containerd is None)
    layers, damaged = manifest.read_all(root)
    arch = host.require_supported(root, os.uname().machine)
    if not layers and not damaged and not request.must_be_baked:
        report.summary = "nothing was baked, so that nothing is proven"
        return report
    report.layers = [layer.layer for layer in layers]
    report.modes = sorted({layer.mode for layer in layers})
    report.covered = sorted({layer.identity.kver for layer in layers}, key=kernels.version_key)
    report.refuse("layers", [f"{problem}: bake anew; where that is refused too, start from a fresh image" for problem in damaged])
    if not layers and not damaged:
        report.refuse("layers", ["no layer is in the store: nothing was baked: look at the bake's output, or take the seal out"])
    for layer in layers:  # all of it is read here; a boot reads what it must, when it must
        problems = Store(root).problems(objects_of(layer)) if layer.mode == CAPTURED else inventory.problems(root, layer.files)
        report.refuse("layers", [f"layer {layer.layer}: {problem}: bake anew" for problem in problems])
    report.refuse("inert", inert.problems(root, runner, arch, layers, bake.setuid_before(root)))
    report.refuse("inert", _containers(containerd))
    _check_nouveau(root, runner, request, report)
    _check_covered(root, request, layers, report)
    _check_usable(root, runner, containerd, request, layers, report)
    for layer in layers:
        report.refuse("right", _replay(root, runner, containerd, request, layer, report))
    report.sealed = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    report.summary = "" if report.refusals else report.proven()
    if write:
        try:
            _write(root, report)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            report.notes.append("the image is mounted read-only, so that this report is not kept in it")
    if report.refusals:
        said = "; ".join(f"{refusal['check']}: {refusal['problem']}" for refusal in report.refusals[:_SAID])
        more = f"; and {len(report.refusals) - _SAID} more in the report" if len(report.refusals) > _SAID else ""
        raise SealError(f"this image must not ship: {said}{more}", details={"report": asdict(report)})
    return report


def _write(root: Path, report: Report) -> None:
    files.make_private(root / STORE)
    files.write_atomic(root / REPORT, document.dump({"schema": SCHEMA, **asdict(report)}), 0o600)


# --- inert ------------------------------------------------------------------------------------------------------------


def _containers(containerd: Containerd | None) -> list[str]:
    if containerd is None:
        return []
    try:
        left = contract.left_in(containerd)
    except CommandError as error:
        return [f"containerd cannot be asked which containers a bake has left: {error}"]
    return [
        f"container {name} in containerd: left by a driver container: ctr -n k8s.io tasks rm -f {name}; ctr -n k8s.io containers rm {name}"
        for name in left
    ]


# --- nouveau ---------------------------------------------------------------------------------------------------------


def _check_nouveau(root: Path, runner: Runner, request: SealRequest, report: Report) -> None:
    """The one file outside the store: there where it was chosen, also in each initramfs, and nowhere else."""
    try:
        found = nouveau.look(root, nouveau.drivers_files(root), runner)
        report.refuse("nouveau", nouveau.problems(found, request.blacklist_nouveau))
    except CommandError as error:
        found = nouveau.look(root, nouveau.drivers_files(root))
        report.refuse("nouveau", [f"what an initramfs holds cannot be told: {error}"])
    report.outside_store += [f"/{nouveau.PATH}"] if found.own == nouveau.OURS else []
    report.nouveau = nouveau.decide(found, request.blacklist_nouveau).says


# --- covered ---------------------------------------------------------------------------------------------------------


def _check_covered(root: Path, request: SealRequest, layers: Sequence[Manifest], report: Report) -> None:
    """The kernel that boots and each that was asked for has a layer; another bootable one is reported, or refused."""
    covered = {layer.identity.kver for layer in layers}
    present = kernels.installed(root)
    report.kernels = list(present)
    choice = bootloader.default_kernel(root)
    needed = [kver for kver in request.kernels if kver not in (kernels.NEWEST, kernels.ALL)]
    if request.kernels == (kernels.ALL,):
        needed += present
    if choice.kver:
        needed.append(choice.kver)
    elif len(present) == 1:
        needed += present
    elif not present:
        report.refuse("covered", [f"no kernel is installed under {root / 'lib/modules'}: install one, and bake for it"])
    elif not needed:
        report.refuse(
            "covered", [f"several kernels are installed, and which one boots cannot be told: {choice.reason}; set nvidia_prebake_kernels"]
        )
    else:
        report.notes.append(f"which kernel boots by default cannot be told: {choice.reason}")
    report.notes += choice.warnings
    for kver in dict.fromkeys(needed):
        if kver not in covered:
            report.refuse("covered", [f"kernel {kver} boots or was asked for, and no layer is for it: bake after the last kernel change"])
    others = [kver for kver in present if kver not in covered and kver not in needed]
    if others and request.uncovered == FAIL:
        report.refuse("covered", [f"kernel {kver} can be booted and has no layer: remove it or bake for it" for kver in others])
    elif others:
        report.notes.append(f"no layer is for kernel {', '.join(others)}, which can be booted too: a node that does compiles there")


# --- usable ----------------------------------------------------------------------------------------------------------


def _check_usable(
    root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, layers: Sequence[Manifest], report: Report
) -> None:
    """What a node needs besides the layer: the driver image, the compile tools for the fallback, space."""
    for kver in sorted({layer.identity.kver for layer in layers}):
        missing = toolchain.problems(runner, root, kver) if containerd else toolchain.absent(root, kver)
        if missing:
            report.refuse("usable", [f"a node that the bake does not fit cannot compile for {kver}: {'; '.join(missing)}: install these"])
    try:
        preflight.require_space(root, request.min_free_mb, "a node's own build", "nvidia_prebake_seal_min_free_mb")
    except GpuNodeError as error:
        report.refuse("usable", [str(error)])
    if containerd is None:
        report.notes.append("offline: containerd was not asked whether it has the driver image")
        return
    for image in sorted({layer.image for layer in layers}):
        report.refuse("usable", _image_problems(containerd, image, report))


def _image_problems(containerd: Containerd, image: str, report: Report) -> list[str]:
    try:
        if containerd.target_digest(image) is None:
            return [
                f"driver image {image} is not in containerd: device initialisation takes the container toolkit and more from it: bake again"
            ]
        if not containerd.is_pinned(image):
            return [
                f"driver image {image} is not labelled as pinned: kubelet's garbage collection may take it: "
                f"ctr -n k8s.io images label {image} io.cri-containerd.pinned=pinned"
            ]
        if not containerd.honours_pins():
            report.notes.append(
                "this containerd is older than 1.6.25 and ignores the pinned label: nodes may have to pull the driver image again"
            )
    except CommandError as error:
        return [f"containerd cannot be asked about {image}: {error}"]
    return []


# --- right -----------------------------------------------------------------------------------------------------------


def accepted(layer: Manifest, request: SealRequest) -> tuple[Generation, ...]:
    """The GPU generations that an image with this layer is meant for."""
    if not request.generations:
        return generations.supported(layer.identity.flavour, layer.identity.version)
    return tuple(g for g in generations.GENERATIONS if g.name in request.generations)


def _replay(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, layer: Manifest, report: Report) -> list[str]:
    """The decision on this image, for the layer's kernel, with one GPU of each generation: it must be the fast path."""
    identity = layer.identity
    try:
        wanted = wanted_image(layer.image, None, identity.kind, identity.version)
    except DataError as error:
        return [f"layer {layer.layer}: {error}"]
    asked = accepted(layer, request)
    if not asked:
        return [
            f"layer {layer.layer}: no known GPU is driven by its {identity.flavour} modules of {identity.version}: use another driver image"
        ]
    problems = []
    facts: Facts | None = None
    for generation in asked:
        gpu = PciFunction(_ADDRESS, f"{generation.ids[0][0]:04x}", _CLASS, None)
        if facts is None:  # contents are read once; only the GPU differs
            try:
                facts = probe(root, runner, containerd, wanted, request.marker_path, identity.kver, (gpu,))
            except CommandError as error:
                return [f"layer {layer.layer}: the decision cannot be replayed: {error}: have kmod on the machine that looks"]
            facts = replace(facts, signatures_enforced=False)  # what a node enforces, and trusts, is not what the build machine does
            if containerd is None:
                facts = replace(facts, containerd_ready=True, image_present=True, config_digest=identity.config_digest)
        plan = decide(replace(facts, functions=(gpu,)), Policy(wanted))
        report.replayed.append({"layer": layer.layer, "gpu": generation.name, "action": plan.action.value, "code": plan.code})
        if plan.action is not Action.INSTALL_SKIP_BUILD:
            problems.append(
                f"a node with kernel {identity.kver} and a {generation.name} GPU would not take the fast path: {plan.code}: {plan.reason}"
            )
    return problems + (_replay_secure_boot(facts, Policy(wanted), layer, report) if facts and not problems else [])


def _replay_secure_boot(facts: Facts, policy: Policy, layer: Manifest, report: Report) -> list[str]:
    """The same decision where signatures are enforced and the layer's own signer is trusted, once for each layer."""
    signer = layer.signer
    plan = decide(replace(facts, signatures_enforced=True, trusted_keys=(signer.key_id,) if signer else ()), policy)
    refusal = plan.refused[-2].code if plan.fails and len(plan.refused) > 1 else plan.code
    said = {"layer": layer.layer, "action": plan.action.value, "code": refusal}
    report.secure_boot.append({**said, "signer": signer.name if signer else "", "key_id": signer.key_id if signer else ""})
    if signer is None:
        report.notes.append(
            f"layer {layer.layer} is not signed by a bake: a node that enforces module signatures (Secure Boot) refuses it ({refusal}) "
            "and compiles nothing either; such nodes need nvidia_prebake_signing_key and nvidia_prebake_signing_certificate"
        )
        return []
    if plan.action is Action.INSTALL_SKIP_BUILD:
        return []
    return [f"a node that enforces signatures and trusts {signer.name} would not take the fast path: {plan.code}: {plan.reason}"]
