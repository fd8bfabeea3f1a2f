"""The policy: what the owner of a node wants of a boot, and the checks of its figures. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from ..container.reference import DriverWanted
from ..errors import InputError


def check_figures(policy: Policy) -> None:
    """Raises InputError for a count or time that is not valid, alone or together with the others."""
    for name in ("deadline_s", "try_s", "tries"):
        if getattr(policy, name) <= 0:
            raise InputError(f"gpu_boot_{name}: {getattr(policy, name)} is not valid; it must be greater than zero")
    for name in ("delay_s", "fallback_s", "late_gpus_s"):
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
    managed: bool = True
    expected_gpus: int | None = None
    flavour: str = "any"
    require_digest: bool = True
    accept_no_device: bool = False
    deadline_s: float = 780.0
    try_s: float = 600.0
    tries: int = 5
    delay_s: float = 10.0
    fallback_s: float = 240.0
    late_gpus_s: float = 30.0
    restart_containerd: str = "auto"


def expected_gpus(value: object) -> int | None:
    """Converts an option's value to ``Policy.expected_gpus``: ``auto`` to None, a number or its text to the number. Raises InputError."""
    if value in (None, "", "auto"):
        return None
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
        raise InputError(f"gpu_boot_expected_gpus: {value!r} is neither auto nor a number of GPUs")
    return int(text)
