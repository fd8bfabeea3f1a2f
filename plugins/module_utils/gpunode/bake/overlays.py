"""Which filesystems a sandbox's root is made of: one overlay for each real one that a driver may write to (pure, from the mount table)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UnsupportedError
from ..system import mounts
from ..system.mounts import CONTAINERS, NO_LOWER, NOT_FILES, STACKED, Mount

# Made anew in the sandbox, or bound as they are: see sandbox.py.
FRESH = ("/proc", "/sys", "/dev", "/run", "/tmp")
# Where a driver's installation writes; a filesystem mounted elsewhere (/home, /srv, a data disk) is bound read-only.
_WRITTEN = ("/bin", "/boot", "/etc", "/lib", "/lib64", "/opt", "/root", "/sbin", "/usr", "/var")


@dataclass(frozen=True)
class Part:
    """One filesystem of the root: its mount point, and whether it gets an overlay or is only to be read."""

    point: str
    is_written: bool


def plan(table: Sequence[Mount], store: str) -> tuple[Part, ...]:
    """The parts, outer before inner. ``store`` is the store's absolute path: what is mounted below it is none.

    Raises UnsupportedError, which names what cannot be captured.
    """
    shown = mounts.visible(table)
    root = next((m for m in shown if m.point == "/"), None)
    if root is None:
        raise UnsupportedError(
            "the mount table (/proc/self/mountinfo) names no root filesystem: is /proc mounted?", code="root_unsupported"
        )
    _refuse_read_only(shown)
    parts = []
    for mount in sorted(shown, key=lambda m: (m.point.count("/"), m.point)):
        if _is_below(mount.point, (*FRESH, *CONTAINERS, store)) or mount.fstype in NOT_FILES:
            continue
        is_written = mount.point == "/" or _is_below(mount.point, _WRITTEN)
        if is_written and mount.fstype in STACKED:
            raise UnsupportedError(
                f"{mount.point} is an overlay itself ({mount.fstype}), as in a container or a live system, and overlays cannot be stacked "
                "that deep: bake on a machine whose root is a plain filesystem, or set nvidia_prebake_mode to in_place",
                code="root_unsupported",
            )
        parts.append(Part(mount.point, is_written and not mount.fstype.startswith(NO_LOWER)))
    return tuple(parts)


def _refuse_read_only(shown: Sequence[Mount]) -> None:
    for place in ("/usr", "/var", "/"):
        holding = max((m for m in shown if m.point == "/" or _is_below(place, (m.point,))), key=lambda m: len(m.point))
        if holding.is_read_only:
            raise UnsupportedError(
                f"{place} is read-only (mount {holding.point}, {holding.fstype}): a layer could never be put in place on a node made from "
                "this image; mount it writable, or use an image whose driver comes with its own tools",
                code="root_unsupported",
            )


def _is_below(point: str, tops: Sequence[str]) -> bool:
    return any(point == top or point.startswith(top.rstrip("/") + "/") for top in tops)
