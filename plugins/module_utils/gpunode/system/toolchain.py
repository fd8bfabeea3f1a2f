"""What a compile needs on the host, looked for before it starts: it would fail a minute in (B1, NVIDIA.md)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import CommandError, PreflightError
from ..util.files import read_text
from ..util.run import Runner
from . import kernels

# What the contract's install.sh and DKMS call, by the package that brings it in Debian and Ubuntu. gcc alone brings no libc headers.
PACKAGES = ("dkms", "gcc", "initramfs-tools", "kmod", "libc6-dev", "lsof", "make", "mount")
OPENSSL = "openssl"  # program and package; needed to sign only
_PROGRAMS = ("dkms", "gcc", "depmod", "ldconfig", "lsof", "make", "mount", "update-initramfs")
_HOST_TOOLS = ("tools/objtool/objtool", "scripts/basic/fixdep", "scripts/mod/modpost")
_LIMIT_S = 30
# Ubuntu: "x86_64-linux-gnu-gcc-12 (Ubuntu …) 12.3.0". A plain "gcc (Debian …) 12.2.0" names no program that must be there.
_CONFIG_CC = re.compile(r'^CONFIG_CC_VERSION_TEXT="(?:[\w-]+-)?(gcc-\d+)[ "]', re.MULTILINE)


def missing_packages(runner: Runner, kver: str, root: Path = Path("/")) -> tuple[str, ...]:
    """Packages that are needed to compile for ``kver`` and not installed, for apt.

    The kernel's own compiler is among them when the headers, which name it, are there already and it is missing.
    """
    wanted = (*PACKAGES, kernels.headers_package(kver))
    shown = runner.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted], ok=None, timeout_s=_LIMIT_S)
    there = {line.split()[0] for line in shown.stdout.splitlines() if line.endswith(" installed")}
    missing = [name for name in wanted if name not in there]
    compiler = kernel_compiler(root / "lib/modules" / kver / "build")
    if compiler and not exists(runner, compiler):
        missing.append(compiler)
    return tuple(missing)


def problems(runner: Runner, root: Path, kver: str) -> tuple[str, ...]:
    """What is missing or broken for a compile for ``kver``, each in words; empty when all is there."""
    found = []
    for program in _PROGRAMS:
        if not exists(runner, program):
            found.append(f"{program} is missing")
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


def absent(root: Path, kver: str) -> tuple[str, ...]:
    """What of it an image that lies mounted at ``root`` lacks, as far as files tell; nothing of the image is run."""
    folders = ("usr/sbin", "usr/bin", "sbin", "bin")
    found = [f"{program} is missing" for program in _PROGRAMS if not any(os.path.lexists(root / folder / program) for folder in folders)]
    if not any(root.glob("usr/include/**/stdio.h")):
        found.append("the C library's headers are missing (package libc6-dev)")
    if not kernels.has_headers(root, kver):
        found.append(f"the headers of kernel {kver} are missing (package {kernels.headers_package(kver)})")
    return tuple(found)


def require(runner: Runner, root: Path, kver: str, signs: bool = False) -> None:
    """Raises PreflightError with everything that ``problems`` finds, and what signing needs where ``signs``."""
    found = problems(runner, root, kver)
    if signs and not exists(runner, OPENSSL):
        found = (*found, f"{OPENSSL} is missing, which signing needs")
    if found:
        raise PreflightError(
            f"cannot compile for kernel {kver}: {'; '.join(found)}. Install these first, or leave nvidia_prebake_install_tools on",
            code="tools_missing",
            details={"problems": list(found)},
        )


def kernel_compiler(build: Path) -> str | None:
    """The compiler's name (``gcc-12``), which is its package's too; None where the headers do not name one with a version.

    From Debian's ``.kernelvariables``, else from what the compiler called itself when the kernel was configured, in ``.config``.
    """
    match = re.search(r"\bCC\s*:?=.*?(gcc-\d+)", read_text(build / ".kernelvariables") or "")
    match = match or _CONFIG_CC.search(read_text(build / ".config") or "")
    return match[1] if match else None


def _needs_pahole(build: Path) -> bool:
    # Without vmlinux beside the headers the kernel's build skips BTF and says so, which is harmless.
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
    lines = [line.strip() for line in text.splitlines() if "not found" in line]
    return [f"{tool} cannot run here: {line}" for line in lines]
