"""What a removal is asked to take away, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..container.leftovers import Left
from ..options import REMOVE

EVERYTHING, DRIVER = "everything", "driver"


@dataclass(frozen=True)
class RemoveRequest:
    """What is to go. ``scope`` is ``everything`` or ``driver``, ``in_use`` is ``refuse`` or ``until_reboot``, ``images`` says whether
    the driver images go from containerd too, ``deadline_s`` is for stopping, unloading and restarting."""

    scope: str = REMOVE["scope"].default
    images: bool = REMOVE["images"].default
    in_use: str = REMOVE["in_use"].default
    restart_containerd: str = REMOVE["restart_containerd"].default
    deadline_s: float = REMOVE["deadline_s"].default
    marker_path: str = REMOVE["marker_path"].default
    release_notes: str = REMOVE["release_notes"].default


@dataclass
class Removed:
    """What came of it: ``result`` is ``removed``, ``planned`` or ``nothing``; paths are relative to the root."""

    result: str
    reason: str
    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    services: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    containerd_restarted: bool = False
    reboot_needed: bool = False
    steps: list[dict[str, Any]] = field(default_factory=list)
