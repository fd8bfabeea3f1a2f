"""Finds what device initialisation put on a node and no layer contains, each with the reason why it stays."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..system import dpkg
from ..system.host import TRIPLETS
from ..util import files
from ..util.expressions import expression
from ..util.folders import matching

# Packages that a driver container installs with dpkg. They stay: the toolkit's runtime is the default one, so the containers that run need
# it until they end, and others may have come to need it too.
_CONTAINERS_PACKAGE = expression(
    r"(nvidia-container-toolkit|libnvidia-container|nvidia-container-runtime|nvidia-fabricmanager|nvidia-persistenced|nvidia-imex"
    r"|libnvidia-nscq|nvlsm)[a-z0-9.+-]*"
)
DROPIN = "etc/containerd/config.d/10-nvidia-runtime.toml"
# Fabric manager, which device initialisation copies and no package owns, and the link that enables it (docs/contract.md, step 4).
FABRIC_MANAGER_UNIT = "lib/systemd/system/nvidia-fabricmanager.service"
FABRIC_MANAGER = (
    *(f"usr/bin/{name}" for name in ("nv-fabricmanager", "nvswitch-audit", "nvidia-fabricmanager-start.sh")),
    *(f"usr/lib/{triplet}/{name}" for triplet in TRIPLETS.values() for name in ("libnvfm.so", "libnvfm.so.1")),
    *(f"usr/include/{name}" for name in ("nv_fm_agent.h", "nv_fm_types.h")),
    *("usr/share/nvidia/nvswitch", "usr/share/doc/nvidia-fabricmanager", FABRIC_MANAGER_UNIT),
    "etc/systemd/system/multi-user.target.wants/nvidia-fabricmanager.service",
)
# Files and folders that device initialisation writes besides packages and the libraries' second copies.
INITIALISATION = (DROPIN, "lib/udev/rules.d/71-nvidia-dev-char.rules", *FABRIC_MANAGER)


@dataclass(frozen=True)
class Left:
    """Something that stays: what it is, and why."""

    what: str
    why: str


def left_by_initialisation(root: Path) -> list[Left]:
    """Packages and files of device initialisation that no layer contains and that a deactivation does not remove."""
    why = "a driver container or the image builder may have put it there; gpu_remove can tell, and removes it if a container did"
    return [*packages_left(root), *(Left(f"/{path}", why) for path in unpackaged(root, INITIALISATION))]


def left_by_others(root: Path, others: Iterable[str]) -> list[Left]:
    """What else came while a driver container ran, and still has no owner."""
    why = "it came while a driver container ran, and may be another program's: look at it, and delete it if nothing needs it"
    return [Left(f"/{path}", why) for path in unpackaged(root, others)]


def installers_logs(root: Path) -> list[Left]:
    """Logs that NVIDIA's installer wrote in driver containers (docs/contract.md, step 2)."""
    found = (path.name for path in matching(root / "var/log", "nvidia-installer-*.log"))
    return [Left(f"/var/log/{name}", "a log of NVIDIA's installer; delete it if nobody needs it") for name in found]


def unpackaged(root: Path, paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that exist and that no package owns, with merged /usr resolved."""
    there = [files.relative(root, root / path) for path in paths if os.path.lexists(root / path)]
    owned = dpkg.owned_by_dpkg(root) if there else ()
    return [path for path in there if path not in owned]


def is_containers_package(name: str) -> bool:
    """Whether a package is one of those that driver containers install."""
    return bool(_CONTAINERS_PACKAGE.fullmatch(name))


def packages_left(root: Path, came: Collection[str] = ()) -> list[Left]:
    """The installed packages of a driver container; of those that ``came``, a record says that one of ours installed them."""
    who = {True: "a driver container of ours installed it", False: "a driver container may have installed it"}
    names = sorted(name for name, _version in dpkg.installed_packages(root) if is_containers_package(name))
    return [Left(f"package {name}", f"{who[name in came]}; remove it with apt-get purge if nothing else needs it") for name in names]
