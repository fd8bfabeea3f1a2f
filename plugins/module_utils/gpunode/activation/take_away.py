"""Takes an activation's files away, whether the activation was finished or not: only what it placed, and only what is unchanged since
(rule R3). What the layer replaced or deleted is restored. Every step may have been done already, so an interrupted run is done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from ..driver import dkms
from ..driver.dkms import Made
from ..driver.modules import module_files
from ..store.activation_record import DEPMOD, Activation, Derived, Kept
from ..store.objects import Store
from ..system import kernels, tree
from ..system.dpkg import as_packaged, owned_by_dpkg
from ..system.host import TRIPLETS
from ..system.tree import Entry
from ..util import files
from ..util.run import Runner
from . import generated_files, steps, untracked
from .staging import Staging
from .untracked import same_content

_STAGED = "staged"
_TICK_NS = 20_000_000  # files' times lag behind the clock by up to a timer tick, 10 ms at 100 Hz
_ELSEWHERE = "its folder became a link to another after the layer was put in place"


@dataclass(frozen=True)
class Stays:
    """A path of a layer that stays, and the reason."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"/{self.path}: {self.why}"


@dataclass
class TakenAway:
    """Paths that were removed, that were restored, that were removed as second copies, and what stays. Nobody may remove what stays
    afterwards."""

    layer: str
    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    second_copies: list[str] = field(default_factory=list)
    stays: list[Stays] = field(default_factory=list)

    @property
    def kept(self) -> list[str]:
        """What stays, in sentences."""
        return [str(one) for one in self.stays]

    @property
    def kept_paths(self) -> set[str]:
        return {one.path for one in self.stays}

    def keep(self, path: str, why: str) -> None:
        self.stays.append(Stays(path, why))

    def add(self, more: TakenAway) -> None:
        """Counts in what was taken away after it."""
        for name in ("removed", "restored", "second_copies", "stays"):
            getattr(self, name).extend(getattr(more, name))


def take_away(root: Path, runner: Runner, activation: Activation, say: Callable[[str], None], interrupted: bool) -> TakenAway:
    """Takes ``activation`` away, as far as it is there; after something was interrupted, also what that left half made.

    All of it lasts when this returns. Raises OSError, CommandError.
    """
    if interrupted:
        for one in activation.derived:
            generated_files.sweep(root, one.program, activation.identity.kver)
    return _Taking(root, runner, activation, say, interrupted).run()


def made_since(root: Path, activation: Activation, present: Mapping[str, Entry | None], owned: Collection[str]) -> Made:
    """What DKMS has made of a layer's registration since; ``present`` is what is at the layer's paths now.

    Files of the layer itself are among it only where DKMS has built anew for the layer's own kernel: an owner's change is no build.
    """
    made = dkms.made_of_ours(root, activation.identity.version, owned)
    placed = {entry.path: entry for entry in activation.placed}
    same = {path for path, entry in placed.items() if (now := present[path]) and same_content(now, entry)}
    anew, kver = made.without(same), activation.identity.kver
    built_anew = anew.modules.get(kver) or not module_files(root, kver)  # or an interrupted run has taken those
    return anew if built_anew else made.without(placed)


