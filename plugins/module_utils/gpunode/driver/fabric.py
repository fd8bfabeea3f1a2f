"""NVLink's fabric: the switches of a node, fabric manager, and the GPUs that must join before CUDA starts (I18).

Up to NVLink 4 (A100, H100), a switch is a PCI function of NVIDIA. With NVLink 5 (HGX B200, B300) it is none: a node reaches its switches
through ConnectX functions, which are InfiniBand devices whose vital product data say SW_MNG, and NVLSM manages them. The switches of GB200
and GB300 are not the node's but the rack's. Sources: NVIDIA's Fabric Manager User Guide (r580); pci.ids of 2026 for the device ids.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BootError, CommandError
from ..system import pci, vpd
from ..system.pci import PciFunction
from ..util.deadline import Deadline
from ..util.expressions import expression
from ..util.folders import matching
from ..util.run import Runner
from . import nvidia_smi, services
from .nvidia_smi import FabricState
from .services import Unit

MANAGER = services.FABRIC_MANAGER
_SUBNET_MANAGERS = ("nvlsm", "nvidia-nvlsm")
_NVLINK5_SINCE = 0x2900  # the lowest device id of Blackwell; a later GPU may have such switches too
_RACK = ("2941", "31c2", "31c3")  # GB200, GB300
_BRIDGE = expression(r"(?<![A-Za-z0-9_])SW_MNG(?![A-Za-z0-9_])")
_READ_S, _POLL_S = 10.0, 2.0
_DONE, _GOOD = "Completed", "Success"
_WAITS = ("Not Started", "In Progress")


class Switches(str, enum.Enum):
    """What is known of a node's switches. ``UNKNOWN``: it cannot be told whether there are any."""

    NONE = "none"
    PCI = "pci"
    NVLINK5 = "nvlink5"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Found:
    """The switches of a node; ``why`` says why they are unknown."""

    switches: Switches
    why: str = ""


@dataclass(frozen=True)
class Managed:
    """What became of fabric manager. ``must_join``: the GPUs join a fabric now."""

    found: Found
    started: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def must_join(self) -> bool:
        return self.found.switches in (Switches.PCI, Switches.NVLINK5)


# --- the switches ----------------------------------------------------------------------------------------------------


def look(root: Path, runner: Runner, deadline: Deadline, functions: Sequence[PciFunction]) -> Found:
    """Looks for the node's switches. Product data are read only where a GPU may have switches of NVLink 5: each read takes a while."""
    gpus = [f.device for f in functions if f.is_gpu]
    if any(device in _RACK for device in gpus):
        return Found(Switches.NONE)
    if any(f.is_nvswitch for f in functions):
        return Found(Switches.PCI)
    if not any(_may_have_nvlink5(device) for device in gpus):
        return Found(Switches.NONE)
    try:
        return _by_bridges(root, runner, deadline)
    except OSError as error:
        return Found(Switches.UNKNOWN, f"a folder of its InfiniBand devices cannot be listed ({error})")


def _by_bridges(root: Path, runner: Runner, deadline: Deadline) -> Found:
    """Whether an InfiniBand device is the way to a switch. Raises OSError."""
    unknown = [_without_device(root, one.address) for one in pci.infiniband_functions(root)]
    for name, folder in _infiniband(root):
        is_bridge = _is_bridge(runner, deadline, folder)
        if is_bridge:
            return _managed(root)
        if is_bridge is None:
            unknown.append(f"the vital product data of InfiniBand device {name} cannot be read or are damaged ({folder}/vpd)")
    why = next(filter(None, unknown), "")
    return Found(Switches.UNKNOWN, why) if why else Found(Switches.NONE)


def _may_have_nvlink5(device: str) -> bool:
    try:
        return int(device, 16) >= _NVLINK5_SINCE
    except ValueError:
        return True


def _infiniband(root: Path) -> list[tuple[str, Path]]:
    """The InfiniBand devices that are Mellanox' PCI functions and have product data, with the functions' folders."""
    devices = ((device.name, device / "device") for device in matching(root / "sys/class/infiniband", "*"))
    return [(name, folder) for name, folder in devices if pci.is_mellanox(folder) and (folder / "vpd").exists()]


def _without_device(root: Path, address: str) -> str:
    """Says that no driver has made an InfiniBand device of a function; "" if one has."""
    if any((device / "device").resolve().name == address for device in matching(root / "sys/class/infiniband", "*")):
        return ""
    return f"InfiniBand controller {address} has no driver (mlx5_core, mlx5_ib)"


def _is_bridge(runner: Runner, deadline: Deadline, folder: Path) -> bool | None:
    """Whether a function is the way to a switch; None if its product data cannot be read in time, or are damaged. A program reads them,
    because a read waits for the device and cannot be interrupted."""
    argv = ["od", "-An", "-v", "-tx1", f"-N{vpd.LONGEST}", f"{folder}/vpd"]
    try:
        shown = runner.run(argv, timeout_s=deadline.cut_s(_READ_S, "reading vital product data")).stdout
        fields = vpd.read_only_fields(bytes.fromhex("".join(shown.split())))
    except (CommandError, ValueError):
        return None
    return None if fields is None else any(_BRIDGE.search(text) for text in fields.values())


