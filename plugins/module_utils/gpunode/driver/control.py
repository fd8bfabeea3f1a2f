"""The driver in the running kernel: loading and unloading its modules, making device nodes, starting its services."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..errors import BootError, CommandError
from ..system import pci
from ..util.deadline import Deadline
from ..util.run import Runner
from . import holders, kmod, nouveau_unbind, services
from .modules import DRIVER_MODULES, KERNELS_OWN, NEEDED_MODULES, unload_order

# What a caller may choose for a driver that is to be removed and is in use.
REFUSE, UNTIL_REBOOT = "refuse", "until_reboot"
_CDI = "nvidia-cdi-refresh"
_LOAD_S = 120.0


def load(root: Path, runner: Runner, deadline: Deadline, version: str, kver: str) -> tuple[str, ...]:
    """Loads the needed modules, waits until they are live, makes the device nodes; returns warnings. Raises BootError."""
    for name in NEEDED_MODULES:
        says = kmod.load(runner, name, deadline.cut_s(_LOAD_S, f"loading {name}"))
        if says:
            raise BootError(f"module {name} cannot be loaded: {says}. Kernel log: dmesg | grep NVRM", code="module_not_loaded")
    while any(m.state != "live" for m in kmod.loaded(root, NEEDED_MODULES)):
        if not deadline.pause(0.2):
            raise BootError(
                "the kernel was still loading the module when the deadline passed. Kernel log: dmesg | grep NVRM", code="module_not_loaded"
            )
    resident = {m.name: m.version for m in kmod.loaded(root, NEEDED_MODULES)}
    if resident.get("nvidia") != version:
        raise BootError(
            f"the kernel has nvidia {resident.get('nvidia') or 'of unknown version'} loaded, wanted is {version}: a reboot is needed",
            code="other_version_loaded",
        )
    _make_device_nodes(runner, deadline)
    return _load_like_udev(root, runner, deadline, kver)


def _make_device_nodes(runner: Runner, deadline: Deadline) -> None:
    """By NVIDIA's setuid helper, because udev makes none for the driver (I17). The helper prints nothing if it fails."""
    try:
        runner.run(["nvidia-modprobe", "-u", "-c0"], timeout_s=deadline.cut_s(_LOAD_S, "making device nodes"))
    except CommandError as error:
        raise BootError(
            f"the modules are loaded, but their device nodes cannot be made: {error}. As root: grep nvidia /proc/devices; findmnt /dev; "
            "ls -l /dev/nvidia* /usr/bin/nvidia-modprobe",
            code="device_nodes",
        ) from error


def _load_like_udev(root: Path, runner: Runner, deadline: Deadline, kver: str) -> tuple[str, ...]:
    """Loads what udev will load by itself from the next boot on, nvidia-drm among it, so that a first boot ends like the second."""
    aliases = {pci.modalias(root, function) for function in pci.nvidia_functions(root) if function.is_gpu}
    names = dict.fromkeys(name for alias in sorted(aliases) for name in kmod.by_modalias(root, kver, alias))
    warnings = []
    for name in names:
        says = "" if kmod.loaded(root, [name]) else kmod.load(runner, name, deadline.cut_s(_LOAD_S, f"loading {name}"))
        if says:
            warnings.append(f"module {name}, which udev loads too, cannot be loaded: {says}")
    return tuple(warnings)


def other_holders(root: Path) -> tuple[str, ...]:
    """Processes that have the driver's device nodes open and are not its own services, as ``name (pid)``."""
    return tuple(name for name in holders.device_holders(root) if not name.startswith(services.PROCESSES))


def refuse_if_held(root: Path, names: Collection[str]) -> None:
    """Raises BootError if a process other than the driver's own services uses the modules ``names``."""
    others = other_holders(root) if names else ()
    if others:
        raise BootError(
            f"the driver must be unloaded, but is in use by: {', '.join(others)}. End these processes, or reboot; nothing was stopped",
            code="driver_in_use",
        )


