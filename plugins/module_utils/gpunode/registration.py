"""What DKMS has made of a driver since it was registered: by its kernel hook for other kernels, or anew for the same one.

No list of ours has these files, but they are ours as the registration is: whoever has the registered sources has the registration. A
distribution's package that came later brings its sources to the same folder, and DKMS then builds from those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import dkms, userspace
from .files import leads_elsewhere, sha256

_TOP = f"{dkms.TREE}/{dkms.MODULE}"


@dataclass(frozen=True)
class Made:
    """Paths relative to the root: ``links`` make a build count as installed, ``modules`` maps each kernel to those of its modules that
    are DKMS's own copies, ``others`` are those that are not, ``files`` and ``folders`` are DKMS's tree."""

    links: tuple[str, ...] = ()
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def module_folders(self) -> tuple[str, ...]:
        """Where DKMS puts modules; as it does itself, they are removed where they are empty. The innermost first."""
        return tuple(f"lib/modules/{kver}/{folder}" for kver in self.modules for folder in ("updates/dkms", "updates"))

    @property
    def paths(self) -> set[str]:
        return {*self.links, *(path for paths in self.modules.values() for path in paths), *self.files}

    def without(self, known: Collection[str]) -> Made:
        """The same without paths that a list of ours knows."""
        modules = {kver: tuple(p for p in paths if p not in known) for kver, paths in self.modules.items()}
        links, others, files = (tuple(p for p in paths if p not in known) for paths in (self.links, self.others, self.files))
        return replace(self, links=links, modules=modules, others=others, files=files)


def sources(version: str) -> str:
    """The folder of the sources that the contract registers."""
    return f"usr/src/{dkms.MODULE}-{version}"


def is_registered(root: Path, version: str) -> bool:
    """Whether DKMS has ``version`` with the contract's sources, in its tree and not behind a link."""
    folder = root / _TOP / version
    link = folder / "source"
    return not leads_elsewhere(root, f"{_TOP}/{version}") and link.is_symlink() and str(link.readlink()) == f"/{sources(version)}"


def belongs_to_a_package(version: str, owned: Collection[str]) -> bool:
    """Whether the sources of ``version`` are among the paths that dpkg accounts for."""
    return any(path == sources(version) or path.startswith(f"{sources(version)}/") for path in owned)


def made_of_ours(root: Path, version: str, owned: Collection[str]) -> Made:
    """What DKMS has made of ``version`` where that registration is ours; ``owned`` are the paths that dpkg accounts for."""
    if not is_registered(root, version) or belongs_to_a_package(version, owned):
        return Made()
    return made(root, version)


def made(root: Path, version: str) -> Made:
    """What DKMS has of ``version``: only what has its place in its layout, anything else in its tree is somebody's. Raises OSError."""
    top = root / _TOP
    links = [str(p.relative_to(root)) for p in top.glob("kernel-*") if p.is_symlink() and str(p.readlink()).startswith(f"{version}/")]
    kernels = [p for p in _folders(top / version) if p.name != "build"]
    archs = [arch for kernel in kernels for arch in _folders(kernel)]
    # A build that failed, or was killed, is left in a folder of its own.
    own = [p for p in (top / version / "build", *(arch / name for arch in archs for name in ("module", "log"))) if p in _folders(p.parent)]
    inside = [p for folder in own for p in (folder, *folder.rglob("*"))]
    files = [p for p in inside if p.is_symlink() or not p.is_dir()]
    folders = [*kernels, *archs, *{*inside}.difference(files)]
    modules = {kernel.name: _copies(root, version, kernel.name) for kernel in kernels}
    others = [path for kver, copies in modules.items() for path in userspace.module_files(root, kver) if path not in copies]
    return Made(tuple(sorted(links)), modules, tuple(sorted(others)), _relative(root, files), _relative(root, folders))


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return []


def _relative(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(sorted(str(path.relative_to(root)) for path in paths))


def _copies(root: Path, version: str, kver: str) -> tuple[str, ...]:
    """A kernel's modules that DKMS has installed: equal to its own copies. Two names of one file prove nothing."""
    found = []
    for path in userspace.module_files(root, kver):
        copies = (root / _TOP / version / kver).glob(f"*/module/{Path(path).name}")
        if any(_is_copy(root / path, copy) for copy in copies):
            found.append(path)
    return tuple(found)


def _is_copy(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink() or not one.is_file() or not other.is_file() or one.samefile(other):
        return False
    return one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other)