def _managed(root: Path) -> Found:
    """The switches that a bridge leads to: only ib_umad lets programs manage them."""
    if (root / "sys/class/infiniband_mad").exists():
        return Found(Switches.NVLINK5)
    return Found(
        Switches.UNKNOWN, "the way to NVSwitches is there, but ib_umad is not loaded (modprobe ib_umad; for every boot: modules-load.d)"
    )


# --- the services ----------------------------------------------------------------------------------------------------


def manage(root: Path, runner: Runner, deadline: Deadline, functions: Sequence[PciFunction]) -> Managed:
    """Starts fabric manager where the node has switches, stops and disables it where it certainly has none, and else leaves it as it is.

    Raises BootError if there are switches and no fabric manager runs: CUDA would not start.
    """
    found = look(root, runner, deadline, functions)
    if found.switches is Switches.UNKNOWN:
        why = (
            f"whether this node has NVSwitches cannot be told: {found.why}; {MANAGER} was left as it is, and CUDA may not start (error 802)"
        )
        return Managed(found, warnings=(why,))
    units = services.find(runner, (MANAGER, *_SUBNET_MANAGERS), deadline.cut_s(services.LIMIT_S, f"asking for {MANAGER}"))
    if found.switches is Switches.NONE:
        return _disable(runner, deadline, found, units)
    missing = _why_it_cannot_start(units)
    if units is None or missing:
        raise BootError(f"this node has NVSwitches, but {missing}: CUDA will not start", code="fabric_manager")
    subnet = [name for name in _SUBNET_MANAGERS if found.switches is Switches.NVLINK5 and _is_wanted(units[name])]
    for service in (*subnet, MANAGER):
        says = services.command(runner, "start", service, deadline.cut_s(services.LIMIT_S, f"starting {service}"))
        if says:
            raise BootError(f"this node has NVSwitches, but {says}: CUDA will not start", code="fabric_manager")
    return Managed(found, started=(*subnet, MANAGER))


def _why_it_cannot_start(units: Mapping[str, Unit] | None) -> str:
    """Why fabric manager cannot be started, in words; "" if it can be."""
    if units is None:
        return f"systemd does not say whether {MANAGER} is installed (systemctl show)"
    state = units[MANAGER].load
    if state == "not-found":
        return f"{MANAGER} is not installed; use a driver image that contains it"
    return "" if units[MANAGER].is_there else f"the unit of {MANAGER} is {state} (systemctl status {MANAGER})"


def _disable(runner: Runner, deadline: Deadline, found: Found, units: Mapping[str, Unit] | None) -> Managed:
    """Without a switch, fabric manager fails at every boot."""
    if units is None or not units[MANAGER].is_there or units[MANAGER].enabled not in ("enabled", "enabled-runtime"):
        return Managed(found)
    limit = deadline.cut_s(services.LIMIT_S, f"disabling {MANAGER}")
    result = runner.run(["systemctl", "disable", "--now", MANAGER], ok=None, timeout_s=limit)
    services.command(runner, "reset-failed", MANAGER, limit)
    if result.rc:
        return Managed(found, warnings=(f"this node has no NVSwitch, but {MANAGER} cannot be disabled: {result.stderr.strip()}",))
    return Managed(found, disabled=(MANAGER,))


def _is_wanted(unit: Unit) -> bool:
    """Whether a unit of NVLSM's is to be started. Where it is disabled, fabric manager's own start script starts NVLSM, and two would end
    each other."""
    return unit.is_there and unit.enabled not in services.OFF


# --- the GPUs --------------------------------------------------------------------------------------------------------


def wait(runner: Runner, deadline: Deadline, found: Found, limit_s: float, say: Callable[[str], object]) -> tuple[str, ...]:
    """Waits until every GPU has joined the fabric, at most ``limit_s``; returns warnings. Raises BootError."""
    waiting, said = deadline.within(limit_s), False
    while True:
        states = nvidia_smi.fabric_states(runner, deadline)
        failed = [one for one in states if one.state == _DONE and one.status not in (_GOOD, "", "N/A")]
        if failed:
            raise BootError(
                f"GPUs did not join the NVLink fabric: {_named(failed)}; CUDA will not start (error 802): see journalctl -u {MANAGER}",
                code="fabric_failed",
            )
        pending = [one for one in states if one.state in _WAITS]
        if not pending:
            return _untold(found, states)
        if not said:
            say(f"waiting until {len(pending)} GPUs have joined the NVLink fabric")
            said = True
        if not waiting.pause(_POLL_S):
            raise BootError(
                f"GPUs have not joined the NVLink fabric after {waiting.total_s:.0f} s: {_named(pending)}; CUDA does not start until then "
                f"(error 802): see journalctl -u {MANAGER}, or set a larger gpu_boot_fabric_s",
                code="fabric_pending",
            )


def _untold(found: Found, states: Sequence[FabricState]) -> tuple[str, ...]:
    """Warns where GPUs of NVLink 5, which all join a fabric, say nothing of it. GPUs before H100 have no such state."""
    without = [one for one in states if one.state != _DONE]
    if found.switches is not Switches.NVLINK5 or (states and not without):
        return ()
    return (f"nvidia-smi does not say whether the GPUs have joined the NVLink fabric ({_named(without) or 'it names no state'})",)


def _named(states: Sequence[FabricState]) -> str:
    return ", ".join(f"GPU {one.gpu}: {one.state}{f' ({one.status})' if one.state == _DONE else ''}" for one in states[:8])
