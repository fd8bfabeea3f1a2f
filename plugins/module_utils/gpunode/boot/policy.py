"""The policy: what the owner of a node wants of a boot, and the checks of its figures. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from ..container.reference import DriverWanted
from ..errors import InputError
from ..options import BOOT


def check_figures(policy: Policy) -> None:
    """Raises InputError for a count or time that is not valid, alone or together with the others."""
    for name in ("deadline_s", "try_s", "tries"):
        if getattr(policy, name) <= 0:
            raise InputError(f"gpu_boot_{name}: {getattr(policy, name)} is not valid; it must be greater than zero")
    for name in ("delay_s", "fallback_s", "late_gpus_s", "fabric_s"):
        if getattr(policy, name) < 0:
            raise InputError(f"gpu_boot_{name}: {getattr(policy, name)} is not valid; it must not be negative")
    if policy.fallback_s >= policy.deadline_s:
        raise InputError(
            f"gpu_boot_fallback_s: {policy.fallback_s:.0f} s are kept for a full install, so the deadline of {policy.deadline_s:.0f} s "
            "(gpu_boot_deadline_s) leaves no time for the fast path"
        )


@dataclass(frozen=True)
class Policy:
    """What the node's owner wants. ``expected_gpus`` None means "auto", as many as are found. Times are in seconds."""

    wanted: DriverWanted
    managed: bool = BOOT["managed"].default
    expected_gpus: int | None = None
    flavour: str = BOOT["flavour"].default
    require_digest: bool = BOOT["require_digest"].default
    accept_no_device: bool = BOOT["accept_no_device"].default
    deadline_s: float = BOOT["deadline_s"].default
    try_s: float = BOOT["try_s"].default
    tries: int = BOOT["tries"].default
    delay_s: float = BOOT["delay_s"].default
    fallback_s: float = BOOT["fallback_s"].default
    late_gpus_s: float = BOOT["late_gpus_s"].default
    fabric_s: float = BOOT["fabric_s"].default
    restart_containerd: str = BOOT["restart_containerd"].default


def expected_gpus(value: object) -> int | None:
    """Converts an option's value to ``Policy.expected_gpus``: ``auto`` to None, a number or its text to the number. Raises InputError."""
    if value in (None, "", BOOT["expected_gpus"].default):
        return None
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
        raise InputError(f"gpu_boot_expected_gpus: {value!r} is neither auto nor a number of GPUs")
    return int(text)
