"""Finds a driver's files that none of our documents lists, by name, content or version."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from ..driver import dkms, libraries
from ..driver.footprint import CONTRACT_LIBRARIES
from ..driver.kmod import modinfo_of_file
from ..driver.modules import is_driver_file, module_files
from ..system import kernels, tree
from ..system.host import TRIPLETS
from ..system.tree import Entry
from ..util import files
from ..util.folders import matching
from ..util.run import Runner


def same_content(now: Entry, wanted: Entry) -> bool:
    """Whether two entries have the same content, whatever their modes and owners."""
    return (now.type, now.sha256, now.target) == (wanted.type, wanted.sha256, wanted.target)


def second_copies(root: Path, arch: str, listed: Mapping[str, Entry]) -> list[str]:
    """Copies of ``listed`` libraries in the loader's folder, by name and content: device initialisation copies the contract's libraries
    there (rule I2). Paths that are themselves listed are left out. Raises OSError."""
    second = f"usr/lib/{TRIPLETS[arch]}"
    if files.leads_elsewhere(root, second):
        return []
    prefix = f"{CONTRACT_LIBRARIES}/"
    copies = {f"{second}/{path[len(prefix) :]}": e for path, e in listed.items() if path.startswith(prefix) and e.type != "folder"}
    found = tree.describe_present(root, [path for path in copies if path not in listed])
    return [path for path, now in found.items() if now and same_content(now, copies[path])]


def links_to(root: Path, folders: Iterable[str], names: Collection[str]) -> Iterator[str]:
    """Links in ``folders`` whose target has one of ``names``, such as libcuda.so.1. ldconfig makes them, and no document lists them."""
    for folder in folders:
        if not (root / folder).is_dir() or files.leads_elsewhere(root, folder):
            continue
        for link in matching(root / folder, "lib*.so*"):
            if link.is_symlink() and link.readlink().name in names:
                yield f"{folder}/{link.name}"


def modules_of_version(root: Path, runner: Runner, version: str) -> Iterator[str]:
    """The driver's modules of ``version`` for every kernel. A module without a version is included if its file name is the driver's."""
    for kver in kernels.installed(root):
        for path in module_files(root, kver):
            info = modinfo_of_file(runner, root / path)
            if info and (info.version == version or (not info.version and is_driver_file(Path(path).name))):
                yield path


def dkms_links_of_version(root: Path, version: str) -> Iterator[str]:
    """The links that make builds of ``version`` count as installed for DKMS."""
    for link in matching(root / dkms.TREE / dkms.MODULE, "kernel-*"):
        if link.is_symlink() and str(link.readlink()).startswith(version + "/"):
            yield str(link.relative_to(root))


def libraries_of_version(root: Path, arch: str, version: str) -> Iterator[str]:
    """The driver's libraries of ``version`` in the contract's own folder, where nobody else puts any. Elsewhere, only recorded files
    can be told from other people's."""
    for path, found in list(libraries.driver_libraries(root, arch)):
        if found == version and path.startswith(CONTRACT_LIBRARIES):
            yield path
