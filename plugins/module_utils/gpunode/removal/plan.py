"""Plans a removal: which files, modules, images and documents of ours go, and what stays. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..activation import take_away_plan
from ..activation.take_away_plan import Stays, TakeAwayPlan
from ..driver import control, nouveau_blacklist
from ..driver.control import REFUSE, UNTIL_REBOOT
from ..errors import BootError
from ..paths import INSTALLED_FILES, LAYERS, NODE_RECORD, STORE
from ..store.manifest import Manifest
from ..util import files
from ..util.run import Runner
from . import uninstall
from .ownership import Ours
from .request import EVERYTHING, RemoveRequest

NOTE = "nvidia-prebake: "


@dataclass(frozen=True)
class RemovalPlan:
    """``deactivations`` take the active layers away, ``rest`` what only other lists have. ``modules`` are ours and loaded, ``holders`` use
    them. ``notes`` is the path of the image builder's release notes with a line of ours, or ""."""

    found: Ours
    everything: bool
    deactivations: tuple[TakeAwayPlan, ...]
    rest: TakeAwayPlan
    modules: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    notes: str = ""

    @property
    def layers(self) -> tuple[Manifest, ...]:
        """The layers whose folders go."""
        return self.found.layers if self.everything else self.found.in_place

    @property
    def documents(self) -> tuple[str, ...]:
        """Those that could be read. A damaged one stays, because what it listed may still be here and nothing else lists it."""
        return tuple(path for path, there in ((INSTALLED_FILES, self.found.placed), (NODE_RECORD, self.found.node)) if there)

    @property
    def own_paths(self) -> list[str]:
        """Our documents and folders, which are removed at the end."""
        paths = [*(f"{LAYERS}/{layer.layer}" for layer in self.layers), *self.documents]
        if self.everything:
            paths += [self.notes] if self.notes else []
            paths += [] if self.found.problems else self.found.history
        return paths

    @property
    def removed(self) -> list[str]:
        blacklist = [nouveau_blacklist.PATH] if self.takes_blacklist else []
        files_ = (path for one in (*self.deactivations, self.rest) for path in one.removed)
        return list(dict.fromkeys((*files_, *blacklist, *self.own_paths)))

    @property
    def restored(self) -> list[str]:
        return list(dict.fromkeys(kept.entry.path for one in self.deactivations for kept in one.restore))

    @property
    def stays(self) -> tuple[Stays, ...]:
        return tuple(stay for one in (*self.deactivations, self.rest) for stay in one.all_stays)

    @property
    def takes_blacklist(self) -> bool:
        return self.everything and self.found.blacklist == nouveau_blacklist.OURS


def make(root: Path, runner: Runner, found: Ours, request: RemoveRequest) -> RemovalPlan:
    """The plan for what was ``found``. Raises BootError if the driver is in use and the request refuses that; OSError, CommandError."""
    modules = found.own_modules()
    holders = control.other_holders(root) if modules else ()
    if holders and request.in_use == REFUSE:
        raise BootError(_in_use(holders), code="driver_in_use")
    deactivations = _deactivations(root, found)
    return RemovalPlan(
        found,
        request.scope == EVERYTHING,
        deactivations,
        rest(root, runner, found, request.marker_path, deactivations),
        modules,
        holders,
        tuple(found.images) if request.images else (),
        _notes(root, request.release_notes) if request.scope == EVERYTHING else "",
    )


def _deactivations(root: Path, found: Ours) -> tuple[TakeAwayPlan, ...]:
    made: list[TakeAwayPlan] = []
    for active in found.active:
        made.append(take_away_plan.plan(root, take_away_plan.of_activation(active), gone=_gone(made)))
    return tuple(made)


def rest(root: Path, runner: Runner, found: Ours, marker_path: str, before: Sequence[TakeAwayPlan] = ()) -> TakeAwayPlan:
    """What is removed after the deactivations ``before``, which are only planned. Raises OSError, CommandError."""
    kept = frozenset(path for one in before for path in (*one.kept_paths, *one.restored))
    accounted = replace(found.accounted(marker_path), kept=kept)
    return uninstall.plan(root, runner, accounted, _gone(before))


def _gone(plans: Iterable[TakeAwayPlan]) -> frozenset[str]:
    return frozenset(path for one in plans for path in one.removed)


def _notes(root: Path, path: str) -> str:
    path = path.lstrip("/")
    text = files.read_text(root / path) or ""
    return path if not path.startswith(f"{STORE}/") and any(line.startswith(NOTE) for line in text.splitlines()) else ""


def _in_use(holders: tuple[str, ...]) -> str:
    return (
        f"the driver is in use by: {', '.join(holders)}. End that, or set gpu_remove_in_use to {UNTIL_REBOOT} and reboot afterwards; "
        "otherwise nothing is removed"
    )