class _Taking:
    def __init__(self, root: Path, runner: Runner, activation: Activation, say: Callable[[str], None], interrupted: bool) -> None:
        self.root = root
        self.runner = runner
        self.activation = activation
        self.say = say
        self.interrupted = interrupted
        self.placing = Staging(root, Store(root))
        self._kernels_folder = f"lib/modules/{activation.identity.kver}"
        self._has_kernel = kernels.is_installed(root, activation.identity.kver)
        self.originals = {kept.entry.path: kept for kept in activation.originals if not self._went_with_kernel(kept.entry.path)}
        self.done = TakenAway(activation.layer)
        self.owned = owned_by_dpkg(root)
        self._theirs: set[str] = set()
        self._made = Made()
        self._elsewhere: dict[str, bool] = {}

    def run(self) -> TakenAway:
        activation = self.activation
        placed = {entry.path: entry for entry in activation.placed}
        derived_files = (entry.path for one in activation.derived for entry in _entries_of(one))
        above = {str(folder) for path in self.originals for folder in PurePath(path).parents if folder.name}
        self.placing.sweep([*placed, *self.originals, *activation.folders, *above, *derived_files])
        # Looked at before anything is touched: what the programs made is worth restoring only while it is what they made for us.
        present = tree.describe_present(self.root, [*placed, *(path for path in self.originals if path not in placed)])
        renewals = [self._renewal(one) for one in activation.derived]
        restore = self._to_restore(placed, present) + [kept for renewal in renewals for kept in renewal.restore]
        self._begin("stage")
        self._stage(restore)
        self._begin("remove")
        # In the order opposite to that of placing: DKMS's registration first.
        made = self._made_by_dkms(placed, present)
        for entry in reversed(activation.placed):
            if entry.path not in made:
                self._remove(entry, present[entry.path])
        self._second_copies(placed)
        self._dangling_links(placed)
        self._begin("restore")
        self._restore(restore)
        for renewal in renewals:
            for path in renewal.remove:
                self.placing.remove(path)
        # What they were before knows nothing of files that are kept.
        again = activation.derived if self.done.kept_paths else [renewal.run for renewal in renewals if renewal.run]
        for one in again:
            self._begin(one.program)
            generated_files.make(self.root, self.runner, one, activation.identity.kver)
        self._begin("folders")
        self._folders()
        self.placing.label(self.runner, self.done.restored, self.say)
        self._begin("flush")
        self.placing.flush()
        return self.done

    def _begin(self, step: str) -> None:
        steps.begin(self.say, steps.TAKE_AWAY, step)

    # --- what to do -------------------------------------------------------------------------------------------------

    def _to_restore(self, placed: dict[str, Entry], present: dict[str, Entry | None]) -> list[Kept]:
        found = []
        for path, kept in self.originals.items():
            now, folder = present[path], path.rpartition("/")[0]
            if self._leads_elsewhere(folder):
                self._keep_aside(kept, _ELSEWHERE)
            elif self._is_blocked(folder):
                self._keep_aside(kept, "something else is where its folder was, so that what the layer replaced or deleted is not put back")
            elif now is None or self._is_as_placed(placed.get(path), now, kept.entry):
                if self._is_lost(kept):
                    why = "what was there before the layer is lost or damaged in the store, so that it is not put back"
                    self._keep_aside(kept, why, "what is left of it")
                else:
                    found.append(kept)
            elif now != kept.entry:
                self._keep_aside(kept, _changed(now, placed.get(path)))
        return found

    def _went_with_kernel(self, path: str) -> bool:
        """Whether it belonged to the layer's kernel, which was removed since: nothing of that is put back."""
        return not self._has_kernel and path.removeprefix("usr/").startswith(f"{self._kernels_folder}/")

    def _keep_aside(self, kept: Kept, why: str, what: str = "what was there before") -> None:
        """What was there before the layer is not put back, and not lost either."""
        if kept.entry.type == "link":
            self.done.keep(kept.entry.path, f"{why}; it was a link to {kept.entry.target}")
            return
        aside = self.placing.store.set_aside(kept.entry)
        self.done.keep(kept.entry.path, f"{why}; {what} is in /{aside}" if aside else why)

    def _is_as_placed(self, placed: Entry | None, now: Entry, original: Entry) -> bool:
        """Whether what is there is the layer's: as recorded, with a content that was not read before it was placed, or a folder that an
        interrupted run has given some of the original's and some of the layer's."""
        if placed is None:
            return False
        is_mixed = self.interrupted and now.type == "folder" and now != original and _is_mixture(now, placed, original)
        return now == placed or self._is_unread_object(placed, now) or is_mixed

    def _is_lost(self, kept: Kept) -> bool:
        return not self.placing.store.holds(kept.entry)

    def _is_blocked(self, folder: str) -> bool:
        """Whether a folder, or one above it, cannot be made, because something else has its name."""
        while folder and not os.path.lexists(self.root / folder):
            folder = folder.rpartition("/")[0]
        return bool(folder) and not (self.root / folder).is_dir()

    def _renewal(self, one: Derived) -> _Renewal:
        before = {kept.entry.path: kept for kept in one.before}
        after = {entry.path: entry for entry in one.after}
        present = tree.describe_present(self.root, sorted({*before, *after}))
        if not present:
            return _Renewal([], [], one)  # what it has made is not known
        if one.program == DEPMOD and not self._has_kernel:
            return _Renewal([], [path for path, now in present.items() if now and now == after.get(path)], None)
        was = {path: before[path].entry if path in before else None for path in present}
        if one.after and all(now == was[path] or now == after.get(path) for path, now in present.items()):
            changed = [path for path, now in present.items() if now != was[path]]
            if any(self._is_lost(before[path]) for path in changed if path in before):
                return _Renewal([], [], one)
            return _Renewal([before[path] for path in changed if path in before], [path for path in changed if path not in before], None)
        return _Renewal([], [], None if present == was else one)

    # --- files ------------------------------------------------------------------------------------------------------

    def _stage(self, restore: Iterable[Kept]) -> None:
        staged = 0
        for kept in sorted(restore, key=lambda k: k.entry.path):
            entry = kept.entry
            self._make_folders_above(entry.path)
            if entry.type != "folder":
                self.placing.stage_kept(kept)
                staged += 1
            elif not (self.root / entry.path).is_dir():
                self.placing.make_folder(entry.path, entry)
        if staged:
            self.placing.flush()

    def _make_folders_above(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if not (self.root / folder).is_dir():
            self._make_folders_above(folder)
            self.placing.make_folder(folder, None)

    def _restore(self, restore: Iterable[Kept]) -> None:
        for kept in restore:
            if kept.entry.type == "folder":
                self.placing.set_folder(kept.entry)
            else:
                self.placing.place(kept.entry, _STAGED, replaces=True)
            self.done.restored.append(kept.entry.path)

    def _made_by_dkms(self, placed: dict[str, Entry], present: dict[str, Entry | None]) -> set[str]:
        """Takes away what DKMS has made of the layer's registration since, and returns it; where a package has taken that over, its
        builds and the layer's are left. A kernel's build is known until its module indexes are right again, also after an interruption."""
        version, own_kver = self.activation.identity.version, self.activation.identity.kver
        if dkms.is_registered(self.root, version) and dkms.belongs_to_a_package(version, self.owned):
            made = dkms.made(self.root, version)
            self._theirs = {*made.paths, *made.others, *(path for path in placed if path.startswith(f"{dkms.TREE}/"))}
        self._made = made = made_since(self.root, self.activation, present, self.owned)
        for path in made.others:
            if path not in placed:
                self.done.keep(path, "it is not what DKMS has built from the layer's sources")
        self._take(made.links)
        for kver, modules in made.modules.items():
            self._take(modules)
            if kver != own_kver and (self.root / "lib/modules" / kver).is_dir():
                self.say(f"taking away: {DEPMOD} {kver}")
                if self.interrupted:
                    generated_files.sweep(self.root, DEPMOD, kver)
                generated_files.make(self.root, self.runner, Derived(DEPMOD, ()), kver)
                self.placing.device(f"lib/modules/{kver}")
        for folder in made.module_folders:
            self.placing.remove_folder(folder)
        # DKMS's tree says what there is to do: it goes when that lasts, and the layer's own part of it when this does.
        if made.paths or made.folders:
            self.placing.flush()
            self._take(made.files)
            for folder in reversed(made.folders):
                self.placing.remove_folder(folder)
            self.placing.flush()
        return made.paths

    def _take(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.placing.remove(path)
            self.done.removed.append(path)

    def _remove(self, entry: Entry, now: Entry | None) -> None:
        if now is None or entry.path in self.originals or entry.type == "folder":
            return
        if now != entry and not self._is_unread_object(entry, now):
            self.done.keep(entry.path, _changed(now, entry))
            return
        why = self._why_not_ours(entry.path)
        if why:
            self.done.keep(entry.path, why)
            return
        self.placing.remove(entry.path)
        self.done.removed.append(entry.path)

    def _why_not_ours(self, path: str) -> str:
        if self._leads_elsewhere(path.rpartition("/")[0]):
            return _ELSEWHERE
        if path in self.owned:
            return "a package that was installed later owns it"
        return "its registration with DKMS is a package's that was installed later" if path in self._theirs else ""

    def _is_unread_object(self, entry: Entry, now: Entry) -> bool:
        """Whether a file has the content of its object, and that is not what was recorded: placed before contents were read (a layer
        that is not verified), it is ours to remove and no change of an owner's."""
        if self.activation.verified or replace(now, sha256=entry.sha256, size=entry.size) != entry:
            return False
        try:
            placed, lies = self.root / entry.path, Path(self.placing.store.file(entry))
            # A write through a link changes its object too, and is no less the owner's.
            is_written = placed.samefile(lies) and placed.stat().st_mtime_ns > self.activation.activated_ns
            return files.sha256(lies) == now.sha256 and not is_written
        except OSError:
            return False

    def _leads_elsewhere(self, folder: str) -> bool:
        """Whether a folder or one above it is a link by now: what lies behind it was never put there by us."""
        if folder not in self._elsewhere:
            self._elsewhere[folder] = files.leads_elsewhere(self.root, folder)
        return self._elsewhere[folder]

    def _folders(self) -> None:
        for path in sorted({*self.activation.folders, *self._made.folders}, reverse=True):
            if not self.placing.remove_folder(path) and (path in self.activation.folders or path.startswith(f"{dkms.TREE}/")):
                self.done.keep(path, "the folder holds something else")
        if not self._has_kernel:
            self.placing.remove_folder(self._kernels_folder)  # it was left because of what was ours in it

    # --- what is elsewhere ------------------------------------------------------------------------------------------

    def _second_copies(self, placed: dict[str, Entry]) -> None:
        for path in untracked.second_copies(self.root, self.activation.identity.arch, placed):
            if path not in self.owned:
                self.placing.remove(path)
                self.done.second_copies.append(path)
            elif not as_packaged(self.root, path):
                self.done.keep(path, "a copy of a file of the layer that a package owns")

    def _dangling_links(self, placed: dict[str, Entry]) -> None:
        """Removes links that ldconfig made for libraries of the layer, which are gone now. A link that is older than the activation
        led nowhere before, too."""
        stay = self.owned | self.done.kept_paths
        paths = [Path(path) for path in placed if ".so" in path.rpartition("/")[2]]
        folders = {str(path.parent) for path in paths} | {f"usr/lib/{TRIPLETS[self.activation.identity.arch]}"}
        for path in untracked.links_to(self.root, sorted(folders), {path.name for path in paths}):
            link = self.root / path
            if link.exists() or path in stay or link.lstat().st_mtime_ns < self.activation.activated_ns - _TICK_NS:
                continue
            self.placing.remove(path)
            self.done.removed.append(path)


@dataclass(frozen=True)
class _Renewal:
    """How one set of derived files becomes what it was: kept ones that are put back, new ones that go, or the program run again."""

    restore: list[Kept]
    remove: list[str]
    run: Derived | None


def _entries_of(one: Derived) -> Iterable[Entry]:
    yield from one.after
    yield from (kept.entry for kept in one.before)


def _is_mixture(now: Entry, one: Entry, other: Entry) -> bool:
    """Whether each of a folder's owner, mode and attributes is that of one or of the other."""
    fields = all(getattr(now, name) in (getattr(one, name), getattr(other, name)) for name in ("type", "uid", "gid"))
    # An access list also sets the permission bits, and no others (acl(5)).
    modes = all(now.mode & bits in (one.mode & bits, other.mode & bits) for bits in (0o7000, 0o777))
    return fields and modes and set(now.attributes) <= {*one.attributes, *other.attributes}


def _changed(now: Entry, wanted: Entry | None) -> str:
    what = f"its {tree.changed_field(now, wanted)} was changed" if wanted else "it came"
    return f"{what} after the layer was put in place"
