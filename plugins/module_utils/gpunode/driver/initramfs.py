"""The initramfs images of initramfs-tools or dracut: which of them contain a driver's module, or a file that was removed (B13)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CommandError
from ..system import kernels
from ..util.bounded import lines
from ..util.expressions import expression
from ..util.run import Runner
from .modules import is_driver_file

_LIST_S = 120.0
_UPDATE_S = 300.0
# A line of a long listing of cpio(1): mode, links, owner, group, size or device numbers, time in three words, name.
_LONG = expression(r"[-bcdlps][-rwxsStT]{9} +\d+ +\S+ +\S+ +\d+(?:, *\d+)? +\S+ +\d+ +[\d:]+ (?P<name>.+)")
_DRACUTS = ("usr/lib/dracut/", "lib/dracut/")
_BY_DRACUT = "usr/bin/dracut"


@dataclass(frozen=True)
class Listing:
    """The files in one image, as paths relative to it."""

    paths: tuple[str, ...]

    @property
    def is_dracuts(self) -> bool:
        """Whether dracut made the image: then its notes and hooks are in it."""
        return any(path.startswith(_DRACUTS) for path in self.paths)


def names(text: str) -> Iterator[str]:
    """The paths in the output of ``lsinitramfs``: one in a line."""
    return (line for line in lines(text) if line)


def long_names(text: str) -> Iterator[str]:
    """The paths in the output of ``lsinitrd``: long listings, and between them what dracut notes."""
    for match in filter(None, map(_LONG.fullmatch, lines(text))):
        yield match["name"].partition(" -> ")[0]


# The programs that list an image, the first that is there. Each reads what either tool made.
_PROGRAMS: tuple[tuple[str, Callable[[str], Iterator[str]]], ...] = (("lsinitramfs", names), ("lsinitrd", long_names))
LISTERS = " and ".join(name for name, _read in _PROGRAMS)


def path_of(root: Path, kver: str) -> Path:
    """The path of one kernel's image, whether that exists or not."""
    return root / f"boot/initrd.img-{kver}"


def can_be_listed(root: Path) -> bool:
    """Whether the system at ``root`` has a program that lists an image's contents."""
    return any((root / "usr/bin" / name).exists() for name, _read in _PROGRAMS)


def is_by_dracut(root: Path) -> bool:
    """Whether the system at ``root`` makes its images with dracut."""
    return (root / _BY_DRACUT).exists()


def contents(root: Path, runner: Runner) -> dict[str, Listing]:
    """The files in each installed kernel's initramfs, if it has one. Raises CommandError."""
    if not can_be_listed(root):
        return {}
    return {kver: _listed(runner, image) for kver, image in _images(root).items()}


def _images(root: Path) -> dict[str, Path]:
    return {kver: image for kver in kernels.installed(root) if (image := path_of(root, kver)).is_file()}


def _listed(runner: Runner, image: Path) -> Listing:
    for program, read in _PROGRAMS:
        argv = [program, str(image)]
        try:
            found = tuple(path.removeprefix("./") for path in read(runner.run(argv, timeout_s=_LIST_S).stdout))
        except CommandError as error:
            if error.rc is not None or error.timed_out:
                raise
            continue  # it is missing
        if not found:
            raise CommandError(argv, 0, "", "it lists no file, so the image is damaged or of a kind that it cannot read")
        return Listing(found)
    raise CommandError([LISTERS], None, "", "missing or not executable")


def holding(root: Path, runner: Runner, paths: Collection[str]) -> tuple[str, ...]:
    """Kernels whose initramfs contains one of ``paths`` (relative to the root) or one of the driver's modules. Raises CommandError."""
    return tuple(kver for kver, listing in contents(root, runner).items() if _is_held(listing, paths))


def problems(root: Path, runner: Runner) -> tuple[str, ...]:
    """Which images of the system at ``root`` contain one of the driver's modules, or cannot be listed, a text for each."""
    found = []
    for kver, image in _images(root).items():
        try:
            if _is_held(_listed(runner, image), ()):
                found.append(f"/boot/{image.name}: contains a module of the driver: run update-initramfs -u -k {kver}")
        except CommandError as error:
            found.append(
                f"/boot/{image.name}: its contents cannot be listed: {error}: install initramfs-tools or dracut on the machine that runs "
                "the seal"
            )
    return tuple(found)


def _is_held(listing: Listing, paths: Collection[str]) -> bool:
    return any(path in paths or is_driver_file(path.rpartition("/")[2]) for path in listing.paths)


def regenerate(runner: Runner, kver: str) -> None:
    """Makes the initramfs of one kernel of this machine again. Raises CommandError."""
    runner.run(["update-initramfs", "-u", "-k", kver], timeout_s=_UPDATE_S)
