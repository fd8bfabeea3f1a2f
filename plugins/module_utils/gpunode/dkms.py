"""DKMS's tree, read as files: ``dkms status`` takes 0.3 s and exits 0 for anything (D8, NVIDIA.md).

Layout of DKMS 3: ``<tree>/<module>/<version>/<kver>/<arch>/module/*.ko`` is built, the link
``<tree>/<module>/kernel-<kver>-<arch>`` to ``<version>/<kver>/<arch>`` makes it installed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from . import host
from .files import read_text

TREE = "var/lib/dkms"
MODULE = "nvidia"
# DKMS makes itself a signing key and leaves the private half in the image, the same in every machine made from it (B22).
OWN_KEYS = (
    f"{TREE}/mok.key",
    f"{TREE}/mok.pub",
    "var/lib/shim-signed/mok/MOK.priv",
    "var/lib/shim-signed/mok/MOK.der",
)
# The shell reads these files: comments, ``export`` and several commands on a line are its own.
_CONFIGURED = re.compile(r"""^\s*(?:export\s+)?(mok_signing_key|mok_certificate)=["']?(/[^"'\s$;#]+)["']?\s*(?:[;#].*)?$""", re.MULTILINE)
_ENTRY = re.compile(r"nvidia(-current|-open|-srv)?")


@dataclass(frozen=True)
class DkmsEntry:
    """One registered version; ``kver`` and ``arch`` are empty for one that is only added."""

    version: str
    kver: str = ""
    arch: str = ""
    state: str = "added"


def signing_pair(root: Path) -> tuple[str, str]:
    """Where DKMS of the system at ``root`` has its own key and certificate, relative to it: as configured, else by its defaults.

    A name with a variable in it is not resolved, and counts as not configured.
    """
    key, cert = OWN_KEYS[2:] if host.os_release(root).id == "ubuntu" else OWN_KEYS[:2]
    found = {"mok_signing_key": key, "mok_certificate": cert}
    for conf in (root / "etc/dkms/framework.conf", *sorted((root / "etc/dkms/framework.conf.d").glob("*.conf"))):
        found.update({name: os.path.normpath(path).lstrip("/") for name, path in _CONFIGURED.findall(read_text(conf) or "")})
    return found["mok_signing_key"], found["mok_certificate"]


def own_keys(root: Path) -> tuple[str, ...]:
    """Every path, relative to the root, at which DKMS would make itself a key or its certificate."""
    return tuple(dict.fromkeys((*OWN_KEYS, *signing_pair(root))))


def private_keys(root: Path) -> tuple[str, ...]:
    """Of these the private ones: left in an image, one would be the same in every machine made from it."""
    return tuple(dict.fromkeys((*OWN_KEYS[::2], signing_pair(root)[0])))


def entries(root: Path, module: str = MODULE) -> tuple[DkmsEntry, ...]:
    """What is registered for ``module``, in order of version and kernel."""
    top = root / TREE / module
    found = []
    for version in sorted(p for p in _folders(top) if not p.name.startswith(("kernel-", "original_module"))):
        built = [
            DkmsEntry(version.name, kernel.name, arch.name, _state(top, version.name, kernel.name, arch.name))
            for kernel in sorted(_folders(version))
            for arch in sorted(_folders(kernel))
            if (arch / "module").is_dir()
        ]
        found += built or [DkmsEntry(version.name)]
    return tuple(found)


def registered_names(root: Path) -> tuple[str, ...]:
    """Every NVIDIA module name in the tree, ours and others' (nvidia, nvidia-current, …)."""
    return tuple(sorted(p.name for p in _folders(root / TREE) if _ENTRY.fullmatch(p.name)))


def _state(top: Path, version: str, kver: str, arch: str) -> str:
    link = top / f"kernel-{kver}-{arch}"
    try:
        installed = link.readlink()
    except OSError:
        return "built"
    return "installed" if str(installed) == f"{version}/{kver}/{arch}" else "built"


def _folders(path: Path) -> list[Path]:
    try:
        return [p for p in path.iterdir() if p.is_dir() and not p.is_symlink()]
    except OSError:
        return []


def build_log(root: Path, version: str) -> str | None:
    """The log of a failed build: DKMS leaves it where it built; None where there is none."""
    for log in sorted((root / TREE / MODULE / version).glob("**/make.log")):
        try:
            return log.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
    return None
