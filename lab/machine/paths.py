"""Where the lab keeps things: caches per user, and what belongs to the whole machine under /run."""

from __future__ import annotations

import os
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
"""The repository's root."""

MACHINE = Path("/run/gpu-prebake-lab")
"""Root only: the session lock, its state, and ssh's control sockets (their paths must stay short)."""

SESSION_VARIABLE = "GPU_PREBAKE_SESSION"
"""Names the session that a process runs in; the folder of that name under run/ is its."""


def cache() -> Path:
    """The cache folder; the same rule as lab/setup.sh."""
    chosen = os.environ.get("GPU_PREBAKE_CACHE")
    if chosen:
        return Path(chosen).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gpu-prebake"


def run(session: str) -> Path:
    """Disks, roots and records of a session's nodes; deleted when the session ends."""
    return cache() / "run" / session


def logs(session: str) -> Path:
    """Consoles and serial logs of a session; outlives it."""
    return cache() / "logs" / session


def make_private(folder: Path) -> Path:
    """Make `folder` for its owner only, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder
