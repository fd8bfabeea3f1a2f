"""Whether filesystems have enough free space, in bytes and inodes."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import PreflightError
from ..paths import STORE

_MIN_INODES = 20000
_SPACE_PATHS = ("usr", "var/lib/dkms", STORE, "var/lib/containerd", "opt", "tmp", "boot")
_BOOT_MIN_MB = 64


def require_space(root: Path, min_free_mb: int, who: str = "a bake", option: str = "nvidia_prebake_min_free_mb") -> None:
    """Raises PreflightError, which says where ``who`` lacks how much, and which ``option`` sets the minimum (B6)."""
    seen: set[int] = set()
    for name in _SPACE_PATHS:
        path = _existing(root / name)
        status = os.statvfs(path)
        device = path.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        needed = min(min_free_mb, _BOOT_MIN_MB) if name in ("boot", "tmp") else min_free_mb
        free = status.f_bavail * status.f_frsize // 10**6
        if free < needed:
            raise PreflightError(
                f"{path}: {free} MB free, {who} needs {needed} MB there, {needed - free} MB are missing: "
                f"give the build machine a larger disk, or set {option}",
                code="no_space",
            )
        # btrfs and others without a fixed number of inodes report 0 of 0
        if status.f_files and status.f_favail < _MIN_INODES and min_free_mb:
            raise PreflightError(f"{path}: {status.f_favail} inodes free, {who} needs {_MIN_INODES}", code="no_space")


def free_space(root: Path) -> str:
    """The free space on each filesystem that a bake writes to, as text."""
    shown: dict[int, str] = {}
    for name in _SPACE_PATHS:
        path = _existing(root / name)
        status = os.statvfs(path)
        shown.setdefault(path.stat().st_dev, f"{path} has {status.f_bavail * status.f_frsize // 10**6} MB free")
    return ", ".join(shown.values())


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
