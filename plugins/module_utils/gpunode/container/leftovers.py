"""Finds what device initialisation put on a node and no layer contains, each with the reason why it stays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..system import dpkg
from ..util import files
from ..util.expressions import expression

# Packages that a driver container installs with dpkg. Nothing records who installed them, so they stay.
_CONTAINERS_PACKAGE = expression(
    r"(nvidia-container-toolkit|libnvidia-container|nvidia-container-runtime|nvidia-fabricmanager|nvidia-persistenced|nvidia-imex"
    r"|libnvidia-nscq|nvlsm)[a-z0-9.+-]*"
)
DROPIN = "etc/containerd/config.d/10-nvidia-runtime.toml"
# What device initialisation writes besides packages and the libraries' second copies (docs/contract.md, step 4).
INITIALISATION = (DROPIN, "lib/udev/rules.d/71-nvidia-dev-char.rules")


@dataclass(frozen=True)
class Left:
    """Something that stays: what it is, and why."""

    what: str
    why: str


def left_by_initialisation(root: Path) -> list[Left]:
    """Packages and files of device initialisation that no layer contains and that a deactivation does not remove."""
    paths = [files.relative(root, root / path) for path in INITIALISATION if (root / path).exists()]
    why = "a driver container or the image builder may have put it there; gpu_remove can tell, and removes it if a container did"
    return [*packages_left(root), *(Left(f"/{path}", why) for path in paths)]


def packages_left(root: Path) -> list[Left]:
    why = "a driver container may have installed it; remove it with apt-get purge if nothing else needs it"
    names = sorted(name for name, _version in dpkg.installed_packages(root) if _CONTAINERS_PACKAGE.fullmatch(name))
    return [Left(f"package {name}", why) for name in names]
