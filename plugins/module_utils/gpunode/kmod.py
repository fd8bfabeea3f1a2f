"""Kernel modules: what modinfo says of those on disk, what the kernel says of those loaded, loading and unloading."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from . import kernels
from .errors import CommandError
from .files import read_text
from .runner import Runner

# Upstream's module set. In-tree modules with similar names (nvidiafb, i2c-nvidia-gpu) are not the driver (B13).
DRIVER_MODULES = ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm", "nvidia-peermem")
# drm is an empty stub and peermem refuses on kernels without DRM or InfiniBand: these two make a working driver (NVIDIA's docs).
NEEDED_MODULES = ("nvidia", "nvidia-uvm")
NOUVEAU = "nouveau"
_FILE = re.compile(r"nvidia(-uvm|-modeset|-drm|-peermem)?\.ko(\.(gz|xz|zst))?")
_SYMBOL = re.compile(r"^depmod: WARNING: (\S+) (needs unknown symbol|disagrees about version of symbol) (\S+)$", re.MULTILINE)
_DRIVERS_SYMBOL = re.compile(r"nvidia_|nvUvm")
_DEPMOD_S = 120.0
OPEN, PROPRIETARY = "open", "proprietary"


def is_driver_file(name: str) -> bool:
    """Whether a file name is that of one of NVIDIA's modules, compressed or not; exact names only."""
    return bool(_FILE.fullmatch(name.replace("nvidia-current", "nvidia")))


def flavour_of(licence: str) -> str | None:
    """``open`` or ``proprietary`` for the licence that modinfo tells (B14); None for any other."""
    return {"NVIDIA": PROPRIETARY, "Dual MIT/GPL": OPEN}.get(licence)


@dataclass(frozen=True)
class ModuleInfo:
    """A module on disk for one kernel; fields are empty where modinfo has none."""

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
        """The kernel release that it was compiled for: the first word of vermagic."""
        return self.vermagic.split(" ", 1)[0]


