"""Records which files the driver containers of one boot install, so that a removal can find them later."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..container.leftovers import INITIALISATION
from ..driver import footprint
from ..store.installed_files import completed, read_or_empty, write
from ..system import tree
from ..system.dpkg import owned_by_dpkg
from ..system.tree import Listing
from ..util.files import relative

# Links of enabled services belong to packages; DKMS's own key may have signed other modules on this node.
_NOT_OURS = ("etc/systemd/", "var/lib/dkms/mok.", "var/lib/shim-signed/")


class FileRecorder:
    """Records what the driver containers of one run install. ``own`` are the paths of our layers. ``interrupted`` says that an earlier run
    did not finish, so a file that is rewritten now was probably installed by that run."""

    def __init__(self, root: Path, own: Collection[str], interrupted: bool) -> None:
        self.root = root
        self._old = completed(root, read_or_empty(root))
        self._own = {*own, *self._old.paths}
        self._interrupted = interrupted
        self._before: Listing | None = None

    def begin(self) -> None:
        """Before the first container: records which of device initialisation's files are absent."""
        paths = [relative(self.root, self.root / path) for path in INITIALISATION]
        missing = {path for path in paths if not (self.root / path).exists()}
        self._old = replace(self._old, absent=tuple(sorted({*self._old.absent, *missing})))
        write(self.root, self._old)

    def before_build(self) -> None:
        """Before the first container that compiles: lists the files that exist."""
        if self._before is None:
            self._before = footprint.listing(self.root)

    def end(self, compiled: bool) -> None:
        """After the last container: adds what was installed to the list of installed files."""
        paths = {path for path in self._old.absent if (self.root / path).is_file()}
        if self._before is not None:
            paths |= self._installed(self._before)
        elif compiled:  # asked to skip the build, the container compiled, and so replaced what was baked
            paths |= {path for path in self._own if _is_there(self.root / path)}
        old = (entry for entry in self._old.entries if entry.path not in paths and _is_there(self.root / entry.path))
        new = (entry for entry in tree.describe(self.root, sorted(paths)) if entry.type != "other")
        write(self.root, replace(self._old, entries=(*old, *new)))

    def _installed(self, before: Listing) -> set[str]:
        change = tree.difference(before, footprint.listing(self.root))
        rewritten = {path for path in change.replaced if self._interrupted or path in self._own}
        # A folder that the interrupted run made is not rewritten: it is known only by its place.
        rewritten |= {str(parent) for path in rewritten for parent in Path(path).parents if footprint.is_drivers_place(str(parent))}
        owned = owned_by_dpkg(self.root)
        return {
            path for path in footprint.drivers_part([*change.added, *rewritten]) if path not in owned and not path.startswith(_NOT_OURS)
        }


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
