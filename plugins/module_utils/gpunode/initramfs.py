"""initramfs images of Debian's initramfs-tools: which of them hold a driver's module, or a file that has gone from the disk (B13)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from . import kernels
from .errors import CommandError
from .kmod import is_driver_file
from .runner import Runner

_LIST_S = 120.0
_UPDATE_S = 300.0
_LISTER = "usr/bin/lsinitramfs"


def holding(root: Path, runner: Runner, paths: Collection[str]) -> tuple[str, ...]:
    """Kernels whose initramfs holds one of ``paths`` (relative to the root) or one of the driver's modules. Raises CommandError."""
    if not (root / _LISTER).exists():
        return ()
    return tuple(kver for kver, image in _images(root).items() if _holds(runner, image, paths))


def _images(root: Path) -> dict[str, Path]:
    images = {kver: root / f"boot/initrd.img-{kver}" for kver in kernels.installed(root)}
    return {kver: image for kver, image in images.items() if image.is_file()}


def problems(root: Path, runner: Runner) -> tuple[str, ...]:
    """Which images of the system at ``root`` hold one of the driver's modules, or cannot be looked into, each in words."""
    found = []
    for kver, image in _images(root).items():
        try:
            if _holds(runner, image, ()):
                found.append(f"/boot/{image.name}: holds a module of the driver's: update-initramfs -u -k {kver}")
        except CommandError as error:
            found.append(f"/boot/{image.name}: what it holds cannot be told: {error}: have initramfs-tools on the machine that looks")
    return tuple(found)


def _holds(runner: Runner, image: Path, paths: Collection[str]) -> bool:
    listed = runner.run(["lsinitramfs", str(image)], timeout_s=_LIST_S).stdout.split()
    return any(path in paths or is_driver_file(path.rpartition("/")[2]) for path in listed)


def make_anew(runner: Runner, kver: str) -> None:
    """Makes the initramfs of one kernel of this machine anew. Raises CommandError."""
    runner.run(["update-initramfs", "-u", "-k", kver], timeout_s=_UPDATE_S)
