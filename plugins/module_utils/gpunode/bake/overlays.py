"""Plans a sandbox's root from the mount table (pure): an overlay for each filesystem to which a driver may write, the others read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UnsupportedError
from ..system import mounts
from ..system.mounts import CONTAINERS, NO_LOWER, NOT_FILES, STACKED, Mount

# The sandbox makes these itself, or binds the machine's own: see sandbox.py.
FRESH = ("/proc", "/sys", "/dev", "/run", "/tmp")
# Where the installation of a driver writes. A filesystem mounted elsewhere (/home, /srv, a data disk) is bound read-only.
_WRITTEN = ("/bin", "/boot", "/etc", "/lib", "/lib64", "/opt", "/root", "/sbin", "/usr", "/var")


@dataclass(frozen=True)
class Part:
    """One filesystem of the root: its mount point, and whether it gets an overlay (``is_written``) or is bound read-only."""

    point: str
    is_written: bool


def plan(table: Sequence[Mount], store: str) -> tuple[Part, ...]:
    """The parts, outer before inner. ``store`` is the store's absolute path; mounts below it are left out.

    Raises UnsupportedError, which names the filesystem that cannot be captured.
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
                "that deep: bake on a machine whose root is a plain filesystem",
                code="root_unsupported",
            )
        parts.append(Part(mount.point, is_written and not mount.fstype.startswith(NO_LOWER)))
    return tuple(parts)


def _refuse_read_only(shown: Sequence[Mount]) -> None:
    for place in ("/usr", "/var", "/"):
        holding = max((m for m in shown if m.point == "/" or _is_below(place, (m.point,))), key=lambda m: len(m.point))
        if holding.is_read_only:
            raise UnsupportedError(
                f"{place} is read-only (mount {holding.point}, {holding.fstype}): no node that boots this image could activate a layer; "
                "mount it writable, or install the driver with the tools that this system has for it",
                code="root_unsupported",
            )


def _is_below(point: str, tops: Sequence[str]) -> bool:
    return any(point == top or point.startswith(top.rstrip("/") + "/") for top in tops)
