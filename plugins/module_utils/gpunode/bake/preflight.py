"""Checks before a bake changes anything: inputs, machine, space, foreign drivers, containerd. Each refusal says what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..container import containerd_config, scratch
from ..container.containerd import Containerd
from ..driver import dkms, foreign, nouveau_blacklist
from ..errors import InputError, PreflightError
from ..paths import LAYERS
from ..store import activation_record, reports
from ..store import layers as store_layers
from ..store.layers import drivers_files, read_all
from ..system import bootloader, host, toolchain
from ..system import kernels as system_kernels
from ..system.certificate import Certificate
from ..system.disk_space import require_space
from ..system.kernels import NEWEST, of_another_flavour
from ..util import trust
from ..util.run import Runner
from . import sandbox, signing_key
from .request import BakeRequest


@dataclass(frozen=True)
class Preflight:
    """What was found: the target kernels, the architecture, the packages that are still missing, warnings, a sentence about what the bake
    will do about nouveau, and the signing certificate (None if nothing is to be signed, or if openssl is among the missing packages)."""

    kernels: tuple[str, ...]
    arch: str
    missing_packages: tuple[str, ...]
    warnings: tuple[str, ...]
    nouveau: str
    certificate: Certificate | None = None


def check(root: Path, runner: Runner, containerd: Containerd, request: BakeRequest) -> Preflight:
    """Checks whether a bake may begin; changes nothing. Raises GpuNodeError if it must not."""
    host.require_root()
    trust.require_store(root)
    arch = host.require_supported(root, os.uname().machine)
    targets = system_kernels.targets(root, request.kernels)
    if request.is_in_place and len(targets) != 1:
        raise InputError(f"nvidia_prebake_kernels: {', '.join(targets)}: the mode in_place bakes for exactly one kernel")
    reports.require_no_killed_bake(root)
    scratch.require(root)
    _refuse_unreadable(root)
    _refuse_foreign(root, arch)
    _refuse_another_tree(root)
    blacklist = nouveau_blacklist.look(root, drivers_files(root))
    nouveau_blacklist.require(blacklist)
    sandbox.require(root)
    require_space(root, request.min_free_mb)
    if not containerd.is_ready():
        raise PreflightError(
            "containerd does not answer (ctr version): install and start it before the bake; driver containers run under it",
            code="containerd_unavailable",
        )
    certificate, expiry = _check_signing(root, runner, request)
    missing = [name for kver in targets for name in toolchain.missing_packages(runner, kver, root)]
    if request.signing and not certificate:
        missing.append(toolchain.OPENSSL)
    says = nouveau_blacklist.decide(blacklist, request.blacklist_nouveau).says
    warnings = (*_warnings(root, arch, request, targets[0]), *expiry)
    return Preflight(targets, arch, tuple(dict.fromkeys(missing)), warnings, says, certificate)


def _check_signing(root: Path, runner: Runner, request: BakeRequest) -> tuple[Certificate | None, tuple[str, ...]]:
    if request.signing is None or not toolchain.exists(runner, toolchain.OPENSSL):
        return None, ()
    return signing_key.check(root, runner, request.signing)


def require_tools(root: Path, runner: Runner, kver: str, request: BakeRequest) -> None:
    """Raises PreflightError with all tools that are missing for a compile for ``kver``, and for signing if that is requested."""
    toolchain.require(runner, root, kver, signs=request.signing is not None)


def _refuse_unreadable(root: Path) -> None:
    """Refuses a store that this program cannot read, or cannot add to."""
    layers, problems = read_all(root)
    newer = store_layers.newer(root) if problems else ""
    if newer:
        raise PreflightError(
            f"{newer}: it was written by a newer version of this program: bake with that version, or into a fresh image", code="store_newer"
        )
    untrusted = store_layers.untrusted(root) if problems else ""
    if untrusted:
        raise PreflightError(untrusted, code="store_untrusted")
    if problems:
        raise PreflightError(
            f"a manifest of an earlier bake cannot be read: {problems[0]}. Start from a fresh image, or remove /{LAYERS}",
            code="manifest_invalid",
        )
    old = [layer.layer for layer in layers if not layer.stored]
    if old:
        raise PreflightError(
            f"layer {old[0]} was baked in place by version 0.1.0, which kept no copy of what it replaced: start from a fresh image",
            code="layer_in_place",
        )


def _refuse_foreign(root: Path, arch: str) -> None:
    # A layer is in the image if it is active, or if an activation or a deactivation of it was interrupted. The bake deals with both.
    journal = activation_record.read_journal(root)
    ours = [one for one in (activation_record.read(root), journal and journal.activation) if one]
    found = foreign.signs(root, arch, {one.identity.version for one in ours}, {entry.path for one in ours for entry in one.placed})
    if found:
        raise PreflightError(
            f"a driver that is not ours is in this image: {'; '.join(found[:5])}. Bake into an image without one (two drivers would mix)",
            code="foreign_driver",
            details={"found": list(found)},
        )


def _refuse_another_tree(root: Path) -> None:
    found = dkms.elsewhere(root)
    if found:
        raise PreflightError(
            f"DKMS works in another folder here, or it cannot be told where: {found}. A layer has files below /{dkms.TREE} and "
            "/usr/src only: take that line out before the bake",
            code="dkms_elsewhere",
        )


def _warnings(root: Path, arch: str, request: BakeRequest, first: str) -> tuple[str, ...]:
    found: list[str] = []
    if request.kernels in (NEWEST, [NEWEST]):
        found += bootloader.default_kernel(root).warnings
        found += filter(None, [of_another_flavour(root, first, os.uname().release)])
    without_runtime = containerd_config.why_no_runtime(containerd_config.read_main(root))
    if without_runtime:
        found.append(f"on a node: {without_runtime}")
    if host.secure_boot(root) and not request.signing:
        found.append("Secure Boot is on: nodes that enforce signatures load only modules that are signed with a key that they trust")
    if arch != "x86_64":
        found.append(f"{arch} is untested; it is treated like x86_64")
    return tuple(found)
