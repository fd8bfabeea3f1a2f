"""Records what came to this node while the driver containers of one boot ran, so that a removal can find it later."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..container.leftovers import is_containers_package
from ..driver import footprint
from ..driver.footprint import CONTRACT_LIBRARIES
from ..store.installed_files import completed, read_or_empty, write, written_now
from ..system import tree, unit_links
from ..system.dpkg import owned_by_dpkg
from ..system.tree import Listing
from ..util.folders import names_in
from . import arrivals
from .arrivals import Names

# DKMS's own key may have signed other modules on this node. A removal names it.
_NOT_OURS = ("var/lib/dkms/mok.", "var/lib/shim-signed/")
_MOST_OTHERS = 200  # so that what another program unpacks meanwhile does not become a list of ours


class FileRecorder:
    """Records what came while the driver containers of one run ran. ``own`` are the paths of our layers. ``interrupted`` says that an
    earlier run did not finish, so a file that is rewritten now was probably installed by that run."""

    def __init__(self, root: Path, own: Collection[str], interrupted: bool) -> None:
        self.root = root
        self._old = completed(root, read_or_empty(root))
        self._own = {*own, *self._old.paths}
        self._interrupted = interrupted
        self._names = Names()
        self._before: Listing | None = None

    def begin(self) -> None:
        """Before the first container: looks at the folders of device initialisation, and records what of its own is absent."""
        self._names = arrivals.names(self.root, self._old.paths)
        earlier = self._old.absent if self._interrupted else ()
        self._old = replace(self._old, absent=tuple(sorted({*earlier, *self._names.absent})), unfinished=True)
        write(self.root, self._old)

    def before_build(self) -> None:
        """Before the first container that compiles: lists the files that exist."""
        if self._before is None:
            self._before = footprint.listing(self.root, footprint.ALL_ROOTS)

    def end(self, compiled: bool) -> None:
        """After the last container: records what came. What only a driver container can have written is listed as installed, and what no
        package owns besides that as other things."""
        came = self._came()
        paths = self._containers(came)
        if self._before is None and compiled:  # asked to skip the build, the container compiled, and so replaced what was baked
            paths |= {path for path in self._own if os.path.lexists(self.root / path)}
        old = (entry for entry in self._old.entries if entry.path not in paths and os.path.lexists(self.root / entry.path))
        new = (entry for entry in tree.describe(self.root, sorted(paths)) if entry.type != "other")
        others = self._others(came, paths)
        packages = {*self._old.packages, *filter(is_containers_package, arrivals.packages(self.root, self._names))}
        recorded = replace(self._old, entries=(*old, *new), others=others, packages=tuple(sorted(packages)), unfinished=False)
        write(self.root, recorded)

    def _came(self) -> set[str]:
        """The paths that came, and those of ours that were written again, without the files of packages."""
        came = arrivals.added(self.root, self._names) | arrivals.rewritten(self.root, self._names)
        came |= written_now(self.root, self._old.absent)
        if self._before is None:  # libraries' second copies are found by their contents, so they are not hashed while the node waits
            came = {path for path in came if not self._is_second_copy(path)}
            return came - arrivals.packaged(self.root, self._names)
        change = tree.difference(self._before, footprint.listing(self.root, footprint.ALL_ROOTS))
        return {*came, *change.added, *self._rewritten(change.replaced)} - owned_by_dpkg(self.root)

    def _rewritten(self, replaced: Collection[str]) -> set[str]:
        again = {path for path in replaced if path in self._own or (self._interrupted and footprint.is_containers(path))}
        # A folder that the interrupted run made is not rewritten: it is known only by its place.
        return again | {str(parent) for path in again for parent in Path(path).parents if footprint.is_drivers_place(str(parent))}

    def _is_second_copy(self, path: str) -> bool:
        folder, _slash, name = path.rpartition("/")
        is_loaders = folder.startswith("usr/lib/") and folder.endswith("-linux-gnu")
        return is_loaders and os.path.lexists(self.root / CONTRACT_LIBRARIES / name)

    def _containers(self, came: Collection[str]) -> set[str]:
        """Of what came, what only a driver container can have written: its files, links to its units, and folders with nothing else."""
        folders = {path for path in came if self._is_folder(path)}
        files = {path for path in came if path not in folders and not path.startswith(_NOT_OURS)}
        mine = {path for path in files if path in self._own or footprint.is_containers(path)}
        units = {*mine, *self._own}
        mine |= {path for path in files if unit_links.unit_of(self.root, path) in units}
        return mine | footprint.folders_of(mine, files - mine, folders)

    def _others(self, came: Collection[str], mine: Collection[str]) -> tuple[str, ...]:
        """What else came: a folder stands for all that is in it. A link that enables another unit belongs to the owner of that unit."""
        folders = {path for path in came if path not in mine and self._is_folder(path)}
        files = {path for path in came if path not in folders and path not in mine and not footprint.is_ignored(path)}
        rest = {path for path in files if (unit := unit_links.unit_of(self.root, path)) in files or not (self.root / unit).is_file()}
        whole = footprint.folders_of(rest, {*mine, *files} - rest, folders)
        empty = {path for path in folders if not names_in(self.root / path)}
        found = footprint.topmost({*self._old.others, *rest, *whole, *empty} - set(mine))
        return tuple(path for path in found if os.path.lexists(self.root / path))[:_MOST_OTHERS]

    def _is_folder(self, path: str) -> bool:
        return (self.root / path).is_dir() and not (self.root / path).is_symlink()
