"""The driver's own services: which run, stopping them so that the driver can be unloaded, and starting them again.

systemd is asked, because only it knows where a unit comes from: /etc, /run, /usr/local or /usr, a generator, a drop-in, a link from another
name; and whether it is masked. What is stopped is noted first, in /run, where a reboot forgets it as it forgets the stopping: the run after
one that was killed starts it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CommandError
from ..paths import STOPPED_SERVICES
from ..util import files
from ..util.bounded import lines
from ..util.deadline import Deadline
from ..util.run import Runner

FABRIC_MANAGER = "nvidia-fabricmanager"
PERSISTENCED = "nvidia-persistenced"
# Those which may be stopped to unload the driver; any other holder is named and left alone.
SERVICES = (
    *(PERSISTENCED, "nvidia-powerd", FABRIC_MANAGER, "nvidia-imex"),
    *("nvidia-dcgm", "dcgm"),
    *("nvidia-gridd", "nvidia-topologyd"),
)
# Their processes, by the names in /proc, which are cut to 15 characters.
PROCESSES = ("nvidia-persiste", "nvidia-powerd", "nv-fabricmanage", "nvidia-imex", "nv-hostengine", "nvidia-gridd", "nvidia-topology")
LIMIT_S = 60.0  # for one command
_RUNNING = ("active", "activating", "reloading")
OFF = ("disabled", "masked", "masked-runtime")
"""States of a unit that somebody has switched off."""
_PROPERTIES = "--property=Id,LoadState,ActiveState,UnitFileState"


@dataclass(frozen=True)
class Unit:
    """What systemd says of a service. ``name`` is its own one, also if it was asked about by an alias; ``load`` is ``loaded``, ``masked``,
    ``not-found`` or another word for a unit that cannot be started; ``enabled`` is its state at boot."""

    name: str
    load: str
    active: str
    enabled: str

    @property
    def is_there(self) -> bool:
        """Whether it can be started."""
        return self.load == "loaded"

    @property
    def is_running(self) -> bool:
        return self.active in _RUNNING


def find(runner: Runner, names: Collection[str], limit_s: float = LIMIT_S) -> dict[str, Unit] | None:
    """What systemd says of each of the services ``names``; None if it does not answer, so that nothing is known of them."""
    argv = ["systemctl", "show", _PROPERTIES, *(f"{name}.service" for name in names)]
    try:
        shown = runner.run(argv, ok=None, timeout_s=limit_s)
    except CommandError:
        return None
    units = parse(shown.stdout) if shown.rc == 0 else ()
    return dict(zip(names, units)) if len(units) == len(names) else None


def parse(text: str) -> tuple[Unit, ...]:
    """Reads the output of ``systemctl show``: properties of one unit after the other, an empty line between them."""
    found: list[dict[str, str]] = [{}]
    for line in lines(text):
        key, equals, value = line.partition("=")
        if equals:
            found[-1][key] = value
        elif found[-1]:
            found.append({})
    return tuple(
        Unit(
            one.get("Id", "").removesuffix(".service"),
            one.get("LoadState", ""),
            one.get("ActiveState", ""),
            one.get("UnitFileState", ""),
        )
        for one in found
        if one
    )


def running(runner: Runner, limit_s: float = LIMIT_S) -> tuple[Unit, ...]:
    """Those of the driver's own services that run, each once; none if systemd does not answer, and then whoever holds the driver is found
    by its process."""
    found = find(runner, SERVICES, limit_s) or {}
    return tuple({unit.name: unit for unit in found.values() if unit.is_running}.values())


def stop(root: Path, runner: Runner, deadline: Deadline) -> tuple[str, ...]:
    """Stops those that run, and returns their names. ``start_again`` starts them. Raises CommandError, OSError."""
    found = running(runner, deadline.cut_s(LIMIT_S, "asking systemd for the driver's services"))
    if found:
        _note(root, found)
    for unit in found:
        runner.run(["systemctl", "stop", unit.name], ok=None, timeout_s=deadline.cut_s(LIMIT_S, f"stopping {unit.name}"))
    return tuple(unit.name for unit in found)


def _note(root: Path, found: Iterable[Unit]) -> None:
    """Notes what is about to be stopped, and what an earlier run noted and did not start again."""
    noted = {**{unit.name: unit.enabled for unit in found}, **_noted(root)}
    path = root / STOPPED_SERVICES
    files.make_private(path.parent)
    files.write_atomic(path, "".join(f"{name} {enabled}\n" for name, enabled in noted.items()), 0o600)


def _noted(root: Path) -> dict[str, str]:
    """The services that were stopped and not started again, each with its state at boot then. Only ours are believed."""
    words = (line.split(" ") for line in lines(files.read_text(root / STOPPED_SERVICES)))
    return {found[0]: found[1] for found in words if len(found) == 2 and found[0] in SERVICES}


def start_again(root: Path, runner: Runner) -> tuple[str, ...]:
    """Starts what ``stop`` has stopped, in this run or in one that was killed; returns warnings. A service that is gone, or that somebody
    has disabled or masked since, stays stopped. If systemd does not answer, the next run tries again."""
    noted = _noted(root)
    if not noted:
        return ()
    found = find(runner, tuple(noted))
    if found is None:
        return (f"systemd does not answer, so services that were stopped have not been started again: systemctl start {' '.join(noted)}",)
    warnings = []
    for name, unit in found.items():
        if unit.is_there and not unit.is_running and (unit.enabled not in OFF or unit.enabled == noted[name]):
            says = command(runner, "start", name, LIMIT_S)
            warnings += [says] if says else []
    forget(root)
    return tuple(warnings)


def end(root: Path, runner: Runner, driver_stays: bool, say: Callable[[str], None]) -> None:
    """Ends what ``stop`` has begun, on the way out of a run: the services start again if there still is a driver for them."""
    if not driver_stays:
        forget(root)
        return
    for warning in start_again(root, runner):
        say(warning)


def forget(root: Path) -> None:
    """Leaves stopped what was stopped: the driver that it served is gone."""
    with contextlib.suppress(OSError):
        (root / STOPPED_SERVICES).unlink()


def command(runner: Runner, verb: str, name: str, limit_s: float) -> str:
    """Runs ``systemctl VERB`` for a service; returns "", or what is wrong."""
    try:
        result = runner.run(["systemctl", verb, name], ok=None, timeout_s=limit_s)
    except CommandError as error:
        return f"{name} does not {verb}: {error} (journalctl -u {name})"
    return "" if result.rc == 0 else f"{name} does not {verb}: {result.stderr.strip()} (journalctl -u {name})"
