"""The driver's kernel modules: their names, files, versions and order of unloading. Pure, apart from reading files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import relative, sha256
from ..util.folders import matching

# Upstream's module set. In-tree modules with similar names (nvidiafb, i2c-nvidia-gpu) are not the driver (B13).
DRIVER_MODULES = ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm", "nvidia-peermem")
# On kernels without DRM or InfiniBand, drm is an empty stub and peermem does not load: these two make a working driver (NVIDIA's docs).
NEEDED_MODULES = ("nvidia", "nvidia-uvm")
# The kernel's own drivers of NVIDIA's GPUs, which must not hold one: their modules, those that use another one first. Nova's second module
# was first called nova.
NOUVEAU, NOVA = "nouveau", "nova-core"
KERNELS_OWN = (NOUVEAU, "nova-drm", "nova", NOVA)
_BOUND_AS = {"nouveau": NOUVEAU, "novacore": NOVA}
_FILE = expression(r"nvidia(-uvm|-modeset|-drm|-peermem)?\.ko(\.(gz|xz|zst))?")
_MAX_DIGITS = 20
OPEN, PROPRIETARY = "open", "proprietary"


def is_driver_file(name: str) -> bool:
    """Whether a file name is exactly that of one of NVIDIA's modules, compressed or not."""
    return bool(_FILE.fullmatch(name.replace("nvidia-current", "nvidia")))


def kernels_own(driver: str | None) -> str:
    """Which of ``KERNELS_OWN`` has bound a device under the name ``driver``, such as NovaCore; "" if it is none of them."""
    return _BOUND_AS.get((driver or "").lower().replace("-", "").replace("_", ""), "")


def flavour_of(licence: str) -> str | None:
    """``open`` or ``proprietary`` for the licence that modinfo prints (B14); None for any other."""
    return {"NVIDIA": PROPRIETARY, "Dual MIT/GPL": OPEN}.get(licence)


@dataclass(frozen=True)
class ModuleInfo:
    """A module on disk for one kernel; fields that modinfo does not have are empty."""

    path: str
    version: str
    licence: str
    vermagic: str
    signer: str

    @property
    def flavour(self) -> str | None:
        return flavour_of(self.licence)

    @property
    def kver(self) -> str:
        """The kernel release that the module was compiled for: the first word of vermagic."""
        return self.vermagic.split(" ", 1)[0]


def parse_modinfo(text: str) -> ModuleInfo | None:
    """Reads modinfo's output; if a field is there twice, the first counts. None if it describes no module."""
    fields: dict[str, str] = {}
    for line in lines(text):
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    if "filename" not in fields:
        return None
    return ModuleInfo(
        fields["filename"],
        fields.get("version", ""),
        fields.get("license", ""),
        fields.get("vermagic", ""),
        fields.get("signer", ""),
    )


@dataclass(frozen=True)
class LoadedModule:
    """A module in the running kernel; ``name`` with dashes, ``users`` its reference count, ``holders`` the modules that use it."""

    name: str
    version: str
    state: str
    users: int
    holders: tuple[str, ...]


def parse_proc_modules(text: str) -> dict[str, tuple[int, tuple[str, ...], str]]:
    """proc(5) modules: name → reference count, the modules that use it, state in lower case."""
    found = {}
    for line in lines(text):
        words = line.split()
        if len(words) >= 5:
            holders = tuple(w.replace("_", "-") for w in words[3].split(",") if w and w != "-")
            found[words[0].replace("_", "-")] = (_number(words[2]), holders, words[4].lower())
    return found


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else 0


def of_version(modules: Collection[LoadedModule], versions: Collection[str]) -> tuple[LoadedModule, ...]:
    """NVIDIA's modules among ``modules``, if they are of one of ``versions``. The version of ``nvidia`` counts: the others can only be
    loaded with it, and not all of them have one."""
    mine = tuple(m for m in modules if m.name in DRIVER_MODULES)
    main = next((m for m in mine if m.name == "nvidia"), mine[0] if mine else None)
    return mine if main and main.version and main.version in versions else ()


def takeable(modules: Collection[LoadedModule], versions: Collection[str], shared: bool) -> tuple[LoadedModule, ...]:
    """The same modules, if they may be unloaded to take a driver of ours away. If the node is ``shared`` with another owner's driver, which
    may be of the same version, they may be unloaded only while they are used by nothing but each other."""
    mine = of_version(modules, versions)
    return mine if not shared or all(m.users <= len(m.holders) for m in mine) else ()


def unload_order(modules: Collection[LoadedModule]) -> tuple[str, ...]:
    """The names of ``modules`` in the order of unloading: dependents first, so that ``nvidia`` comes last (I4)."""
    holders = {m.name: {h for h in m.holders if h in {n.name for n in modules}} for m in modules}
    order: list[str] = []
    while holders:
        free = sorted(name for name, needs in holders.items() if not needs - set(order))
        if not free:  # a cycle is impossible; if there were one, any order is better than a loop without end
            free = sorted(holders)
        order += free
        for name in free:
            del holders[name]
    return tuple(order)


def module_files(root: Path, kver: str) -> tuple[str, ...]:
    """The driver's module files for one kernel, relative to the root. Raises OSError."""
    top = root / "lib/modules" / kver
    return tuple(sorted(relative(root, p) for p in matching(top, "updates/**/*.ko*") if is_driver_file(p.name)))


def module_hashes(root: Path, kver: str) -> dict[str, str]:
    """Path → SHA-256 of the driver's module files for one kernel."""
    return {path: sha256(root / path) for path in module_files(root, kver)}


def module_stamps(root: Path, kver: str) -> dict[str, tuple[int, ...]]:
    """What changes when a module file is written again, even with the same bytes, which a compile of the same source may produce."""
    stamps: dict[str, tuple[int, ...]] = {}
    for path in module_files(root, kver):
        status = (root / path).stat()
        stamps[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return stamps
