"""Activates, deactivates or discards a layer by name, under the lock: for the module gpu_layer and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import paths
from ..container import leftovers
from ..driver import control, foreign, kmod, services
from ..driver.control import REFUSE
from ..driver.modules import of_version, takeable
from ..errors import BootError, DataError, InputError
from ..options import LAYER
from ..store import activation_record, layers
from ..store.activation_record import Activation
from ..store.manifest import Manifest
from ..store.objects import Store
from ..system import host
from ..util import files, trust
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
    """The result. ``how`` counts files by the way in which they were put in place. Paths are absolute.

    ``kept`` says what stays of the layer and why, ``left`` what else of a driver stays. ``modules`` were unloaded and ``services`` stopped
    for it; ``resident`` are modules of the layer's version that are still loaded.
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
    """Brings a layer to ``state``: ``active`` activates it, ``inactive`` deactivates it, ``absent`` discards it.

    If ``root`` is ``live``, the system of the running kernel, a deactivation unloads the layer's modules first. If they are in use, it
    raises BootError, which names the holders, and changes nothing; with ``in_use`` ``until_reboot`` they stay loaded instead, and the
    result names them. ``check`` only says whether something would change, and raises any error that would refuse it. Raises GpuNodeError;
    BusyError if another run is under way.
    """
    host.require_root()
    if state not in _DOING:
        raise InputError(f"state: {state!r} is not one of {', '.join(_DOING)}")
    if not layer and state != INACTIVE:
        raise InputError(f"layer: the state {state} needs the name of a layer")
    host.require_system(root, "root")
    trust.require_store(root)
    with _deactivation_advised(root, state):
        if check:
            return _checked(root, _plan(root, state, layer), live and in_use == REFUSE)
        with files.locked(paths.LOCK, _DOING[state]):
            return _set_state(runner, state, layer, say, root, in_use if live else None)


@dataclass(frozen=True)
class _Plan:
    """What to do about the system as it is now. ``active`` is the layer in place, ``found`` the one to activate. ``is_damaged``: the
    activation record or its journal is damaged, so only the manifests say what is in place. ``is_under_way``: a run was interrupted, and is
    finished or rolled back first."""

    state: str
    layer: str
    active: Activation | None = None
    found: Manifest | None = None
    is_damaged: bool = False
    is_under_way: bool = False
    is_in_store: bool = False

    @property
    def takes_away(self) -> bool:
        """Whether the layer in place is deactivated. If a document is damaged, it is, whichever layer is named."""
        is_meant = self.active is not None and self.layer in ("", self.active.layer)
        return self.state == INACTIVE and (self.is_damaged or is_meant)

    @property
    def changes(self) -> bool:
        """Whether carrying it out changes something."""
        if self.state == ABSENT:
            return self.is_in_store
        return self.active is None if self.state == ACTIVE else self.takes_away or self.is_under_way


def _plan(root: Path, state: str, layer: str) -> _Plan:
    """Raises LayerError, DataError."""
    if state == INACTIVE and _is_damaged(root):
        return _Plan(state, layer, next(iter(recovery.found(root)), None), is_damaged=True)
    made = _Plan(state, layer, activation_record.read(root), is_under_way=activation_record.read_journal(root) is not None)
    if state == ABSENT:
        return replace(made, is_in_store=layers.droppable(root, layer).exists())
    return replace(made, found=layers.find(root, layer)) if state == ACTIVE else made


def _checked(root: Path, plan: _Plan, is_refused: bool) -> LayerChange:
    """The result for check mode: raises what would refuse the plan. ``is_refused``: a driver in use refuses it."""
    if plan.found and plan.active is None and not plan.is_under_way:
        preconditions.check(root, Store(root), plan.found)
        preconditions.check_contents(Store(root), plan.found)
    elif plan.found:
        activate.refuse_another(plan.active, plan.found)
    if plan.state == INACTIVE and plan.changes and is_refused:
        control.refuse_if_held(root, _own_modules(root, plan.active))
    return LayerChange(plan.state, plan.layer, plan.changes)


@contextmanager
def _deactivation_advised(root: Path, state: str) -> Iterator[None]:
    """Adds advice to the error about a damaged activation record: then only a deactivation is possible."""
    try:
        yield
    except DataError as error:
        is_meant = str(error) in [str(one) for one in activation_record.problems(root)]
        if state == INACTIVE or not is_meant or activation_record.is_newer(error):
            raise
        how = "python3 -m gpunode.command deactivate, or gpu_layer with state: inactive"
        advice = f"deactivate first ({how}): that uses the layers' manifests instead"
        raise DataError(f"{error}: {advice}", code=error.code, details=error.details) from error


def _set_state(runner: Runner, state: str, layer: str, say: Callable[[str], None], root: Path, in_use: str | None) -> LayerChange:
    if state == ABSENT:  # a discard plans for itself
        return LayerChange(state, layer, discard.discard(root, runner, layer, say))
    resumed = None if state == INACTIVE and _is_damaged(root) else deactivate.resume(root, runner, say)
    plan = _plan(root, state, layer)
    if plan.found:
        return _activated(activate.activate(root, runner, plan.found, say), plan.changes)
    if not plan.takes_away:
        return _taken_away(layer, resumed)
    driver_stays = True  # until the layer has gone
    try:
        stopped, modules = _unload(root, runner, plan.active, in_use, say) if in_use else ((), ())
        change = _taken_away(layer, deactivate.deactivate(root, runner, say))
        driver_stays = _is_shared(root)
    finally:
        if in_use:
            services.end(root, runner, driver_stays, say)
    resident = of_version(kmod.loaded(root), (plan.active.identity.version,)) if in_use and plan.active else ()
    left = [f"{item.what}: {item.why}" for item in leftovers.left_by_initialisation(root)]
    return replace(change, services=list(stopped), modules=list(modules), resident=[m.name for m in resident], left=left)


def _own_modules(root: Path, active: Activation | None) -> list[str]:
    return [m.name for m in takeable(kmod.loaded(root), (active.identity.version,) if active else (), _is_shared(root))]


def _is_shared(root: Path) -> bool:
    """Whether a driver of another owner is here too."""
    return bool(foreign.operator_signs(root) or foreign.driver_packages(root))


def _unload(
    root: Path, runner: Runner, active: Activation | None, in_use: str, say: Callable[[str], None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = _own_modules(root, active)
    if not names:
        return (), ()
    say("unloading the layer's modules")
    try:
        return control.unload(root, runner, Deadline(_UNLOAD_S), names)
    except BootError as error:
        if in_use == REFUSE:
            raise
        say(f"the modules stay loaded until the next reboot: {error}")
        return (), ()


def _is_damaged(root: Path) -> bool:
    """Whether the activation record or its journal is damaged. Then a deactivation takes away what the manifests account for."""
    return any(not activation_record.is_newer(error) for error in activation_record.problems(root))


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
