"""The kernels installed in a system: which there are, which of them to bake for, and where their headers are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, PreflightError
from ..util.expressions import expression
from ..util.folders import matching, names_in
from . import bootloader

NEWEST, ALL = "newest", "all"
_VERSION = expression(r"\d[\d.]*(?:\+[\w.~]+)?(?:-\d[\w.]*)?-")
_KVER = expression(r"\d+\.\d+[A-Za-z0-9.+~_-]*")


def is_release(text: str) -> bool:
    """Whether ``text`` looks like what ``uname -r`` prints; such a text is safe as the name of a folder."""
    return bool(_KVER.fullmatch(text))


def kernel_flavour(kver: str) -> str:
    """What follows the version in a release, such as ``azure`` or ``cloud-amd64``; "" if nothing does."""
    return _VERSION.sub("", kver, count=1) if _VERSION.match(kver) else ""


def of_another_flavour(root: Path, target: str, running: str) -> str:
    """A warning if the boot loader's default kernel is of another flavour than the running one, which is installed too; "" otherwise.

    The target is still right, because it will boot; but the boot loader's default may be a mistake.
    """
    if kernel_flavour(target) == kernel_flavour(running) or running not in installed(root):
        return ""
    return (
        f"the boot loader starts {target} by default, a kernel of another flavour than {running}, which is running and installed: "
        "if the image is not meant to boot it, change the boot loader's default or set nvidia_prebake_kernels"
    )


def version_key(kver: str) -> tuple[object, ...]:
    """A sort key in the order of ``sort -V``: runs of digits compare as numbers, ``~`` before the end, letters before all else."""
    parts = re.split(r"([0-9]+)", kver)  # text and numbers in turn, text first
    return tuple(int(part) if index % 2 else (*map(_rank, part), 0) for index, part in enumerate(parts))


def _rank(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 0x110000


def installed(root: Path) -> tuple[str, ...]:
    """Releases of the kernels that have modules of their own, oldest first. A folder with only the link to headers is not one."""
    names = names_in(root / "lib/modules")
    return tuple(sorted((name for name in names if is_installed(root, name)), key=version_key))


def is_installed(root: Path, kver: str) -> bool:
    """Whether a kernel has modules of its own. A removed kernel can leave a folder with only other packages' modules."""
    return (root / "lib/modules" / kver / "kernel").is_dir()


def has_headers(root: Path, kver: str) -> bool:
    """Whether a module can be compiled for a kernel: its ``build`` leads to a tree with a Makefile."""
    return (headers(root, kver) / "Makefile").is_file()


def headers(root: Path, kver: str) -> Path:
    """The folder that a kernel's ``build`` leads to, also inside a mounted image."""
    build = root / "lib/modules" / kver / "build"
    if build.is_symlink() and build.readlink().is_absolute():
        build = root / str(build.readlink()).lstrip("/")
    return build


def with_headers(root: Path) -> tuple[str, ...]:
    """Releases that have a ``build``, wherever it leads: an unmodified driver image chooses from these."""
    return tuple(sorted((p.parent.name for p in matching(root / "lib/modules", "*/build")), key=version_key))


def headers_package(kver: str) -> str:
    """Debian's and Ubuntu's name of the headers' package: in both it contains the whole kernel release, for every flavour."""
    return f"linux-headers-{kver}"


def targets(root: Path, wanted: Any) -> tuple[str, ...]:
    """The kernels to bake for: ``newest``, ``all``, a release, or a list of releases. Raises InputError, PreflightError.

    ``newest`` is the kernel that the boot loader starts by default. That need not be the one with the highest version, and the running
    kernel is never taken by accident (B3).
    """
    asked = choices(wanted)
    present = installed(root)
    if asked == (NEWEST,):
        return (_booting(root, present),)
    if asked == (ALL,):
        if not present:
            raise _none(root)
        return present
    return tuple(_one(root, choice, present) for choice in asked)


def choices(wanted: Any) -> tuple[str, ...]:
    """The value of ``nvidia_prebake_kernels``: ``newest`` or ``all`` alone, or releases. Raises InputError."""
    found = wanted if isinstance(wanted, list) else [wanted]
    if not found or len(set(map(str, found))) != len(found):
        raise InputError(f"nvidia_prebake_kernels: {wanted!r}: name each kernel once, or set {NEWEST} or {ALL}")
    if len(found) > 1 and (NEWEST in found or ALL in found):
        raise InputError(f"nvidia_prebake_kernels: {wanted!r}: {NEWEST} and {ALL} cannot be combined with others in a list")
    for choice in found:
        if choice not in (NEWEST, ALL) and not (isinstance(choice, str) and is_release(choice)):
            several = "; give several as a list" if isinstance(choice, str) and re.search(r"[,\s]", choice.strip()) else ""
            raise InputError(
                f"nvidia_prebake_kernels: {choice!r} is neither {NEWEST} nor {ALL} nor a kernel release as uname -r prints it{several}"
            )
    return tuple(found)


def _none(root: Path) -> PreflightError:
    return PreflightError(f"no kernel is installed under {root / 'lib/modules'}: install one, or name a release", code="no_kernel")


def _one(root: Path, choice: str, present: Sequence[str]) -> str:
    if choice not in present and not has_headers(root, choice):
        raise PreflightError(
            f"kernel {choice} is not installed; installed are: {_listing(present)}. Install it or name one of these",
            code="no_kernel",
        )
    return choice


def _booting(root: Path, present: Sequence[str]) -> str:
    """The kernel that boots: the only one, or the one that the boot loader starts by default."""
    if not present:
        raise _none(root)
    if len(present) == 1:
        return present[0]
    choice = bootloader.default_kernel(root)
    if choice.kver in present:
        return choice.kver
    what = f"{choice.reason}, which boots {choice.kver}, but that kernel is not installed" if choice.kver else choice.reason
    raise PreflightError(
        f"several kernels are installed ({_listing(present)}), and which one boots is unknown: {what}. "
        "Set nvidia_prebake_kernels to the release that will boot",
        code="kernel_unclear",
    )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
