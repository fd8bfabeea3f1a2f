"""Carries out a plan that takes files of ours away.

Any of the steps may have been done already, so an interrupted run is simply repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..driver import dkms
from ..errors import CommandError
from ..store.activation_record import DEPMOD, Derived, Kept
from ..store.objects import Store
from ..system import kernels, unit_links
from ..system.tree import Entry
from ..util.run import Runner
from . import generated_files, steps, take_away_plan
from .staging import Staging
from .steps import Say
from .take_away_plan import Listed, NotRestored, Stays, TakeAwayPlan

_STAGED = "staged"
_SYSTEMD = "run/systemd/system"  # there while systemd runs (sd_booted(3))
_RELOAD_S = 30.0


@dataclass
class TakenAway:
    """The paths that were removed, restored, and removed as second copies, and what stays. The rest of a removal must not remove what
    stays."""

    layer: str
    removed: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    second_copies: list[str] = field(default_factory=list)
    stays: list[Stays] = field(default_factory=list)

    @property
    def kept(self) -> list[str]:
        """What stays and why, as sentences."""
        return [str(one) for one in self.stays]

    @property
    def kept_paths(self) -> set[str]:
        return {one.path for one in self.stays}

    def keep(self, path: str, why: str) -> None:
        self.stays.append(Stays(path, why))

    def add(self, more: TakenAway) -> None:
        """Adds the result of another run."""
        for name in ("removed", "restored", "second_copies", "stays"):
            getattr(self, name).extend(getattr(more, name))


def take_away(root: Path, runner: Runner, listed: Listed, say: Say, interrupted: bool) -> TakenAway:
    """Plans what is there of ``listed``, and takes it away; if a run was ``interrupted``, also what that left half made.

    The result is flushed to the disk. Raises OSError, CommandError.
    """
    return carry_out(root, runner, take_away_plan.plan(root, listed, interrupted), say, interrupted)


def carry_out(root: Path, runner: Runner, plan: TakeAwayPlan, say: Say, interrupted: bool) -> TakenAway:
    """Carries out a plan that was made for the system as it is now. The result is flushed to the disk. Raises OSError, CommandError."""
    if interrupted:
        for one in plan.listed.derived:
            for kver in plan.listed.kvers:
                generated_files.sweep(root, one.program, kver)
    return _Taking(root, runner, plan, say, interrupted).run()


class _Taking:
    def __init__(self, root: Path, runner: Runner, plan: TakeAwayPlan, say: Say, interrupted: bool) -> None:
        self.root = root
        self.runner = runner
        self.plan = plan
        self.listed = plan.listed
        self.say = say
        self.interrupted = interrupted
        self.placing = Staging(root, Store(root))
        self.done = TakenAway(plan.listed.layer, stays=list(plan.stays))

    def run(self) -> TakenAway:
        plan = self.plan
        restore = [*plan.restore, *(kept for renewal in plan.renewals for kept in renewal.restore)]
        if self.interrupted:
            self._sweep()
        for one in plan.not_restored:
            self._keep_aside(one)
        self._begin("stage")
        self._stage(restore)
        self._begin("remove")
        self._remove_made()
        # Copies and links before the libraries, which may be all that shows whose they are.
        for path in plan.second_copies:
            self.placing.remove(path)
        self.done.second_copies += plan.second_copies
        self._remove((*plan.links, *plan.remove))
        self._begin("restore")
        self._restore(restore)
        self._make_generated()
        self._forget_units()
        self._begin("folders")
        self._folders()
        self.placing.label(self.runner, self.done.restored, self.say)
        self._begin("flush")
        self.placing.flush()
        return self.done

    def _begin(self, step: str) -> None:
        steps.begin(self.say, steps.TAKE_AWAY, step)

    def _sweep(self) -> None:
        """Removes what an interrupted run had staged."""
        listed = self.listed
        originals = [kept.entry.path for kept in listed.originals]
        above = {str(folder) for path in originals for folder in PurePath(path).parents if folder.name}
        generated = (entry.path for one in listed.derived for entry in _entries_of(one))
        self.placing.sweep([*(entry.path for entry in listed.placed), *originals, *listed.folders, *above, *generated])

    def _keep_aside(self, one: NotRestored) -> None:
        """Reports an original that is not restored. A file's content stays in the store, under a name of its own."""
        entry = one.kept.entry
        if entry.type == "link":
            self.done.keep(entry.path, f"{one.why}; it was a link to {entry.target}")
            return
        aside = self.placing.store.set_aside(entry)
        self.done.keep(entry.path, f"{one.why}; {one.what} is in /{aside}" if aside else one.why)

    # --- what was there before ----------------------------------------------------------------------------------------

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

    # --- what is ours -------------------------------------------------------------------------------------------------

    def _remove_made(self) -> None:
        """Removes what DKMS has made. Its tree names a kernel's build until that kernel's module indexes are right again, so an interrupted
        run can continue."""
        made = self.plan.made
        self._remove(made.links)
        for kver, modules in made.modules.items():
            self._remove(modules)
            if kver not in self.listed.kvers and (self.root / "lib/modules" / kver).is_dir():
                self.say(f"running {DEPMOD} for kernel {kver}")
                if self.interrupted:
                    generated_files.sweep(self.root, DEPMOD, kver)
                generated_files.run_depmod(self.root, self.runner, kver)
                self.placing.device(f"lib/modules/{kver}")
        for folder in made.module_folders:
            self.placing.remove_folder(folder)
        # DKMS's tree says what is to be removed, so it goes after that is flushed, and the layer's own part of it after one more flush.
        if made.paths or made.folders:
            self.placing.flush()
            self._remove(made.files)
            for folder in reversed(made.folders):
                self.placing.remove_folder(folder)
            self.placing.flush()

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.placing.remove(path)
            self.done.removed.append(path)

    def _make_generated(self) -> None:
        for renewal in self.plan.renewals:
            for path in renewal.remove:
                self.placing.remove(path)
        # Backups of generated files do not include files that stay, so with such files the programs run again.
        again = self.listed.derived if self.done.kept_paths else [renewal.run for renewal in self.plan.renewals if renewal.run]
        for one in again:
            self._begin(one.program)
            for kver in self.listed.kvers if one.program == DEPMOD else ("",):
                generated_files.make(self.root, self.runner, one, kver)

    def _forget_units(self) -> None:
        """Makes a running systemd forget units that went. It may be asked again, and its answer changes nothing here."""
        if unit_links.units_in(self.done.removed) and (self.root / _SYSTEMD).is_dir():
            with contextlib.suppress(CommandError):
                self.runner.run(["systemctl", "daemon-reload"], _RELOAD_S)

    def _folders(self) -> None:
        listed = self.listed
        made = {path for path in self.plan.made.folders if path.startswith(f"{dkms.TREE}/")}
        for path in sorted({*listed.folders, *listed.shared_folders, *self.plan.made.folders}, reverse=True):
            if not self.placing.remove_folder(path) and path in made.union(listed.folders):
                self.done.keep(path, "the folder holds something else")
        for kver in listed.kvers:
            if not kernels.is_installed(self.root, kver):
                self.placing.remove_folder(f"lib/modules/{kver}")  # removing the kernel left it, because our files were in it


def _entries_of(one: Derived) -> Iterable[Entry]:
    yield from one.after
    yield from (kept.entry for kept in one.before)
