"""Plans how files of ours are taken away: what is removed, what is restored, and what stays. Reads the system and changes nothing.

A file is removed only if one of our documents lists it, and only if it is unchanged since (rule R3). An interrupted removal is planned
again: what it has done already is not in the new plan.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..driver import dkms
from ..driver.dkms import Made
from ..driver.modules import module_files
from ..store.activation_record import DEPMOD, Activation, Derived, Kept
from ..store.objects import Store
from ..system import kernels, tree, unit_links
from ..system.dpkg import as_packaged, owned_by_dpkg
from ..system.host import TRIPLETS
from ..system.tree import Entry
from ..util import files
from . import untracked
from .untracked import same_content

_TICK_NS = 20_000_000  # the times of files are up to one timer tick behind the clock, 10 ms at 100 Hz
_ELSEWHERE = "its folder became a link to another folder after {since}"
_OWNED = "a package that was installed later owns it"
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Listed:
    """What may be taken away. ``placed`` lists files and links in the order in which they were put in place, and folders that a layer
    replaced; ``originals`` are backups of what they replaced, none for lists that have no backups.

    ``versions`` are the driver versions whose registration with DKMS may be ours. ``kvers`` are the kernels that the lists are for, the
    layer's own first; ``derived`` are the generated files to make again for them. ``folders`` were made for the layer, so it is reported if
    one stays; ``shared_folders`` are removed if they are empty. ``is_verified``: all contents were right when they were placed.
    """

    layer: str
    arch: str
    versions: tuple[str, ...]
    kvers: tuple[str, ...]
    placed: tuple[Entry, ...]
    folders: tuple[str, ...] = ()
    shared_folders: tuple[str, ...] = ()
    originals: tuple[Kept, ...] = ()
    derived: tuple[Derived, ...] = ()
    is_verified: bool = True
    since_ns: int = 0

    @property
    def since(self) -> str:
        """From when on a change is the owner's, in words."""
        return "the layer was put in place" if self.layer else "it was installed"


def of_activation(one: Activation) -> Listed:
    """What an activation lists."""
    return Listed(
        layer=one.layer,
        arch=one.identity.arch,
        versions=(one.identity.version,),
        kvers=(one.identity.kver,),
        placed=one.placed,
        folders=one.folders,
        originals=one.originals,
        derived=one.derived,
        is_verified=one.verified,
        since_ns=one.activated_ns,
    )