def symbol_problems(runner: Runner, root: Path, kver: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where modules do not fit: symbols that are required and not exported, or not in that version (B21). First those of modules without
    which there is no driver; then of its others, which some kernels cannot have, and of somebody else's that use the driver's.

    depmod(8) compares them, without writing anything; the kernel's own symbols come from its headers, without which this says nothing.
    Raises CommandError.
    """
    symvers = kernels.headers(root, kver) / "Module.symvers"
    if not symvers.is_file():
        return (), ()
    shown = runner.run(["depmod", "-n", "-e", "-E", str(symvers), "-b", str(root), kver], timeout_s=_DEPMOD_S)
    needed, others = [], []
    for path, what, symbol in _SYMBOL.findall(shown.stderr):
        name = path.rpartition("/")[2]
        said = f"{path.removeprefix(str(root).rstrip('/'))} {what} {symbol}"
        if is_driver_file(name) and name.partition(".")[0].replace("nvidia-current", "nvidia") in NEEDED_MODULES:
            needed.append(said)
        elif is_driver_file(name) or _DRIVERS_SYMBOL.match(symbol):
            others.append(said)
    return tuple(needed), tuple(others)


def parse_modinfo(text: str) -> ModuleInfo | None:
    """Reads modinfo's output; the first of each field counts."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
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


def modinfo(runner: Runner, root: Path, kver: str, name: str) -> ModuleInfo | None:
    """The module that ``modprobe`` would take for kernel ``kver``; None where there is none."""
    base = [] if root == Path("/") else ["-b", str(root)]
    result = runner.run(["modinfo", *base, "-k", kver, name], ok=None, timeout_s=30)
    return parse_modinfo(result.stdout) if result.rc == 0 else None


def modinfo_of_file(runner: Runner, file: Path) -> ModuleInfo | None:
    """The module in ``file``; None where modinfo finds none in it."""
    result = runner.run(["modinfo", str(file)], ok=None, timeout_s=30)
    return parse_modinfo(result.stdout) if result.rc == 0 else None


@dataclass(frozen=True)
class LoadedModule:
    """A module in the running kernel; ``name`` with dashes, ``users`` its reference count, ``holders`` modules that need it."""

    name: str
    version: str
    state: str
    users: int
    holders: tuple[str, ...]


def parse_proc_modules(text: str) -> dict[str, tuple[int, tuple[str, ...], str]]:
    """proc(5) modules: name → reference count, the modules that use it, state in lower case."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5:
            holders = tuple(w.replace("_", "-") for w in words[3].split(",") if w and w != "-")
            found[words[0].replace("_", "-")] = (int(words[2]) if words[2].isdigit() else 0, holders, words[4].lower())
    return found


def loaded(root: Path, names: Collection[str] = (*DRIVER_MODULES, NOUVEAU)) -> tuple[LoadedModule, ...]:
    """Those of ``names`` that the kernel has, half-loaded ones too."""
    table = parse_proc_modules(read_text(root / "proc/modules") or "")
    found = []
    for name in names:
        if name in table:
            users, holders, state = table[name]
            folder = root / "sys/module" / name.replace("-", "_")
            found.append(LoadedModule(name, (read_text(folder / "version") or "").strip(), state, users, holders))
    return tuple(found)


def of_version(modules: Collection[LoadedModule], versions: Collection[str]) -> tuple[LoadedModule, ...]:
    """NVIDIA's modules among ``modules`` where they are of one of ``versions``. That of ``nvidia`` counts: the others can only be loaded
    with it, and not all of them tell theirs."""
    mine = tuple(m for m in modules if m.name in DRIVER_MODULES)
    main = next((m for m in mine if m.name == "nvidia"), mine[0] if mine else None)
    return mine if main and main.version and main.version in versions else ()


def takeable(modules: Collection[LoadedModule], versions: Collection[str], shared: bool) -> tuple[LoadedModule, ...]:
    """The same, for taking a driver of ours away. Where the node is ``shared`` with another owner's driver, which may be of the same
    version, only while nobody uses them but each other."""
    mine = of_version(modules, versions)
    return mine if not shared or all(m.users <= len(m.holders) for m in mine) else ()


def by_modalias(root: Path, kver: str, modalias: str) -> tuple[str, ...]:
    """NVIDIA's modules that udev would load for a device with this modalias, by depmod's modules.alias (modprobe.d(5): shell patterns)."""
    text = read_text(root / "lib/modules" / kver / "modules.alias") or ""
    lines = (line.split() for line in text.splitlines() if "nvidia" in line)
    found = {w[2].replace("_", "-") for w in lines if len(w) == 3 and w[0] == "alias" and fnmatchcase(modalias, w[1])}
    return tuple(name for name in DRIVER_MODULES if name in found)


def load(runner: Runner, name: str, timeout_s: float) -> str:
    """Loads a module; returns "" or what modprobe says."""
    try:
        result = runner.run(["modprobe", name], ok=None, timeout_s=timeout_s)
    except CommandError as error:
        return str(error)
    return "" if result.rc == 0 else (result.stderr + result.stdout).strip() or f"modprobe {name}: exit status {result.rc}"


def unload(runner: Runner, name: str, timeout_s: float) -> str:
    """Takes a module out, never by force; returns "" or what modprobe says. One that hangs in the kernel ends at the limit."""
    try:
        result = runner.run(["modprobe", "-r", name], ok=None, timeout_s=timeout_s)
    except CommandError as error:
        return str(error)
    return "" if result.rc == 0 else (result.stderr + result.stdout).strip() or f"modprobe -r {name}: exit status {result.rc}"


def unload_order(modules: Collection[LoadedModule]) -> tuple[str, ...]:
    """Dependents first, so that ``nvidia`` comes last (I4)."""
    holders = {m.name: {h for h in m.holders if h in {n.name for n in modules}} for m in modules}
    order: list[str] = []
    while holders:
        free = sorted(name for name, needs in holders.items() if not needs - set(order))
        if not free:  # a cycle cannot be; rather try in any order than loop
            free = sorted(holders)
        order += free
        for name in free:
            del holders[name]
    return tuple(order)
