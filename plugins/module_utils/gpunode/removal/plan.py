"""Plans a removal: which modules, images, documents and files of ours go, and what stays. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..activation import take_away_plan
from ..activation.take_away_plan import TakeAwayPlan
from ..driver import control
from ..driver.control import REFUSE, UNTIL_REBOOT
from ..errors import BootError
from ..paths import DRIVER_IMAGES, INSTALLED_FILES, LAYERS, NODE_RECORD, STORE
from ..store.contents import NOTE
from ..store.manifest import Manifest
from ..util import files, trust
from ..util.bounded import lines
from ..util.run import Runner
from . import uninstall
from .ownership import Ours
from .request import EVERYTHING, RemoveRequest


@dataclass(frozen=True)
class RemovalPlan:
    """``modules`` are ours and loaded, ``holders`` use them. ``notes`` is the path of the image builder's release notes if they have a line
    of ours, or ""."""

    found: Ours
    everything: bool
    modules: tuple[str, ...]
    holders: tuple[str, ...]
    images: tuple[str, ...]
    notes: str

    @property
    def layers(self) -> tuple[Manifest, ...]:
        """The layers whose folders go."""
        return self.found.layers if self.everything else self.found.in_place

    @property
    def documents(self) -> tuple[str, ...]:
        """Those that could be read. A damaged one stays, because what it listed may still be here and nothing else lists it."""
        fetched = self.everything and self.found.fetched.names
        lists = ((INSTALLED_FILES, self.found.placed), (NODE_RECORD, self.found.node), (DRIVER_IMAGES, fetched))
        return tuple(path for path, there in lists if there)

    @property
    def unpinned(self) -> tuple[str, ...]:
        """The driver images that stay, and that nobody will unpin once our documents are gone."""
        return tuple(dict.fromkeys((*self.found.images, *self.found.fetched.pinned))) if self.everything else ()

    def own_paths(self, staying: Collection[str]) -> list[str]:
        """Our documents and folders, which are removed at the end. Of the folders in ``staying``, which hold something of others, only what
        is ours."""
        found = self.found
        paths = [*(f"{LAYERS}/{layer.layer}" for layer in self.layers), *self.documents]
        if self.everything:
            paths += [self.notes] if self.notes else []
        for top, contents in found.contents.items() if self.everything and not found.problems else ():
            paths += contents.whole if top in staying else [top] if contents.is_ours else []
        return paths

    @property
    def blacklists(self) -> tuple[str, ...]:
        """The bake's files about the kernel's own drivers, as far as they go."""
        return self.found.blacklists if self.everything else ()


def make(root: Path, found: Ours, request: RemoveRequest) -> RemovalPlan:
    """The plan for what was ``found``. Raises BootError if the driver is in use and the request refuses that."""
    everything, modules = request.scope == EVERYTHING, found.own_modules()
    holders = control.other_holders(root) if modules else ()
    if holders and request.in_use == REFUSE:
        raise BootError(_in_use(holders), code="driver_in_use")
    images = tuple(found.images) if request.images else ()
    return RemovalPlan(found, everything, modules, holders, images, _notes(root, request.release_notes) if everything else "")


def files_of(root: Path, runner: Runner, found: Ours, marker_path: str) -> tuple[TakeAwayPlan, ...]:
    """How the files would go: a plan for each active layer, and one for what only other lists have. Raises OSError, CommandError."""
    made: list[TakeAwayPlan] = []
    for active in found.active:
        made.append(take_away_plan.plan(root, take_away_plan.of_activation(active), gone=_gone(made)))
    kept = frozenset(path for one in made for path in (*one.kept_paths, *one.restored))
    return (*made, uninstall.plan(root, runner, replace(found.accounted(marker_path), kept=kept), _gone(made)))


def _gone(plans: Iterable[TakeAwayPlan]) -> frozenset[str]:
    return frozenset(path for one in plans for path in one.removed)


def _notes(root: Path, path: str) -> str:
    path = path.lstrip("/")
    text = files.read_text(trust.below(root, path)) or ""
    return path if not path.startswith(f"{STORE}/") and any(line.startswith(NOTE) for line in lines(text)) else ""


def _in_use(holders: tuple[str, ...]) -> str:
    return (
        f"the driver is in use by: {', '.join(holders)}. End that, or set gpu_remove_in_use to {UNTIL_REBOOT} and reboot afterwards; "
        "otherwise nothing is removed"
    )