@dataclass(frozen=True)
class Stays:
    """A path of ours that is not removed or not restored, and the reason."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"/{self.path}: {self.why}"


@dataclass(frozen=True)
class NotRestored:
    """A backup that is not restored, and the reason. ``what`` names what is left of a file, which is kept in the store."""

    kept: Kept
    why: str
    what: str = "what was there before"


@dataclass(frozen=True)
class Renewal:
    """How generated files become what they were: backups to ``restore``, new files to ``remove``, or the program to ``run`` again."""

    restore: tuple[Kept, ...] = ()
    remove: tuple[str, ...] = ()
    run: Derived | None = None


@dataclass(frozen=True)
class TakeAwayPlan:
    """``remove`` are the listed files in the order of removal; ``made`` is what DKMS made of them, ``second_copies`` and ``links`` are what
    device initialisation, ldconfig and ``systemctl enable`` made. ``restore`` are the backups to restore."""

    listed: Listed
    remove: tuple[str, ...] = ()
    made: Made = field(default_factory=Made)
    second_copies: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    restore: tuple[Kept, ...] = ()
    renewals: tuple[Renewal, ...] = ()
    not_restored: tuple[NotRestored, ...] = ()
    stays: tuple[Stays, ...] = ()

    @property
    def removed(self) -> tuple[str, ...]:
        """Every file and link that is removed, except generated files."""
        return (*self.made.all_files, *self.second_copies, *self.links, *self.remove)

    @property
    def restored(self) -> tuple[str, ...]:
        """What is restored, generated files included."""
        return tuple(kept.entry.path for kept in (*self.restore, *(kept for one in self.renewals for kept in one.restore)))

    @property
    def all_stays(self) -> tuple[Stays, ...]:
        return (*self.stays, *(Stays(one.kept.entry.path, one.why) for one in self.not_restored))

    @property
    def kept_paths(self) -> set[str]:
        return {one.path for one in self.all_stays}


def plan(
    root: Path, listed: Listed, interrupted: bool = False, spared: Collection[str] = _NOTHING, gone: Collection[str] = _NOTHING
) -> TakeAwayPlan:
    """The plan for what is listed. Raises OSError.

    ``interrupted``: an earlier run may have left a folder half changed. ``spared`` are paths that stay, and that an earlier plan has named.
    ``gone`` are paths that an earlier plan, which is not carried out yet, removes.
    """
    paths = [*(e.path for e in listed.placed), *(kept.entry.path for kept in listed.originals)]
    with ThreadPoolExecutor(max_workers=1) as pool:
        owned = pool.submit(owned_by_dpkg, root)
        present = tree.describe_present(root, dict.fromkeys(paths))
    present = {path: None if path in gone else now for path, now in present.items()}
    return _Planning(root, listed, present, owned.result(), interrupted, frozenset(spared), frozenset(gone)).plan()


@dataclass
class _Planning:
    """``present`` is what is there now, ``owned`` are the paths in dpkg's file lists."""

    root: Path
    listed: Listed
    present: Mapping[str, Entry | None]
    owned: set[str]
    interrupted: bool
    spared: frozenset[str]
    gone: frozenset[str]
    stays: list[Stays] = field(default_factory=list)
    not_restored: list[NotRestored] = field(default_factory=list)
    elsewhere: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.root)
        self.placed = {entry.path: entry for entry in self.listed.placed}
        self.has_kernel = not self.listed.kvers or kernels.is_installed(self.root, self.listed.kvers[0])
        self.originals = {kept.entry.path: kept for kept in self.listed.originals if not self._went_with_kernel(kept.entry.path)}

    def plan(self) -> TakeAwayPlan:
        renewals = tuple(self._renewal(one) for one in self.listed.derived)
        restore = tuple(self._to_restore())
        made, theirs = self._made_by_dkms()
        paths = made.paths
        remove = [e.path for e in reversed(self.listed.placed) if e.path not in paths and self._is_removed(e, theirs)]
        copies = tuple(self._second_copies())
        going = {*made.all_files, *remove, *copies, *self.gone}
        links = (*self._dangling_links(going), *self._unit_links(going))
        return TakeAwayPlan(self.listed, tuple(remove), made, copies, links, restore, renewals, tuple(self.not_restored), tuple(self.stays))

    def _keep(self, path: str, why: str) -> None:
        if path not in self.spared:
            self.stays.append(Stays(path, why))

    # --- what was there before ----------------------------------------------------------------------------------------

    def _went_with_kernel(self, path: str) -> bool:
        """Whether the path belongs to the layer's kernel, and that kernel was removed since: nothing of it is restored."""
        return not self.has_kernel and path.removeprefix("usr/").startswith(f"lib/modules/{self.listed.kvers[0]}/")

    def _to_restore(self) -> Iterable[Kept]:
        for path, kept in self.originals.items():
            now, folder = self.present[path], path.rpartition("/")[0]
            if self._leads_elsewhere(folder):
                self.not_restored.append(NotRestored(kept, self._elsewhere()))
            elif self._is_blocked(folder):
                why = "something else is where its folder was, so what the layer replaced or deleted is not restored"
                self.not_restored.append(NotRestored(kept, why))
            elif now is None or self._is_as_placed(self.placed.get(path), now, kept.entry):
                if self.store.holds(kept.entry):
                    yield kept
                else:
                    why = "what was there before the layer is missing or damaged in the store, so it is not restored"
                    self.not_restored.append(NotRestored(kept, why, "what is left of it"))
            elif now != kept.entry:
                self.not_restored.append(NotRestored(kept, self._changed(now, self.placed.get(path))))

    def _is_as_placed(self, placed: Entry | None, now: Entry, original: Entry) -> bool:
        """Whether what is there is the layer's: as recorded, or with a content that was not read before it was placed, or a folder with a
        mixture of the original's and the layer's properties, which an interrupted run left."""
        if placed is None:
            return False
        is_mixed = self.interrupted and now.type == "folder" and now != original and _is_mixture(now, placed, original)
        return now == placed or self._is_unread_object(placed, now) or is_mixed

    def _is_blocked(self, folder: str) -> bool:
        """Whether a folder, or one above it, cannot be made, because something else is at its path."""
        while folder and not os.path.lexists(self.root / folder):
            folder = folder.rpartition("/")[0]
        return bool(folder) and not (self.root / folder).is_dir()

    def _renewal(self, one: Derived) -> Renewal:
        before = {kept.entry.path: kept for kept in one.before}
        after = {entry.path: entry for entry in one.after}
        present = tree.describe_present(self.root, sorted({*before, *after}))
        if not present:
            return Renewal(run=one)  # it is not known what the program made
        if one.program == DEPMOD and not self.has_kernel:
            return Renewal(remove=tuple(path for path, now in present.items() if now and now == after.get(path)))
        was = {path: before[path].entry if path in before else None for path in present}
        if one.after and all(now == was[path] or now == after.get(path) for path, now in present.items()):
            changed = [path for path, now in present.items() if now != was[path]]
            restore = tuple(before[path] for path in changed if path in before)
            if not all(self.store.holds(kept.entry) for kept in restore):
                return Renewal(run=one)
            return Renewal(restore, tuple(path for path in changed if path not in before))
        return Renewal(run=None if present == was else one)

    # --- what is listed -----------------------------------------------------------------------------------------------

    def _made_by_dkms(self) -> tuple[Made, set[str]]:
        """What DKMS has made from a listed registration, and which listed files belong with one that a package has taken over: with it, all
        builds stay."""
        made, theirs = Made(), set()
        for version in self.listed.versions:
            if not dkms.is_registered(self.root, version):
                continue
            found = dkms.made(self.root, version)
            if dkms.belongs_to_a_package(version, self.owned):
                theirs |= {*found.paths, *found.others, *(path for path in self.placed if path.startswith(f"{dkms.TREE}/"))}
            else:
                made = made.also(self._made_since(found))
        for path in made.others:
            if path not in self.placed:
                self._keep(path, "it differs from what DKMS built from the layer's sources")
        return made, theirs

    def _made_since(self, made: Made) -> Made:
        """Of what DKMS ``made`` from a registration of ours, all but the files that are still as they were placed.

        This includes other listed files only if DKMS has built again for a kernel of the lists. Otherwise a changed file is the owner's
        change, not a build.
        """
        # dpkg's lists have 100,000 paths and more: they are asked, and never copied.
        owned = {path for path in (*made.all_files, *made.others) if path in self.owned}
        for path in sorted(owned - self.placed.keys() - {*made.others}):
            self._keep(path, _OWNED)
        made = made.without(owned | self.spared | self.gone)
        same = {path for path, entry in self.placed.items() if (now := self.present[path]) and same_content(now, entry)}
        changed = made.without(same)
        # An interrupted run may have removed all modules.
        is_rebuilt = any(changed.modules.get(kver) or not module_files(self.root, kver) for kver in self.listed.kvers)
        return changed if is_rebuilt else made.without(self.placed)

    def _is_removed(self, entry: Entry, theirs: Collection[str]) -> bool:
        """Whether a listed file is removed; if not, names it and the reason, unless it is gone or its original is restored."""
        path, now = entry.path, self.present[entry.path]
        if now is None or path in self.originals or entry.type == "folder" or path in self.spared:
            return False
        if now != entry and not self._is_unread_object(entry, now):
            self._keep(path, self._changed(now, entry))
            return False
        if self._leads_elsewhere(path.rpartition("/")[0]):
            self._keep(path, self._elsewhere())
            return False
        if path in self.owned:
            self._keep(path, _OWNED)
            return False
        if path in theirs:
            self._keep(path, "its registration with DKMS belongs to a package that was installed later")
            return False
        return True

    def _is_unread_object(self, entry: Entry, now: Entry) -> bool:
        """Whether a file has the content of its object, but not the recorded one. It was placed before its content was read (the activation
        is not verified), so it is not the owner's change, and is removed."""
        if self.listed.is_verified or replace(now, sha256=entry.sha256, size=entry.size) != entry:
            return False
        try:
            placed, lies = self.root / entry.path, Path(self.store.file(entry))
            # A write through a hard link changes the object too, but is the owner's change all the same.
            is_written = placed.samefile(lies) and placed.stat().st_mtime_ns > self.listed.since_ns
            return files.sha256(lies) == now.sha256 and not is_written
        except OSError:
            return False

    def _leads_elsewhere(self, folder: str) -> bool:
        """Whether a folder or one above it is a link now: nothing behind it was placed by us."""
        if folder not in self.elsewhere:
            self.elsewhere[folder] = files.leads_elsewhere(self.root, folder)
        return self.elsewhere[folder]

    def _elsewhere(self) -> str:
        return _ELSEWHERE.format(since=self.listed.since)

    def _changed(self, now: Entry, wanted: Entry | None) -> str:
        what = f"its {tree.changed_field(now, wanted)} was changed" if wanted else "it was created"
        return f"{what} after {self.listed.since}"

    # --- what no document lists ---------------------------------------------------------------------------------------

    def _second_copies(self) -> Iterable[str]:
        for path in untracked.second_copies(self.root, self.listed.arch, self.placed):
            if path in self.spared or path in self.gone:
                continue
            if path not in self.owned:
                yield path
            elif not as_packaged(self.root, path):
                self._keep(path, "it is a copy of a file of the layer, and a package owns it")

    def _dangling_links(self, gone: set[str]) -> tuple[str, ...]:
        """Links that ldconfig made for listed libraries, such as libcuda.so.1, and that lead nowhere once ``gone`` is removed. A link that
        is older than the layer's activation was dangling before it, and stays."""
        stay = self.spared | {one.path for one in self.stays}
        paths = [Path(path) for path in {*self.placed, *gone} if ".so" in path.rpartition("/")[2]]
        folders = sorted({str(path.parent) for path in paths} | {f"usr/lib/{TRIPLETS[self.listed.arch]}"})
        names, found = {path.name for path in paths}, []
        is_more = True
        while is_more:  # libcuda.so → libcuda.so.1 → libcuda.so.535.…
            links = [path for path in untracked.links_to(self.root, folders, names) if path not in gone and path not in stay]
            more = [path for path in links if path not in self.owned and self._dangles(path, gone)]
            found += more
            gone = gone.union(more)
            names |= {path.rpartition("/")[2] for path in more}
            is_more = bool(more)
        return tuple(found)

    def _unit_links(self, going: Collection[str]) -> Iterable[str]:
        """Links that enable units which go: nothing else removes them, and they would lead nowhere."""
        units = unit_links.units_in(going)
        for path in unit_links.leading_to(self.root, units) if units else ():
            if path not in going and path not in self.spared and path not in self.owned:
                yield path

    def _dangles(self, path: str, gone: Collection[str]) -> bool:
        link = self.root / path
        leads_nowhere = not link.exists() or files.relative(self.root, link.parent / link.readlink()) in gone
        return leads_nowhere and link.lstat().st_mtime_ns >= self.listed.since_ns - _TICK_NS


def _is_mixture(now: Entry, one: Entry, other: Entry) -> bool:
    """Whether owner, mode and attributes of a folder each are those of one or of the other."""
    fields = all(getattr(now, name) in (getattr(one, name), getattr(other, name)) for name in ("type", "uid", "gid"))
    # Setting an access control list also changes the permission bits, and no others (acl(5)).
    modes = all(now.mode & bits in (one.mode & bits, other.mode & bits) for bits in (0o7000, 0o777))
    return fields and modes and set(now.attributes) <= {*one.attributes, *other.attributes}
