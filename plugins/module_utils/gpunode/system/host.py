"""What kind of machine this is: architecture, distribution, machine id, Secure Boot; read from files only."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, PreflightError, UnsupportedError
from ..util.files import read_bytes, read_text

_ARCHES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def normal_arch(text: str) -> str | None:
    """``x86_64`` or ``aarch64`` for any of their names, None for any other word (D7)."""
    return _ARCHES.get(text.strip().lower())


@dataclass(frozen=True)
class OsRelease:
    """From os-release(5): the distribution, and those that it is derived from (``like``)."""

    name: str
    id: str
    like: tuple[str, ...]
    version: str

    @property
    def is_debian_family(self) -> bool:
        return "debian" in (self.id, *self.like)


def os_release(root: Path) -> OsRelease:
    """Reads os-release(5) of the system at ``root``; empty fields if it has none."""
    text = read_text(root / "etc/os-release") or read_text(root / "usr/lib/os-release") or ""
    fields = {m[1]: m[2].strip("\"'") for m in re.finditer(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE)}
    return OsRelease(
        fields.get("PRETTY_NAME", fields.get("ID", "unknown")),
        fields.get("ID", ""),
        tuple(fields.get("ID_LIKE", "").split()),
        fields.get("VERSION_ID", ""),
    )


def require_supported(root: Path, machine: str) -> str:
    """The normalised architecture. Raises UnsupportedError for an architecture or a distribution that is not supported."""
    arch = normal_arch(machine)
    if arch is None:
        raise UnsupportedError(f"architecture {machine} is not supported; x86_64 is, and aarch64 by the same rules, but untested")
    release = os_release(root)
    if not release.is_debian_family:
        raise UnsupportedError(
            f"distribution {release.name} ({root / 'etc/os-release'}) is not supported: only the Debian family (apt) is tested"
        )
    return arch


def require_system(root: Path, variable: str) -> None:
    """Raises InputError, which names the ``variable``, if ``root`` is not the root of a system."""
    if not (root / "etc").is_dir():
        raise InputError(f"{variable}: {root} is not the root of a system: it has no folder etc; is the image mounted there?")


def require_root() -> None:
    """Raises PreflightError if this process is not root."""
    if os.geteuid() != 0:
        raise PreflightError("not root: driver files, containerd and the kernel need root; use become: true", code="not_root")


def machine_id(root: Path) -> str:
    """machine-id(5); empty if the image has none yet."""
    return (read_text(root / "etc/machine-id") or "").strip()


def boot_id() -> str:
    """The running kernel's id of this boot."""
    return (read_text(Path("/proc/sys/kernel/random/boot_id")) or "").strip()


def secure_boot(root: Path) -> bool | None:
    """Whether UEFI Secure Boot is on; None if the machine did not boot by UEFI. The variable has 4 bytes of attributes, then 1 of value."""
    try:
        data = read_bytes(root / _SECURE_BOOT)
    except OSError:
        return None
    return len(data) == 5 and data[4] == 1


def signatures_enforced(root: Path) -> bool:
    """Whether the running kernel refuses modules without a trusted signature (module.sig_enforce, or lockdown)."""
    if (read_text(root / "sys/module/module/parameters/sig_enforce") or "").strip() == "Y":
        return True
    lockdown = read_text(root / "sys/kernel/security/lockdown") or ""
    return "[integrity]" in lockdown or "[confidentiality]" in lockdown
