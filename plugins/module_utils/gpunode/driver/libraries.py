"""The driver's libraries and programs on a node: where they are, and whether all are of one version (I1, B20)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..system.host import TRIPLETS
from ..util.expressions import expression
from ..util.files import sha256
from ..util.folders import names_in
from .footprint import CONTRACT_LIBRARIES

PROGRAMS = ("usr/bin/nvidia-smi", "usr/bin/nvidia-modprobe", "usr/bin/nvidia-persistenced")
# Some of NVIDIA's libraries (egl-wayland, egl-gbm) have versions of their own, with small first numbers.
_DRIVER_LIBRARY = expression(r"lib(?:nvidia|cuda)[\w-]*\.so\.(?P<version>\d{3,}\.\d+(?:\.\d+)?)")


def library_folders(arch: str) -> tuple[str, ...]:
    """Where the driver container puts libraries: its own folder, and the loader's for second copies."""
    return (CONTRACT_LIBRARIES, f"usr/lib/{TRIPLETS[arch]}")


def driver_libraries(root: Path, arch: str) -> Iterator[tuple[str, str]]:
    """Path and version of each of the driver's libraries that carries the driver's version in its name. Raises OSError."""
    for folder in library_folders(arch):
        for name in names_in(root / folder):
            match = _DRIVER_LIBRARY.fullmatch(name)
            if match:
                yield f"{folder}/{name}", match["version"]


def version_problems(root: Path, arch: str, version: str) -> tuple[str, ...]:
    """Which libraries are of another version, or that none is of this one, a text for each."""
    try:
        found = list(driver_libraries(root, arch))
    except OSError as error:
        return (f"{error.filename} cannot be listed ({error.strerror}), so the libraries there are unknown",)
    problems = [f"/{path} is of version {other}, not {version}" for path, other in found if other != version]
    if not any(other == version for _path, other in found):
        problems.append(f"no driver library of version {version} in {', '.join('/' + f for f in library_folders(arch))}")
    return tuple(problems)


def hashes(root: Path, arch: str) -> dict[str, str]:
    """Path → SHA-256 of the driver's libraries and programs that exist."""
    paths = [path for path, _version in driver_libraries(root, arch)]
    paths += [path for path in PROGRAMS if (root / path).is_file()]
    return {path: sha256(root / path) for path in paths if not (root / path).is_symlink()}
