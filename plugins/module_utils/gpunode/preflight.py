"""What is looked at before a bake changes anything: inputs, machine, space, foreign drivers, containerd; each refusal says what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import activated, bootloader, foreign, host, imageref, kernels, manifest, marker, nouveau, sandbox, signing, toolchain
from .certificate import Certificate
from .containerd import Containerd, imports_dropins
from .errors import InputError, PreflightError
from .imageref import DriverWanted
from .runner import Runner
from .signing import SigningKey

# Names what was there before a bake that is under way, or was interrupted: see bake.py.
JOURNAL = f"{manifest.STORE}/bake-under-way.json"
MODES = (manifest.CAPTURED, manifest.IN_PLACE)
FLAVOURS = ("any", "open", "proprietary")
# A full driver: image 0.5 GB unpacked and 0.25 GB packed, its copy in /opt/gpu 0.3 GB, build folder up to 0.8 GB, result 0.3 GB.
MIN_FREE_MB = 3072
_MIN_INODES = 20000
_SPACE_PATHS = ("usr", "var/lib/dkms", manifest.STORE, "var/lib/containerd", "opt", "tmp", "boot")
_BOOT_MIN_MB = 64


@dataclass(frozen=True)
class BakeRequest:
    """What a bake is asked for; times in seconds, space in MB (10⁶ bytes). Made by ``request_from``, which validates."""

    wanted: DriverWanted
    kernels: Any = kernels.NEWEST
    flavour: str = "any"
    mode: str = manifest.CAPTURED
    blacklist_nouveau: bool = True
    marker_path: str = marker.DEFAULT_PATH
    tries: int = 3
    delay_s: float = 10.0
    try_s: float = 600.0
    min_free_mb: int = MIN_FREE_MB
    release_notes: str = f"/{manifest.STORE}/release-notes.txt"
    signing: SigningKey | None = None


def request_from(params: Mapping[str, Any]) -> BakeRequest:
    """Validates the options of a bake, as a role's variables give them. Raises InputError."""
    mode = params.get("mode") or manifest.CAPTURED
    if mode not in MODES:
        raise InputError(f"nvidia_prebake_mode: {mode!r} is not one of {', '.join(MODES)}")
    flavour = params.get("flavour") or "any"
    if flavour not in FLAVOURS:
        raise InputError(f"nvidia_prebake_flavour: {flavour!r} is not one of {', '.join(FLAVOURS)}")
    for name in ("marker_path", "release_notes"):
        value = params.get(name)
        if value and (not str(value).startswith("/") or ".." in str(value).split("/")):
            raise InputError(f"nvidia_prebake_{name}: {value!r} is not an absolute path")
    for name, least in (("tries", 1), ("try_s", 1), ("delay_s", 0), ("min_free_mb", 0)):
        value = params.get(name)
        if value is not None and value < least:
            raise InputError(f"nvidia_prebake_{name}: {value} is less than {least}")
    defaults = BakeRequest(imageref.wanted(params.get("image"), params.get("pull_image"), params.get("kind"), params.get("version")))
    return BakeRequest(
        wanted=defaults.wanted,
        kernels=params.get("kernels") or kernels.NEWEST,
        flavour=flavour,
        mode=mode,
        blacklist_nouveau=bool(_or(params.get("blacklist_nouveau"), defaults.blacklist_nouveau)),
        marker_path=params.get("marker_path") or defaults.marker_path,
        tries=int(params.get("tries") or defaults.tries),
        delay_s=float(_or(params.get("delay_s"), defaults.delay_s)),
        try_s=float(params.get("try_s") or defaults.try_s),
        min_free_mb=int(_or(params.get("min_free_mb"), defaults.min_free_mb)),
        release_notes=params.get("release_notes") or defaults.release_notes,
        signing=signing.request_from(params),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


@dataclass(frozen=True)
class Preflight:
    """What was found: the target kernels, the architecture, packages that a compile still needs, what is only worth saying, what the bake
    will make of nouveau, in words, and the signing certificate (None where nothing is to be signed, or openssl is among the missing
    packages)."""

    kernels: tuple[str, ...]
    arch: str
    missing_packages: tuple[str, ...]
    warnings: tuple[str, ...]
    nouveau: str
    certificate: Certificate | None = None


def check(root: Path, runner: Runner, containerd: Containerd, request: BakeRequest) -> Preflight:
    """Raises GpuNodeError when a bake must not begin; changes nothing."""
    host.require_root()
    arch = host.require_supported(root, os.uname().machine)
    targets = kernels.targets(root, request.kernels)
    if request.mode == manifest.IN_PLACE and len(targets) != 1:
        raise InputError(f"nvidia_prebake_kernels: {', '.join(targets)}: the mode in_place bakes for exactly one kernel")
    if not (root / JOURNAL).exists():  # else what is here is an interrupted bake's, which the next one takes back before it looks again
        _refuse_foreign(root, arch)
    blacklist = nouveau.look(root, nouveau.drivers_files(root))
    nouveau.require(blacklist)
    if request.mode == manifest.CAPTURED:
        sandbox.require(root)
    require_space(root, request.min_free_mb)
    if not containerd.is_ready():
        raise PreflightError(
            "containerd does not answer (ctr version): install and start it before the bake; driver containers run under it",
            code="containerd_unavailable",
        )
    certificate, said = _check_signing(root, runner, request)
    missing = [name for kver in targets for name in toolchain.missing_packages(runner, kver, root)]
    if request.signing and not certificate:
        missing.append(toolchain.OPENSSL)
    says = nouveau.decide(blacklist, request.blacklist_nouveau).says
    return Preflight(targets, arch, tuple(dict.fromkeys(missing)), (*_warnings(root, arch, request, targets[0]), *said), says, certificate)


def _check_signing(root: Path, runner: Runner, request: BakeRequest) -> tuple[Certificate | None, tuple[str, ...]]:
    if request.signing is None or not toolchain.exists(runner, toolchain.OPENSSL):
        return None, ()
    return signing.check(root, runner, request.signing)


def require_tools(root: Path, runner: Runner, kver: str, request: BakeRequest) -> None:
    """Raises PreflightError with everything that a compile for ``kver`` lacks, and what it takes to sign where that is asked for."""
    toolchain.require(runner, root, kver, signs=request.signing is not None)


def _refuse_foreign(root: Path, arch: str) -> None:
    found_layers, problems = manifest.read_all(root)
    newer = manifest.newer(root) if problems else ""
    if newer:
        raise PreflightError(
            f"{newer}: it was written by a newer version of this program: bake with that one, or into a fresh image", code="store_newer"
        )
    if problems:
        raise PreflightError(
            f"an earlier bake cannot be read: {problems[0]}. Start from a fresh image, or remove /{manifest.LAYERS}",
            code="manifest_invalid",
        )
    active = activated.read(root)
    # A captured layer accounts for what is in the image itself only while it is active; the bake then takes it away first.
    layers = [m for m in found_layers if m.mode == manifest.IN_PLACE or (active and m.layer == active.layer)]
    versions = {m.identity.version for m in layers}
    found = foreign.signs(root, arch, versions, {e.path for m in layers for e in m.files})
    if found:
        raise PreflightError(
            f"a driver that is not ours is in this image: {'; '.join(found[:5])}. Bake into an image without one (two owners would merge)",
            code="foreign_driver",
            details={"found": list(found)},
        )


def require_space(root: Path, min_free_mb: int, who: str = "a bake", option: str = "nvidia_prebake_min_free_mb") -> None:
    """Raises PreflightError, which says how much is missing where, for ``who`` and by which option (B6)."""
    seen: set[int] = set()
    for name in _SPACE_PATHS:
        path = _existing(root / name)
        status = os.statvfs(path)
        device = path.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        needed = min(min_free_mb, _BOOT_MIN_MB) if name in ("boot", "tmp") else min_free_mb
        free = status.f_bavail * status.f_frsize // 10**6
        if free < needed:
            raise PreflightError(
                f"{path}: {free} MB free, {who} needs {needed} MB there, {needed - free} MB are missing: "
                f"give the build machine a larger disk, or set {option}",
                code="no_space",
            )
        # btrfs and others without a fixed number of inodes say 0 of 0
        if status.f_files and status.f_favail < _MIN_INODES and min_free_mb:
            raise PreflightError(f"{path}: {status.f_favail} inodes free, {who} needs {_MIN_INODES}", code="no_space")


def free_space(root: Path) -> str:
    """Free space where a bake writes, in words."""
    shown: dict[int, str] = {}
    for name in _SPACE_PATHS:
        path = _existing(root / name)
        status = os.statvfs(path)
        shown.setdefault(path.stat().st_dev, f"{path} has {status.f_bavail * status.f_frsize // 10**6} MB free")
    return ", ".join(shown.values())


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _warnings(root: Path, arch: str, request: BakeRequest, first: str) -> tuple[str, ...]:
    found: list[str] = []
    if request.kernels in (kernels.NEWEST, [kernels.NEWEST]):
        found += bootloader.default_kernel(root).warnings
        found += filter(None, [kernels.of_another_flavour(root, first, os.uname().release)])
    if not imports_dropins(root):
        found.append(
            "containerd's /etc/containerd/config.toml does not import config.d: on a node the nvidia runtime would not be in force; "
            'add imports = ["/etc/containerd/config.d/*.toml"]'
        )
    if host.secure_boot(root) and not request.signing:
        found.append("Secure Boot is on here: nodes that enforce signatures will refuse modules that are not signed with a key they trust")
    if arch != "x86_64":
        found.append(f"{arch} goes by the same rules as x86_64 and has not been tested")
    return tuple(found)
