"""The initramfs images of Debian's initramfs-tools: which of them contain a driver's module, or a file that was removed (B13)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..errors import CommandError
from ..system import kernels
from ..util.run import Runner
from .modules import is_driver_file

_LIST_S = 120.0
_UPDATE_S = 300.0
_LISTER = "usr/bin/lsinitramfs"


def path_of(root: Path, kver: str) -> Path:
    """The path of one kernel's image, whether that exists or not."""
    return root / f"boot/initrd.img-{kver}"


def can_be_listed(root: Path) -> bool:
    """Whether the system at ``root`` has initramfs-tools, which can list an image's contents."""
    return (root / _LISTER).exists()


def contents(root: Path, runner: Runner) -> dict[str, tuple[str, ...]]:
    """The files in each installed kernel's initramfs, if it has one, as paths relative to the initramfs. Raises CommandError."""
    if not can_be_listed(root):
        return {}
    return {kver: _listed(runner, image) for kver, image in _images(root).items()}


def _images(root: Path) -> dict[str, Path]:
    return {kver: image for kver in kernels.installed(root) if (image := path_of(root, kver)).is_file()}


def _listed(runner: Runner, image: Path) -> tuple[str, ...]:
    return tuple(runner.run(["lsinitramfs", str(image)], timeout_s=_LIST_S).stdout.split())


def holding(root: Path, runner: Runner, paths: Collection[str]) -> tuple[str, ...]:
    """Kernels whose initramfs contains one of ``paths`` (relative to the root) or one of the driver's modules. Raises CommandError."""
    listed = contents(root, runner)
    return tuple(kver for kver in listed if _is_held(listed[kver], paths))


def problems(root: Path, runner: Runner) -> tuple[str, ...]:
    """Which images of the system at ``root`` contain one of the driver's modules, or cannot be listed, a text for each."""
    found = []
    for kver, image in _images(root).items():
        try:
            if _is_held(_listed(runner, image), ()):
                found.append(f"/boot/{image.name}: contains a module of the driver: run update-initramfs -u -k {kver}")
        except CommandError as error:
            found.append(
                f"/boot/{image.name}: its contents cannot be listed: {error}: install initramfs-tools on the machine that runs the seal"
            )
    return tuple(found)


def _is_held(listed: Collection[str], paths: Collection[str]) -> bool:
    return any(path in paths or is_driver_file(path.rpartition("/")[2]) for path in listed)


def regenerate(runner: Runner, kver: str) -> None:
    """Makes the initramfs of one kernel of this machine again. Raises CommandError."""
    runner.run(["update-initramfs", "-u", "-k", kver], timeout_s=_UPDATE_S)
