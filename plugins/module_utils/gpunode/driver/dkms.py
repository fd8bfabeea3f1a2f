"""DKMS's tree, read as files, because ``dkms status`` takes 0.3 s and exits with 0 whatever it finds (D8).

DKMS's configuration may name another tree. What is registered there is seen too; all that this project writes or removes is in the usual
one.

Layout of DKMS 3: ``<tree>/<module>/<version>/<kver>/<arch>/module/*.ko`` is a built module, and the link
``<tree>/<module>/kernel-<kver>-<arch>`` to ``<version>/<kver>/<arch>`` makes it installed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..system import host
from ..util import trust
from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import leads_elsewhere, read_ends, read_text, sha256
from ..util.folders import matching, names_in
from .modules import module_files

TREE = "var/lib/dkms"
MODULE = "nvidia"
# DKMS makes a signing key for itself. Its private half would stay in the image, the same in every machine made from it (B22).
OWN_KEYS = (
    f"{TREE}/mok.key",
    f"{TREE}/mok.pub",
    "var/lib/shim-signed/mok/MOK.priv",
    "var/lib/shim-signed/mok/MOK.der",
)
# Where DKMS works, as far as it can be told otherwise.
_USUAL = {"dkms_tree": TREE, "source_tree": "usr/src", "install_tree": "lib/modules"}
_VARIABLES = "|".join(("mok_signing_key", "mok_certificate", *_USUAL))
# DKMS sources these files in a shell: they may have comments, ``export`` and several commands on a line. They are parsed, never evaluated.
_CONFIGURED = expression(
    rf"""[ \t]*(?:export[ \t]+)?(?P<name>{_VARIABLES})=["']?(?P<path>/[^"'\s\x00-\x1f$;#`\\]*)["']?[ \t]*(?:[;#].*)?"""
)
_ASSIGNED = expression(rf"\b(?P<name>{'|'.join(_USUAL)})\+?=")
_LOG = 16 << 20  # bytes; NVIDIA's build writes less than one million
_ENTRY = expression(r"nvidia(-current|-open|-srv)?")
_TOP = f"{TREE}/{MODULE}"


@dataclass(frozen=True)
class DkmsEntry:
    """One registered version; ``kver`` and ``arch`` are empty if it is only added."""

    version: str
    kver: str = ""
    arch: str = ""
    state: str = "added"


@dataclass(frozen=True)
class Registered:
    """A version of NVIDIA's driver that DKMS has, under any of its names and in any tree; ``path`` is its folder, relative to the root."""

    name: str
    version: str
    path: str


def _configuration(root: Path) -> Iterator[tuple[str, str]]:
    """The lines of DKMS's configuration, each with the file that has it."""
    for conf in (root / "etc/dkms/framework.conf", *matching(root / "etc/dkms/framework.conf.d", "*.conf")):
        for line in lines(read_text(conf)):
            yield f"/{conf.relative_to(root)}", line


def _configured(root: Path) -> dict[str, str]:
    """The paths that the configuration sets, relative to ``root``. One with a variable in it is not resolved, and not among them."""
    matches = filter(None, (_CONFIGURED.fullmatch(line) for _conf, line in _configuration(root)))
    return {match["name"]: os.path.normpath(match["path"]).lstrip("/") for match in matches}


def trees(root: Path) -> tuple[str, ...]:
    """The folders in which DKMS registers modules, relative to ``root``: the usual one, and another that its configuration names."""
    other = _configured(root).get("dkms_tree", TREE)
    return (TREE,) if _is_same(root, other, TREE) else (TREE, other)


def elsewhere(root: Path) -> str:
    """What in DKMS's configuration makes it work in other folders than usual, or may do so, with the file; "" if nothing does."""
    for conf, line in _configuration(root):
        assigned = [match["name"] for match in _ASSIGNED.finditer(line.partition("#")[0])]
        match = _CONFIGURED.fullmatch(line) if len(assigned) == 1 else None
        if match and _is_same(root, os.path.normpath(match["path"]).lstrip("/"), _USUAL[match["name"]]):
            continue
        if assigned:
            return f"{line.strip()} in {conf}"
    return ""


def _is_same(root: Path, one: str, other: str) -> bool:
    return one == other or _behind_links(root, one) == _behind_links(root, other)


def _behind_links(root: Path, path: str) -> Path:
    """Where a folder is, itself no link, and never outside of ``root``. A loop of links leads nowhere."""
    try:
        return trust.below(root, f"{path}/.")
    except OSError:
        return root / path


def signing_pair(root: Path) -> tuple[str, str]:
    """The paths, relative to ``root``, of DKMS's own key and certificate in that system: as configured, or else DKMS's defaults.

    A path with a variable in it is not resolved, and counts as not configured.
    """
    key, cert = OWN_KEYS[2:] if host.os_release(root).id == "ubuntu" else OWN_KEYS[:2]
    found = _configured(root)
    return found.get("mok_signing_key", key), found.get("mok_certificate", cert)


def own_keys(root: Path) -> tuple[str, ...]:
    """Every path, relative to the root, at which DKMS would make a key for itself, or its certificate."""
    others = [f"{tree}/{name}" for tree in trees(root) for name in ("mok.key", "mok.pub")]
    return tuple(dict.fromkeys((*OWN_KEYS, *others, *signing_pair(root))))


def private_keys(root: Path) -> tuple[str, ...]:
    """The private keys among these: one that stays in an image would be the same in every machine made from it."""
    others = [f"{tree}/mok.key" for tree in trees(root)]
    return tuple(dict.fromkeys((*OWN_KEYS[::2], *others, signing_pair(root)[0])))


def entries(root: Path, module: str = MODULE) -> tuple[DkmsEntry, ...]:
    """What is registered for ``module``, sorted by version and kernel."""
    return tuple(
        entry for tree in trees(root) for version in _versions(root, tree, module) for entry in _entries(root, tree, module, version)
    )


def _entries(root: Path, tree: str, module: str, version: str) -> tuple[DkmsEntry, ...]:
    top = _behind_links(root, f"{tree}/{module}")
    built = [
        DkmsEntry(version, kernel.name, arch.name, _state(top, version, kernel.name, arch.name))
        for kernel in _folders(_behind_links(root, f"{tree}/{module}/{version}"))
        for arch in _folders(kernel)
        if (arch / "module").is_dir()
    ]
    return tuple(built) or (DkmsEntry(version),)


def _versions(root: Path, tree: str, module: str) -> list[str]:
    return [name for name in _names(root, f"{tree}/{module}") if not name.startswith(("kernel-", "original_module"))]


def _names(root: Path, folder: str) -> list[str]:
    """The names of the folders in a folder, those of links to folders among them: DKMS follows both, and looks at no hidden name, such as
    that of a link that is being staged."""
    top = _behind_links(root, folder)
    found = [name for name in names_in(top) if name[0] != "." and ((top / name).is_symlink() or (top / name).is_dir())]
    return [name for name in found if not (top / name).is_symlink() or _behind_links(root, f"{folder}/{name}").is_dir()]


def registered(root: Path) -> tuple[Registered, ...]:
    """Every version of NVIDIA's driver that is registered, ours and others'; a name without one has the version ""."""
    return tuple(
        Registered(name, version, f"{tree}/{name}/{version}".rstrip("/"))
        for tree in trees(root)
        for name in _names(root, tree)
        if _ENTRY.fullmatch(name)
        for version in (_versions(root, tree, name) or [""])
    )


def _state(top: Path, version: str, kver: str, arch: str) -> str:
    link = top / f"kernel-{kver}-{arch}"
    try:
        installed = link.readlink()
    except OSError:
        return "built"
    return "installed" if str(installed) == f"{version}/{kver}/{arch}" else "built"


def build_log(root: Path, version: str) -> str | None:
    """The log of a failed build, which DKMS leaves in the build folder, both ends of a long one; None if there is none."""
    with contextlib.suppress(OSError):  # the caller has an error to report, of which this is a detail
        for tree in trees(root):
            for log in matching(_behind_links(root, f"{tree}/{MODULE}/{version}"), "**/make.log"):
                return read_ends(log, _LOG)
    return None


@dataclass(frozen=True)
class Made:
    """What DKMS made of one version, in paths relative to the root. ``links`` make a build count as installed; ``modules`` maps each kernel
    to those of its modules that are DKMS's own copies, ``others`` are those that are not; ``files`` and ``folders`` are in DKMS's tree."""

    links: tuple[str, ...] = ()
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @property
    def module_folders(self) -> tuple[str, ...]:
        """The folders in which DKMS puts modules, the innermost first. As DKMS does, we remove them if they are empty."""
        return tuple(f"lib/modules/{kver}/{folder}" for kver in self.modules for folder in ("updates/dkms", "updates"))

    @property
    def all_files(self) -> tuple[str, ...]:
        """Links, modules and files, in the order in which they are removed."""
        return (*self.links, *(path for paths in self.modules.values() for path in paths), *self.files)

    @property
    def paths(self) -> set[str]:
        return {*self.all_files}

    def also(self, more: Made) -> Made:
        """Together with what DKMS made of another version."""
        modules = {kver: (*self.modules.get(kver, ()), *more.modules.get(kver, ())) for kver in (*self.modules, *more.modules)}
        copies = {path for paths in modules.values() for path in paths}
        others = tuple(path for path in dict.fromkeys((*self.others, *more.others)) if path not in copies)
        links, files, folders = (
            tuple(dict.fromkeys((*one, *other)))
            for one, other in ((self.links, more.links), (self.files, more.files), (self.folders, more.folders))
        )
        return Made(links, modules, others, files, folders)

    def without(self, known: Collection[str]) -> Made:
        """The same without the paths in ``known``, which are in a list of ours."""
        modules = {kver: tuple(p for p in paths if p not in known) for kver, paths in self.modules.items()}
        links, others, files = (tuple(p for p in paths if p not in known) for paths in (self.links, self.others, self.files))
        return replace(self, links=links, modules=modules, others=others, files=files)


def sources(version: str) -> str:
    """The folder of the sources that the driver container registers with DKMS."""
    return f"usr/src/{MODULE}-{version}"


def is_registered(root: Path, version: str) -> bool:
    """Whether DKMS has ``version`` registered with the driver container's sources, in its own tree and not behind a link."""
    folder = root / _TOP / version
    link = folder / "source"
    return not leads_elsewhere(root, f"{_TOP}/{version}") and link.is_symlink() and str(link.readlink()) == f"/{sources(version)}"


def belongs_to_a_package(version: str, owned: Collection[str]) -> bool:
    """Whether the sources of ``version`` are among ``owned``, the paths in dpkg's file lists."""
    folder = sources(version)
    inside = f"{folder}/"
    return folder in owned or any(path.startswith(inside) for path in owned)


def made(root: Path, version: str) -> Made:
    """What DKMS has of ``version``: only what fits its layout; other files in its tree are somebody else's. Raises OSError."""
    top = root / _TOP
    links = [str(p.relative_to(root)) for p in matching(top, "kernel-*") if p.is_symlink() and str(p.readlink()).startswith(f"{version}/")]
    kernels = [p for p in _folders(top / version) if p.name != "build"]
    archs = [arch for kernel in kernels for arch in _folders(kernel)]
    # A build that failed or was killed leaves a folder of its own.
    own = [p for p in (top / version / "build", *(arch / name for arch in archs for name in ("module", "log"))) if p in _folders(p.parent)]
    inside = [p for folder in own for p in (folder, *matching(folder, "**/*"))]
    files = [p for p in inside if p.is_symlink() or not p.is_dir()]
    folders = [*kernels, *archs, *{*inside}.difference(files)]
    modules = {kernel.name: _copies(root, version, kernel.name) for kernel in kernels}
    others = [path for kver, copies in modules.items() for path in module_files(root, kver) if path not in copies]
    return Made(tuple(sorted(links)), modules, tuple(sorted(others)), _relative(root, files), _relative(root, folders))


def _folders(path: Path) -> list[Path]:
    """Raises OSError if it cannot be listed: what is registered there is unknown."""
    return [p for p in (path / name for name in names_in(path)) if p.is_dir() and not p.is_symlink()]


def _relative(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(sorted(str(path.relative_to(root)) for path in paths))


def _copies(root: Path, version: str, kver: str) -> tuple[str, ...]:
    """A kernel's modules that DKMS has installed: equal to its own copies. Two names of one file are no proof."""
    found = []
    for path in module_files(root, kver):
        copies = matching(root / _TOP / version / kver, f"*/module/{Path(path).name}")
        if any(_is_copy(root / path, copy) for copy in copies):
            found.append(path)
    return tuple(found)


def _is_copy(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink() or not one.is_file() or not other.is_file() or one.samefile(other):
        return False
    return one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other)
