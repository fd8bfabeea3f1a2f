"""Python environments of their own, made from a lock and kept in the lab's cache: what has other versions than the lab's."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from lab.machine import cache, host, paths

INSTALL_S = 600.0


def environment(name: str) -> Path:
    """The environment of requirements/`name`-py<version>.txt, for this Python."""
    pins = paths.TOP / f"requirements/{name}-py{sys.version_info.major}.{sys.version_info.minor}.txt"
    parts = [pins.read_text(), sys.base_prefix, platform.python_version()]

    def build(folder: Path) -> None:
        host.run([sys.executable, "-m", "venv", str(folder)], timeout_s=120)
        options = ["--quiet", "--require-hashes", "--only-binary", ":all:"]
        host.run([str(folder / "bin/pip"), "install", *options, "--requirement", str(pins)], timeout_s=INSTALL_S)
        # The cache renames the folder when it is complete, but each program contains the full path of its interpreter.
        for program in (folder / "bin").iterdir():
            if not program.is_symlink():
                program.write_text(program.read_text().replace(str(folder), str(folder.with_name(cache.key(parts)))))

    return cache.entry(name, parts, build)