def unload(
    root: Path, runner: Runner, deadline: Deadline, names: Collection[str] = (*DRIVER_MODULES, *KERNELS_OWN)
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Unloads the modules ``names``; returns the services that were stopped for it, and the unloaded modules. GPUs that are bound to
    one of the kernel's own drivers among them are unbound first.

    Raises BootError, which names who holds the modules (I4); after that or any other error what was stopped and unloaded is started and
    loaded again. Otherwise the caller ends with ``services.start_again``, or with ``services.forget`` if the driver has gone.
    """
    refuse_if_held(root, names)
    taken = nouveau_unbind.by_kernels_own(root, names)
    nouveau_unbind.require_unused(root, taken)
    unloaded: list[str] = []
    try:
        stopped = services.stop(root, runner, deadline)
        nouveau_unbind.unbind(runner, deadline, taken)
        _unload_modules(root, runner, deadline, names, unloaded)
    except BaseException:
        nouveau_unbind.bind(runner, taken)
        for name in reversed(unloaded):
            kmod.load(runner, name, _LOAD_S)
        services.start_again(root, runner)
        raise
    return stopped, tuple(unloaded)


def _unload_modules(root: Path, runner: Runner, deadline: Deadline, names: Collection[str], unloaded: list[str]) -> None:
    for name in unload_order(kmod.loaded(root, names)):
        if not kmod.loaded(root, [name]):
            unloaded.append(name)  # modprobe -r unloaded it together with a module that needed it
            continue
        says = kmod.unload(runner, name, deadline.cut_s(_LOAD_S, f"unloading {name}"))
        left = next(iter(kmod.loaded(root, [name])), None)
        if says or left:
            modules = [f"module {holder}" for holder in (left.holders if left else ())]
            held_by = ", ".join([*holders.device_holders(root), *modules]) or "the kernel, or a process that has ended since"
            if name in KERNELS_OWN:
                raise nouveau_unbind.in_use(name, f"module {name} cannot be unloaded: {says or 'it is in use'}; held by: {held_by}")
            raise BootError(
                f"module {name} cannot be unloaded: {says or 'it is in use'}; held by: {held_by}. "
                "End what holds it, or reboot; the driver was left as it was",
                code="driver_in_use",
            )
        unloaded.append(name)


def start_services(runner: Runner, deadline: Deadline) -> tuple[list[str], list[str]]:
    """Starts persistenced if it is installed, and refreshes CDI (I17). Returns what was started, and warnings."""
    limit_s = deadline.cut_s(services.LIMIT_S, "asking systemd for the driver's services")
    units = services.find(runner, (services.PERSISTENCED, _CDI), limit_s)
    if units is None:
        return [], [f"systemd does not answer (systemctl show), so neither {services.PERSISTENCED} nor {_CDI} was started"]
    there = {name for name, unit in units.items() if unit.is_there}
    started: list[str] = []
    warnings: list[str] = []
    if services.PERSISTENCED in there:
        _service(runner, deadline, "start", services.PERSISTENCED, started, warnings)
    if _CDI in there:
        # At boot it ran before the modules were loaded, failed, and may have reached its limit of starts (I5).
        services.command(runner, "reset-failed", _CDI, deadline.cut_s(services.LIMIT_S, f"resetting {_CDI}"))
        _service(runner, deadline, "restart", _CDI, started, warnings)
    return started, warnings


def _service(runner: Runner, deadline: Deadline, verb: str, service: str, started: list[str], warnings: list[str]) -> None:
    says = services.command(runner, verb, service, deadline.cut_s(services.LIMIT_S, f"starting {service}"))
    if says:
        warnings.append(says)
    else:
        started.append(service)


def kernel_log(runner: Runner) -> str:
    """The kernel's log of this boot; empty if it cannot be read."""
    try:
        return runner.run(["dmesg"], ok=None, timeout_s=20).stdout
    except CommandError:
        return ""
