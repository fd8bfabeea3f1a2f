"""The kmod programs: modinfo, modprobe and depmod's check of symbols; and the modules that are loaded."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import CommandError
from ..system import kernels
from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import read_text
from ..util.run import Runner
from .modules import (
    DRIVER_MODULES,
    KERNELS_OWN,
    NEEDED_MODULES,
    LoadedModule,
    ModuleInfo,
    is_driver_file,
    parse_modinfo,
    parse_proc_modules,
)

_SYMBOL = expression(r"^depmod: WARNING: (\S+) (needs unknown symbol|disagrees about version of symbol) (\S+)$", re.MULTILINE)
_DRIVERS_SYMBOL = expression(r"nvidia_|nvUvm")
_DEPMOD_S = 120.0


def symbol_problems(runner: Runner, root: Path, kver: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where modules do not fit: symbols that are required and not exported, or not in that version (B21). First those of the modules that
    a driver needs; then those of its other modules, which some kernels cannot have, and of other people's modules that use the driver's.

    depmod(8) compares them without writing anything. The kernel's own symbols come from its headers; without these nothing is returned.
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


def modinfo(runner: Runner, root: Path, kver: str, name: str) -> ModuleInfo | None:
    """The module that ``modprobe`` would take for kernel ``kver``; None if there is none."""
    base = [] if root == Path("/") else ["-b", str(root)]
    result = runner.run(["modinfo", *base, "-k", kver, name], ok=None, timeout_s=30)
    return parse_modinfo(result.stdout) if result.rc == 0 else None


def modinfo_of_file(runner: Runner, file: Path) -> ModuleInfo | None:
    """The module in ``file``; None if modinfo finds none in it."""
    result = runner.run(["modinfo", str(file)], ok=None, timeout_s=30)
    return parse_modinfo(result.stdout) if result.rc == 0 else None


def loaded(root: Path, names: Collection[str] = (*DRIVER_MODULES, *KERNELS_OWN)) -> tuple[LoadedModule, ...]:
    """Those of the modules ``names`` that the kernel has, also those that are still being loaded."""
    table = parse_proc_modules(read_text(root / "proc/modules") or "")
    found = []
    for name in names:
        if name in table:
            users, holders, state = table[name]
            folder = root / "sys/module" / name.replace("-", "_")
            found.append(LoadedModule(name, (read_text(folder / "version") or "").strip(), state, users, holders))
    return tuple(found)


def by_modalias(root: Path, kver: str, modalias: str) -> tuple[str, ...]:
    """NVIDIA's modules that udev would load for a device with this modalias, by depmod's modules.alias (modprobe.d(5): shell patterns)."""
    text = read_text(root / "lib/modules" / kver / "modules.alias")
    words = (line.split() for line in lines(text) if "nvidia" in line)
    found = {w[2].replace("_", "-") for w in words if len(w) == 3 and w[0] == "alias" and fnmatchcase(modalias, w[1])}
    return tuple(name for name in DRIVER_MODULES if name in found)


def load(runner: Runner, name: str, timeout_s: float) -> str:
    """Loads a module; returns "", or modprobe's message if that fails."""
    try:
        result = runner.run(["modprobe", name], ok=None, timeout_s=timeout_s)
    except CommandError as error:
        return str(error)
    return "" if result.rc == 0 else (result.stderr + result.stdout).strip() or f"modprobe {name}: exit status {result.rc}"


def unload(runner: Runner, name: str, timeout_s: float) -> str:
    """Unloads a module, never by force; returns "", or modprobe's message if that fails or hangs until ``timeout_s``."""
    try:
        result = runner.run(["modprobe", "-r", name], ok=None, timeout_s=timeout_s)
    except CommandError as error:
        return str(error)
    return "" if result.rc == 0 else (result.stderr + result.stdout).strip() or f"modprobe -r {name}: exit status {result.rc}"
