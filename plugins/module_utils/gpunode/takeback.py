"""Taking back what an unfinished bake did to the filesystem, and keeping other kernels' headers out of an image's sight."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from . import inventory, kernels
from .files import read_text

_HIDDEN = ".build.gpu-prebake-hidden"


def remove_added(root: Path, before: set[str]) -> int:
    """Removes what a driver's build has put here since ``before``; returns how many paths went.

    Others may have been at work since, above all between an interrupted bake and the next: only what is where a driver's files are
    is taken, and nothing that dpkg accounts for.
    """
    added = inventory.drivers_part([path for path in inventory.listing(root) if path not in before])
    owned = owned_by_dpkg(root) if added else set()
    removed = 0
    for path in sorted(added, reverse=True):
        file = root / path
        if path in owned:
            continue
        if file.is_dir() and not file.is_symlink():
            try:
                file.rmdir()
            except OSError:
                continue  # it holds scratch that is not listed, or files that stay
        else:
            file.unlink(missing_ok=True)
        removed += 1
    return removed


def owned_by_dpkg(root: Path) -> set[str]:
    """Paths in dpkg's file lists, relative to the root, by the names that merged /usr really has."""
    owned: set[str] = set()
    for listed in (root / "var/lib/dpkg/info").glob("*.list"):
        for line in (read_text(listed) or "").splitlines():
            path = line.strip("/")
            owned.add(path)
            if path.startswith(("bin/", "lib/", "lib64/", "sbin/")):
                owned.add(f"usr/{path}")
    return owned


def as_packaged(root: Path, path: str) -> bool:
    """Whether a file that dpkg owns is as its package brought it, by dpkg's MD5 sums; of links it keeps none, and they count as such."""
    file = root / path
    if file.is_symlink():
        return True
    names = {path, path.removeprefix("usr/")}
    for sums in (root / "var/lib/dpkg/info").glob("*.md5sums"):
        for line in (read_text(sums) or "").splitlines():
            digest, name = line.partition("  ")[::2]
            if name in names:
                return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == digest
    return False


@contextlib.contextmanager
def only_headers_of(root: Path, kver: str) -> Iterator[None]:
    """No newer kernel's ``build`` is in sight for the body: an unmodified image takes the newest (CONTRACT.md, step 1)."""
    try:
        for other in kernels.with_headers(root):
            if kernels.version_key(other) > kernels.version_key(kver):
                folder = root / "lib/modules" / other
                (folder / "build").rename(folder / _HIDDEN)
        yield
    finally:
        show_headers(root)


def show_headers(root: Path) -> None:
    """Puts back what ``only_headers_of`` hid, also for a run that was killed."""
    for hidden in (root / "lib/modules").glob(f"*/{_HIDDEN}"):
        hidden.rename(hidden.with_name("build"))
