"""Drivers that are not ours: a distribution's packages, another tool's DKMS tree, loose files, a GPU operator's (B9, R3, R5)."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from ..system.dpkg import installed_packages, owned_by
from ..system.host import TRIPLETS
from ..util.expressions import expression
from ..util.files import ABSENT, read_bytes, read_text, relative
from ..util.folders import matching
from . import dkms
from .footprint import CONTRACT_LIBRARIES
from .modules import LoadedModule, is_driver_file

# Packages of a driver. The container toolkit, fabric manager and persistenced are not, because the driver container installs them; nor
# are NVSwitch's libraries, which DCGM needs on HGX, nor those of EGL's platforms, which work with any driver.
_DRIVER_PACKAGE = expression(
    r"(nvidia-driver|nvidia-kernel|nvidia-open|nvidia-dkms|nvidia-headless|nvidia-utils|nvidia-legacy|cuda-drivers|linux-modules-nvidia"
    r"|linux-objects-nvidia|libcuda1|libnvidia-(?!container|nscq|nsdm|nvsdm|egl-)|xserver-xorg-video-nvidia)[a-z0-9.+-]*"
)
# What only a driver has: modules or parts of them, sources, firmware, programs, and libraries with the driver's version in their name.
# Packages that only pin a version, bring a repository or choose a driver have names like a driver's, and nothing of it.
_DRIVER_FILE = expression(
    r"(?:usr/)?lib/modules/[^/]{1,255}/.{0,255}nvidia|usr/src/(?:modules/)?nvidia|(?:usr/)?lib/firmware/nvidia/\d"
    r"|(?:usr/|opt/|etc/).{0,1000}/(?:nvidia-smi|nvidia_drv\.so|lib(?:cuda|nvidia-ml)\.so[^/]*|lib[^/]{1,100}\.so\.\d{3,4}\.\d{1,4}(?:\.\d{1,4})?)$"
)
# Packages that work with a driver and must be of its version (above all those for NVSwitch).
_SERVICE_PACKAGE = expression(r"(nvidia-fabricmanager|nvidia-persistenced|nvidia-imex|libnvidia-nscq)[a-z0-9.+-]*")
# Files that the GPU operator's driver container and validator leave (gpu-operator, validator/main.go and driver container).
_VALIDATED = "run/nvidia/validations/driver-ready"
_OPERATOR = ("run/nvidia/driver/usr", _VALIDATED, "run/nvidia/validations/.driver-ctr-ready")
# The validator writes this line if it found the host's own driver: then its file is no sign of another owner.
_HOST_DRIVER = expression(r"^\s*IS_HOST_DRIVER=true\s*$", re.MULTILINE)
# A main library with the driver's version in its name; the loader's links (.so, .so.1) have none.
_MAIN_LIBRARY = expression(r"lib(?:nvidia-ml|cuda)\.so\.(?P<version>\d{3,}\.\d+(?:\.\d+)?)")
# ld.so.cache has whole paths, each ended by a NUL.
_CACHED = expression(rb"/lib(?:nvidia-ml|cuda)\.so[^\0/]*")
_PATH_MAX = 4096
# Folders that are searched anyway; and those in which CUDA has libraries that are named like a driver's and are none: its package for
# forward compatibility, and stubs to link with.
_USUAL = "|".join((CONTRACT_LIBRARIES, *(f"(?:usr/)?lib/{triplet}" for triplet in TRIPLETS.values())))
_CUDAS = expression(r"/(?:compat|stubs)/[^/]*$")
_NO_SIGN = expression(rf"^(?:{_USUAL})/[^/]*$|/(?:compat|stubs)/[^/]*$")


def operator_signs(root: Path) -> tuple[str, ...]:
    """Files by which a GPU operator says that it owns the driver."""
    found = [path for path in _OPERATOR if (root / path).exists()]
    if _VALIDATED in found and _HOST_DRIVER.search(read_text(root / _VALIDATED) or ""):
        found.remove(_VALIDATED)
    return tuple(f"/{path}" for path in found)


def driver_packages(root: Path) -> tuple[str, ...]:
    """The installed packages that have something of a driver. Raises OSError if dpkg's status cannot be read."""
    return tuple(name for name, _version in installed_packages(root) if _DRIVER_PACKAGE.fullmatch(name) and _may_hold_driver(root, name))


