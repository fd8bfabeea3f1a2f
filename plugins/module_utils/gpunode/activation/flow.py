"""What a caller wants of a layer, as one call under the one lock: for the module gpu_layer and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import paths
from ..container import leftovers
from ..driver import control, foreign, kmod
from ..driver.control import REFUSE
from ..driver.modules import of_version, takeable
from ..errors import BootError, DataError, InputError
from ..options import LAYER
from ..store import activation_record, layers
from ..store.activation_record import Activation
from ..store.objects import Store
from ..system import host
from ..util import files
from ..util.deadline import Deadline
from ..util.run import Runner
from . import activate, deactivate, discard, preconditions, recovery
from .activate import indexes_were_swapped
from .disk_errors import disk_errors_named
from .take_away import TakenAway

ACTIVE, INACTIVE, ABSENT = "active", "inactive", "absent"
_UNLOAD_S = 300.0
_DOING = {ACTIVE: "an activation", INACTIVE: "a deactivation", ABSENT: "a discard"}


@dataclass
class LayerChange:
    """What came of it. ``how`` counts files by the way in which they are in place; paths are absolute.

    ``kept`` says what stays of the layer and why, ``left`` what else of a driver does. ``modules`` were unloaded and ``services`` stopped
    for it; ``resident`` are modules of the layer's version that are in the kernel still.
    """

    state: str
    layer: str
    changed: bool
    how: dict[str, int] = field(default_factory=dict)
    indexes_swapped: bool = False
    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    second_copies: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    resident: list[str] = field(default_factory=list)


@disk_errors_named()
def set_state(
    runner: Runner,
    state: str,
    layer: str = "",
    check: bool = False,
    say: Callable[[str], None] = lambda _: None,
    root: Path = Path("/"),
    in_use: str = LAYER["in_use"].default,
    live: bool = True,
) -> LayerChange:
    """Brings a layer to ``state``: ``active`` in place, ``inactive`` taken away, ``absent`` dropped from the store.

    Taking away unloads the layer's modules first where ``root`` is ``live``: the system of the kernel that runs. While somebody has them,
    BootError names who and nothing is touched, unless ``in_use`` is ``until_reboot``: then they stay, and are named. ``check`` only says
    whether it would change something, and raises what would refuse it. Raises GpuNodeError; BusyError when another run is under way.
    """
    host.require_root()
    if state not in _DOING:
        raise InputError(f"state: {state!r} is none of {', '.join(_DOING)}")
    if not layer and state != INACTIVE:
        raise InputError(f"layer: state {state} needs the name of a layer")
    host.require_system(root, "root")
    with _way_out_told(state):
        if not check:
            with files.locked(paths.LOCK, _DOING[state]):
                return _set_state(runner, state, layer, say, root, in_use if live else None)
        change = LayerChange(state, layer, _would_change(root, state, layer))
    if state == INACTIVE and change.changed and live and in_use == REFUSE:
        control.refuse_if_held(root, _own_modules(root, _in_place(root)))
    return change


@contextmanager
def _way_out_told(state: str) -> Iterator[None]:
    """Where the record of what is in place is damaged, nothing but a deactivation goes."""
    try:
        yield
    except DataError as error:
        if state == INACTIVE or error.code != "activation_invalid" or activation_record.is_newer(error):
            raise
        how = "python3 -m gpunode.command deactivate, or gpu_layer with state: inactive"
        advice = f"deactivate first ({how}): that goes by the layers' manifests"
        raise DataError(f"{error}: {advice}", code=error.code, details=error.details) from error


def _set_state(runner: Runner, state: str, layer: str, say: Callable[[str], None], root: Path, in_use: str | None) -> LayerChange:
    if state == ABSENT:
        return LayerChange(state, layer, discard.discard(root, runner, layer, say))
    is_damaged = state == INACTIVE and _is_damaged(root)
    resumed = None if is_damaged else deactivate.resume(root, runner, say)
    before = _in_place(root) if is_damaged else activation_record.read(root)
    if state == ACTIVE:
        return _activated(activate.activate(root, runner, layers.find(root, layer), say), before is None)
    if not is_damaged and (before is None or layer not in ("", before.layer)):
        return _taken_away(layer, resumed)
    services, modules = _unload(root, runner, before, in_use, say) if in_use else ((), ())
    change = _taken_away(layer, deactivate.deactivate(root, runner, say))
    resident = of_version(kmod.loaded(root), (before.identity.version,)) if in_use and before else ()
    left = [f"{item.what}: {item.why}" for item in leftovers.left_by_initialisation(root)]
    return replace(change, services=list(services), modules=list(modules), resident=[m.name for m in resident], left=left)


def _own_modules(root: Path, active: Activation | None) -> list[str]:
    shared = bool(foreign.operator_signs(root) or foreign.driver_packages(root))
    return [m.name for m in takeable(kmod.loaded(root), (active.identity.version,) if active else (), shared)]


def _unload(
    root: Path, runner: Runner, active: Activation | None, in_use: str, say: Callable[[str], None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = _own_modules(root, active)
    if not names:
        return (), ()
    say("taking away: unload modules")
    try:
        return control.unload(root, runner, Deadline(_UNLOAD_S), names)
    except BootError as error:
        if in_use == REFUSE:
            raise
        say(f"modules stay until the next reboot: {error}")
        return (), ()


def _is_damaged(root: Path) -> bool:
    """Whether which layer is in place cannot be read: then whatever the manifests account for is taken away, whatever the name."""
    return any(not activation_record.is_newer(error) for error in activation_record.problems(root))


def _in_place(root: Path) -> Activation | None:
    """The layer that is in place, by the record, or where that is damaged by the manifests."""
    return next(iter(recovery.found(root)), None) if _is_damaged(root) else activation_record.read(root)


def _activated(active: Activation, changed: bool) -> LayerChange:
    ways = list(active.how.values())
    return LayerChange(ACTIVE, active.layer, changed, {way: ways.count(way) for way in sorted(set(ways))}, indexes_were_swapped(active))


def _taken_away(layer: str, done: TakenAway | None) -> LayerChange:
    if done is None:
        return LayerChange(INACTIVE, layer, False)
    return LayerChange(
        INACTIVE,
        done.layer,
        True,
        removed=[f"/{path}" for path in done.removed],
        restored=[f"/{path}" for path in done.restored],
        second_copies=[f"/{path}" for path in done.second_copies],
        kept=list(done.kept),
    )


def _would_change(root: Path, state: str, layer: str) -> bool:
    if state == INACTIVE and _is_damaged(root):
        return True
    active = activation_record.read(root)
    under_way = activation_record.read_journal(root) is not None
    if state == ACTIVE:
        found = layers.find(root, layer)
        if active is None and not under_way:
            preconditions.check(root, Store(root), found)
            preconditions.check_contents(Store(root), found)
        else:
            activate.refuse_another(active, found)
        return active is None
    if state == INACTIVE:
        return under_way or (active is not None and layer in ("", active.layer))
    return layers.droppable(root, layer).exists()
