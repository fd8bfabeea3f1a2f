"""Unbinding GPUs from the kernel's own drivers, nouveau and nova_core, if nobody uses them, so that these can be unloaded (D18).

sysfs, PCI drivers: an address that is written to a driver's ``unbind`` is unbound from it. The GPU's console is lost, and a process that
has the device open would be cut off: in that case nothing is done, and a reboot is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from ..errors import BootError, CommandError
from ..system import pci
from ..system.pci import PciFunction
from ..util.deadline import Deadline
from ..util.folders import matching
from ..util.run import Runner
from . import holders, modules

_FOLDER = "/sys/bus/pci/drivers"
_STEP_S = 30.0


def by_kernels_own(root: Path, names: Collection[str] = modules.KERNELS_OWN) -> tuple[PciFunction, ...]:
    """NVIDIA's functions that are bound to one of the kernel's own drivers, as far as its module is among ``names``."""
    return tuple(function for function in pci.nvidia_functions(root) if modules.kernels_own(function.driver) in names)


def in_use(driver: str | None, what: str) -> BootError:
    """The error for a driver of the kernel's own that cannot be unloaded now."""
    module = modules.kernels_own(driver).replace("-", "_") or driver
    return BootError(
        f"{what}. A reboot is needed, with {module} blacklisted (in the image: nvidia_prebake_blacklist_nouveau), or end what uses it and "
        f"try again; {module} was left as it was",
        code="nouveau_in_use",
    )


def require_unused(root: Path, functions: Collection[PciFunction]) -> None:
    """Raises BootError, which names the processes that have a device of ``functions`` open."""
    nodes = {node for function in functions for node in _nodes(root, function.address)}
    found = holders.holders_of(root, nodes) if nodes else ()
    if found:
        first, addresses = next(iter(functions)).driver, ", ".join(function.address for function in functions)
        raise in_use(first, f"{first} drives GPU {addresses}, which is in use by: {', '.join(found)}")


def _nodes(root: Path, address: str) -> set[str]:
    """The device nodes of a function's display device and of its console."""
    folder = root / "sys/bus/pci/devices" / address
    # nova-drm drives a device of its own below the GPU's
    displays = (*matching(folder, "drm/*"), *matching(folder, "*/drm/*"))
    return {f"/dev/dri/{path.name}" for path in displays} | {f"/dev/{path.name}" for path in matching(folder, "graphics/fb*")}


def unbind(runner: Runner, deadline: Deadline, functions: Collection[PciFunction]) -> None:
    """Unbinds the devices from their drivers, one after the other. Raises BootError."""
    for function in functions:
        driver, address = function.driver, function.address
        try:
            _write(runner, "unbind", function, deadline.cut_s(_STEP_S, f"unbinding {address} from {driver}"))
        except CommandError as error:
            raise in_use(driver, f"GPU {address} cannot be unbound from {driver}: {error}") from error
    if functions:  # an older udev loads a module for each event of a device: wait for that of the unbind while the driver is still loaded
        with contextlib.suppress(CommandError):
            runner.run(["udevadm", "settle"], ok=None, timeout_s=deadline.cut_s(_STEP_S, "waiting for udev"))


def bind(runner: Runner, functions: Collection[PciFunction]) -> None:
    """Binds the devices to their drivers again, as far as that is possible."""
    for function in functions:
        with contextlib.suppress(CommandError):
            _write(runner, "bind", function, _STEP_S)


def _write(runner: Runner, name: str, function: PciFunction, limit_s: float) -> None:
    """Writes to sysfs by a program, so that a write that hangs in the kernel does not hold us longer than ``limit_s``."""
    path = f"{_FOLDER}/{function.driver}/{name}"
    runner.run(["sh", "-c", 'printf %s "$1" > "$2"', name, function.address, path], timeout_s=limit_s)