def _may_hold_driver(root: Path, package: str) -> bool:
    """Whether a package has a driver's file, or what it has is unknown."""
    try:
        owned = owned_by(root, package)
    except OSError:
        return True
    return not owned or any(_DRIVER_FILE.match(path) and not _CUDAS.search(path) for path in owned)


def service_packages(root: Path) -> tuple[tuple[str, str], ...]:
    """The installed packages that need a driver of their own version: name, and the driver's version, from the package's."""
    found = [(name, version) for name, version in installed_packages(root) if _SERVICE_PACKAGE.fullmatch(name)]
    return tuple((name, version.rpartition(":")[2].partition("-")[0]) for name, version in found)


def module_files(root: Path) -> tuple[str, ...]:
    """NVIDIA modules below /lib/modules, relative to the root with merged /usr resolved, dangling links included."""
    found = []
    top = root / "lib/modules"
    for folder in ("updates", "extra", "kernel/drivers/video", "kernel/nvidia*", "weak-updates"):
        for path in matching(top, f"*/{folder}/**/*.ko*"):
            if is_driver_file(path.name):
                found.append(relative(root, path))
    return tuple(sorted(set(found)))


def libraries(root: Path, arch: str) -> tuple[str, ...]:
    """The driver's main libraries in the loader's usual folder, dangling links included."""
    folder = root / "usr/lib" / TRIPLETS[arch]
    names = [p for pattern in ("libnvidia-ml.so*", "libcuda.so*") for p in matching(folder, pattern)]
    return tuple(sorted(relative(root, p) for p in names))


def cached_libraries(root: Path) -> tuple[str, ...]:
    """The driver's main libraries that the loader finds in other than the usual folders: other tools use folders of their own. Raises
    OSError."""
    try:
        cached = read_bytes(root / "etc/ld.so.cache")
    except OSError as error:
        if error.errno in ABSENT:
            return ()
        raise
    found = {path.decode(errors="surrogateescape").lstrip("/") for path in _cached_paths(cached)}
    return tuple(sorted(path for path in found if not _NO_SIGN.search(path) and os.path.lexists(root / path)))


def _cached_paths(cached: bytes) -> Iterator[bytes]:
    """The names of these libraries in the loader's cache, which end with a NUL byte. The end of a name is looked for first: an expression
    that begins at any slash takes the square of a name's length."""
    for match in _CACHED.finditer(cached):
        before = cached[max(0, match.start() - _PATH_MAX) : match.start()].rpartition(b"\0")[2]
        path = before + match[0]
        if b"/" in before and len(path) < _PATH_MAX:
            yield path[path.index(b"/") :]


def resident_signs(loaded: Collection[LoadedModule], versions: Collection[str]) -> tuple[str, ...]:
    """A driver in the kernel that is of none of ``versions``; its files may be anywhere. One without a known version may be ours if we
    have any."""
    main = next((m for m in loaded if m.name == "nvidia"), None)
    if main is None or main.version in versions or (versions and not main.version):
        return ()
    return (f"module nvidia {main.version or 'of unknown version'} in the kernel",)


def _is_strange(path: str, own_versions: Collection[str]) -> bool:
    match = _MAIN_LIBRARY.fullmatch(path.rpartition("/")[2])
    return bool(match and match["version"] not in own_versions)


def _real_name(root: Path, path: str) -> str:
    """The name of the file behind the loader's links, which contains the version."""
    return (root / path).resolve().name


def signs(root: Path, arch: str, own_versions: Collection[str], own_files: Collection[str]) -> tuple[str, ...]:
    """Signs of a foreign driver, a text for each; ``own_versions`` and ``own_files`` are those in our layers and records.

    Raises OSError if a folder cannot be listed: what is there may be somebody's.
    """
    found = [f"package {name}" for name in driver_packages(root)]
    for one in dkms.registered(root):
        if one.version and (one.name != dkms.MODULE or one.version not in own_versions):
            found.append(f"DKMS tree /{one.path}")
    elsewhere = [path for path in cached_libraries(root) if path not in own_files]
    found += [f"library /{path}" for path in elsewhere if not own_versions or _is_strange(_real_name(root, path), own_versions)]
    if own_versions:
        # A full install or DKMS's kernel hook may have added files of the same driver.
        found += [f"library /{path}" for path in libraries(root, arch) if path not in own_files and _is_strange(path, own_versions)]
    else:
        found += [f"module /{path}" for path in module_files(root) if path not in own_files]
        found += [f"library /{path}" for path in libraries(root, arch) if path not in own_files]
    return tuple(found)
