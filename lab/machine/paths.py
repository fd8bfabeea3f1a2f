"""Where the lab keeps its files: a cache for each user, and what belongs to the whole machine below /run."""

from __future__ import annotations

import os
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
"""The repository's root."""

MACHINE = Path("/run/gpu-prebake-lab")
"""For root only: the session lock, the session's state, and ssh's control sockets (their paths must stay short)."""

SESSION_VARIABLE = "GPU_PREBAKE_SESSION"
"""The environment variable that names the session in which a process runs; `run` gives the session's folder."""


def cache() -> Path:
    """The cache folder, by the same rule as in lab/setup.sh."""
    chosen = os.environ.get("GPU_PREBAKE_CACHE")
    if chosen:
        return Path(chosen).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gpu-prebake"


def run(session: str) -> Path:
    """Disks, roots and records of a session's nodes; deleted when the session ends."""
    return cache() / "run" / session


def logs(session: str) -> Path:
    """Console and serial logs of a session; they are kept when it ends."""
    return cache() / "logs" / session


def make_private(folder: Path) -> Path:
    """Create `folder` if it is missing, make it accessible to its owner only, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder
