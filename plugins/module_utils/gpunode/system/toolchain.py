"""What a compile needs on the host, checked before it starts, because it would fail only after a minute (B1)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import CommandError, PreflightError
from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import read_text
from ..util.run import Runner
from . import kernels

# The packages of Debian and Ubuntu with the programs that the contract's install.sh and DKMS call. gcc does not bring libc's headers.
PACKAGES = ("dkms", "gcc", "initramfs-tools", "kmod", "libc6-dev", "lsof", "make", "mount")
# One of these makes the images; they conflict, so that apt would remove dracut to install the other.
_INITRAMFS, _DRACUT = "initramfs-tools", "dracut"
_UPDATE_INITRAMFS = "update-initramfs"
OPENSSL = "openssl"  # program and package; needed only to sign
_PROGRAMS = ("dkms", "gcc", "depmod", "ldconfig", "lsof", "make", "mount", _UPDATE_INITRAMFS)
_HOST_TOOLS = ("tools/objtool/objtool", "scripts/basic/fixdep", "scripts/mod/modpost")
_MAKES_CC = expression(r"\bCC[ \t]*:?=.*?(gcc-\d+)")  # Debian's .kernelvariables
_LIMIT_S = 30
# Ubuntu: "x86_64-linux-gnu-gcc-12 (Ubuntu …) 12.3.0". A plain "gcc (Debian …) 12.2.0" names no particular program.
_CONFIG_CC = expression(r'^CONFIG_CC_VERSION_TEXT="(?:[\w-]+-)?(gcc-\d+)[ "]', re.MULTILINE)


def missing_packages(runner: Runner, kver: str, root: Path = Path("/")) -> tuple[str, ...]:
    """The packages that a compile for ``kver`` needs and that are not installed, for apt.

    The kernel's own compiler is among them if it is missing and the headers, which name it, are installed.
    """
    wanted = (*PACKAGES, kernels.headers_package(kver))
    shown = runner.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted], ok=None, timeout_s=_LIMIT_S)
    there = {line.split()[0] for line in lines(shown.stdout) if line.endswith(" installed")}
    missing = [name for name in wanted if name not in there]
    if _INITRAMFS in missing and any(exists(runner, program) for program in (_UPDATE_INITRAMFS, _DRACUT)):
        missing.remove(_INITRAMFS)
    compiler = kernel_compiler(root / "lib/modules" / kver / "build")
    if compiler and not exists(runner, compiler):
        missing.append(compiler)
    return tuple(missing)


def problems(runner: Runner, root: Path, kver: str) -> tuple[str, ...]:
    """What is missing or broken for a compile for ``kver``, a text for each; empty if nothing is."""
    found = []
    for program in _PROGRAMS:
        if not exists(runner, program):
            found.append(f"{program} is missing{_why_missing(runner, program)}")
    if not any(root.glob("usr/include/**/stdio.h")):
        found.append("the C library's headers are missing (package libc6-dev)")
    if not kernels.has_headers(root, kver):
        found.append(f"the headers of kernel {kver} are missing (package {kernels.headers_package(kver)})")
        return tuple(found)
    build = root / "lib/modules" / kver / "build"
    compiler = kernel_compiler(build)
    if compiler and not exists(runner, compiler):
        found.append(f"{compiler}, with which kernel {kver} was built, is missing (package {compiler})")
    for tool in _HOST_TOOLS:
        if (build / tool).exists():
            found += _missing_libraries(runner, build / tool)
    if _needs_pahole(build) and not exists(runner, "pahole"):
        found.append(f"pahole is missing, kernel {kver} was built with BTF for modules (package pahole)")
    return tuple(found)


def _why_missing(runner: Runner, program: str) -> str:
    if program != _UPDATE_INITRAMFS or not exists(runner, _DRACUT):
        return ""
    return ", which driver images call (dracut is here: take a version of its package that brings it)"


def absent(root: Path, kver: str) -> tuple[str, ...]:
    """What is missing for a compile in an image that is mounted at ``root``, as far as files show; no program of the image is run."""
    folders = ("usr/sbin", "usr/bin", "sbin", "bin")
    found = [f"{program} is missing" for program in _PROGRAMS if not any(os.path.lexists(root / folder / program) for folder in folders)]
    if not any(root.glob("usr/include/**/stdio.h")):
        found.append("the C library's headers are missing (package libc6-dev)")
    if not kernels.has_headers(root, kver):
        found.append(f"the headers of kernel {kver} are missing (package {kernels.headers_package(kver)})")
    return tuple(found)


def require(runner: Runner, root: Path, kver: str, signs: bool = False) -> None:
    """Raises PreflightError with everything that ``problems`` finds, and if ``signs``, with what signing needs."""
    found = problems(runner, root, kver)
    if signs and not exists(runner, OPENSSL):
        found = (*found, f"{OPENSSL} is missing (needed to sign)")
    if found:
        raise PreflightError(
            f"cannot compile for kernel {kver}: {'; '.join(found)}. Install these first, or set nvidia_prebake_install_tools: true",
            code="tools_missing",
            details={"problems": list(found)},
        )


def kernel_compiler(build: Path) -> str | None:
    """The compiler's name (``gcc-12``), which is also its package's; None if the headers name none with a version.

    From Debian's ``.kernelvariables``, or else from ``.config``, which has the compiler's name for itself from the kernel's configuration.
    """
    match = next(filter(None, (_MAKES_CC.search(line) for line in lines(read_text(build / ".kernelvariables"), 1000))), None)
    match = match or _CONFIG_CC.search(read_text(build / ".config") or "")
    return match[1] if match else None


def _needs_pahole(build: Path) -> bool:
    # Without vmlinux beside the headers the kernel's build skips BTF with a harmless message.
    return "CONFIG_DEBUG_INFO_BTF_MODULES=y" in (read_text(build / ".config") or "") and (build / "vmlinux").exists()


def exists(runner: Runner, program: str) -> bool:
    """Whether a program is on the PATH."""
    return runner.run(["sh", "-c", 'command -v "$1"', "sh", program], ok=None, timeout_s=_LIMIT_S).rc == 0


def _missing_libraries(runner: Runner, tool: Path) -> list[str]:
    try:
        shown = runner.run(["ldd", str(tool)], ok=None, timeout_s=_LIMIT_S)
    except CommandError as error:
        return [str(error)]
    text = shown.stdout + shown.stderr
    return [f"{tool} cannot run here: {line.strip()}" for line in lines(text) if "not found" in line]
