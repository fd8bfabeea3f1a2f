"""Checks what a build left: marker, modules, their registration with DKMS, libraries, signatures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..container import marker
from ..driver import dkms, kmod, libraries
from ..driver.modules import NEEDED_MODULES
from ..errors import BuildError
from ..store.manifest import Identity
from ..system import module_signature
from ..system.tree import Entry
from .context import Bake
from .signing import ModuleSigner


@dataclass(frozen=True)
class Checked:
    """The result of a build that has passed every check. ``warnings`` are about modules that the driver can do without."""

    identity: Identity
    accept_no_device: bool
    warnings: tuple[str, ...]


def check(bake: Bake, root: Path, kver: str) -> Checked:
    """Checks what the build for ``kver`` left in ``root``. Raises BuildError, DataError."""
    found = _marker(bake, root, kver)
    flavour, problems = _modules(bake, root, kver)
    version, wanted = bake.request.wanted.version, bake.request.wanted
    if not any((e.version, e.kver, e.arch, e.state) == (version, kver, bake.arch, "installed") for e in dkms.entries(root)):
        problems.append(f"DKMS has no installed nvidia/{version} for kernel {kver}")
    misfits, others = kmod.symbol_problems(bake.runner, root, kver)
    problems += misfits[:5]
    problems += libraries.version_problems(root, bake.arch, version)
    if problems:
        raise BuildError(f"the container succeeded, but its result is not right: {'; '.join(problems)}", code="build_incomplete")
    _require_flavour(bake, flavour)
    warnings = tuple(f"a module that the driver can do without may not load: {said}" for said in others[:5])
    return Checked(Identity(kver, bake.arch, wanted.kind, version, flavour, bake.digest), found.accept_no_device, warnings)


def _marker(bake: Bake, root: Path, kver: str) -> marker.Marker:
    path, wanted = bake.request.marker_path, bake.request.wanted
    found = marker.read(root, path)
    if found is None:
        raise BuildError(f"the container succeeded but left no marker at {path}: nothing was built", code="marker_missing")
    wrong = marker.differences(found, kver, wanted.version, wanted.kind, bake.arch)
    if wrong:
        raise BuildError(f"the marker at {path} is not what was asked for: {'; '.join(wrong)}", code="marker_mismatch")
    return found


def _modules(bake: Bake, root: Path, kver: str) -> tuple[str, list[str]]:
    """The flavour of the modules, and what is wrong with them, in words (rules B14, B15, B20)."""
    version = bake.request.wanted.version
    problems = []
    flavour = ""
    for name in NEEDED_MODULES:
        info = kmod.modinfo(bake.runner, root, kver, name)
        if info is None:
            problems.append(f"module {name} is missing for kernel {kver}")
            continue
        if info.kver != kver:
            problems.append(f"{info.path} was compiled for {info.kver}")
        if info.version and info.version != version:
            problems.append(f"{info.path} is of version {info.version}")
        if name == "nvidia":
            flavour = info.flavour or ""
            if not flavour:
                problems.append(f"{info.path} has the unknown licence {info.licence!r}")
    return flavour, problems


def _require_flavour(bake: Bake, flavour: str) -> None:
    if bake.request.flavour not in ("any", flavour):
        raise BuildError(
            f"the modules are {flavour}, but nvidia_prebake_flavour is {bake.request.flavour}: the installer chooses by the GPU that "
            "it finds, and this machine has none; use a driver image of that flavour",
            code="flavour_refused",
        )


def require_signed(signer: ModuleSigner | None, files: Iterable[Entry]) -> None:
    """Raises BuildError if a layer's ``files`` have a kernel module that ``signer`` did not sign."""
    unsigned = [
        entry.path
        for entry in files
        if signer and entry.path not in signer.signed and module_signature.kernel_of(entry.path) and entry.type == "file"
    ]
    if unsigned:
        raise BuildError(
            f"the layer has kernel modules that were not signed: {', '.join('/' + p for p in unsigned[:3])}; use another driver image",
            code="signing_failed",
        )
