"""Unbinding GPUs from nouveau if nobody uses them, so that its module can be unloaded (D18).

sysfs, PCI drivers: an address that is written to a driver's ``unbind`` is unbound from it. The GPU's console is lost, and a process that
has the device open would be cut off: in that case nothing is done, and a reboot is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from ..errors import BootError, CommandError
from ..system import pci
from ..util.deadline import Deadline
from ..util.folders import matching
from ..util.run import Runner
from . import holders, modules

_FOLDER = "/sys/bus/pci/drivers/nouveau"
_STEP_S = 30.0


def by_nouveau(root: Path) -> tuple[str, ...]:
    """PCI addresses of NVIDIA's functions that are bound to nouveau."""
    return tuple(function.address for function in pci.nvidia_functions(root) if function.driver == modules.NOUVEAU)


def in_use(what: str) -> BootError:
    """The error for a nouveau that cannot be unloaded now."""
    return BootError(
        f"{what}. A reboot is needed, with nouveau blacklisted (in the image: nvidia_prebake_blacklist_nouveau), or end what uses it and "
        "try again; nouveau was left as it was",
        code="nouveau_in_use",
    )


def require_unused(root: Path, addresses: Collection[str]) -> None:
    """Raises BootError, which names the processes that have a device of ``addresses`` open."""
    nodes = {node for address in addresses for node in _nodes(root, address)}
    found = holders.holders_of(root, nodes) if nodes else ()
    if found:
        raise in_use(f"nouveau drives GPU {', '.join(addresses)}, which is in use by: {', '.join(found)}")


def _nodes(root: Path, address: str) -> set[str]:
    """The device nodes of a function's display device and of its console."""
    folder = root / "sys/bus/pci/devices" / address
    return {f"/dev/dri/{path.name}" for path in matching(folder / "drm", "*")} | {
        f"/dev/{path.name}" for path in matching(folder / "graphics", "fb*")
    }


def unbind(runner: Runner, deadline: Deadline, addresses: Collection[str]) -> None:
    """Unbinds the devices from nouveau, one after the other. Raises BootError."""
    for address in addresses:
        try:
            _write(runner, "unbind", address, deadline.cut_s(_STEP_S, f"unbinding {address} from nouveau"))
        except CommandError as error:
            raise in_use(f"GPU {address} cannot be unbound from nouveau: {error}") from error
    if addresses:  # an older udev loads a module for each event of a device: wait for that of the unbind while nouveau is still loaded
        with contextlib.suppress(CommandError):
            runner.run(["udevadm", "settle"], ok=None, timeout_s=deadline.cut_s(_STEP_S, "waiting for udev"))


def bind(runner: Runner, addresses: Collection[str]) -> None:
    """Binds the devices to nouveau again, as far as that is possible."""
    for address in addresses:
        with contextlib.suppress(CommandError):
            _write(runner, "bind", address, _STEP_S)


def _write(runner: Runner, name: str, address: str, limit_s: float) -> None:
    """Writes to sysfs by a program, so that a write that hangs in the kernel does not hold us longer than ``limit_s``."""
    runner.run(["sh", "-c", 'printf %s "$1" > "$2"', name, address, f"{_FOLDER}/{name}"], timeout_s=limit_s)
