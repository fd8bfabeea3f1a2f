"""Uninstalls everything that we put on a node or into an image: look, unload, remove what our documents list, report what is left.

The documents that say what is ours are removed last, so that the next run can continue an interrupted removal (rule R4).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .. import paths
from ..activation import deactivate, discard, generated_files, take_away
from ..container.containerd import Containerd
from ..container.driver_container import DriverContainer
from ..container.leftovers import Left
from ..driver import control, footprint, initramfs, kmod, nouveau_blacklist
from ..driver.control import REFUSE, UNTIL_REBOOT
from ..driver.modules import DRIVER_MODULES
from ..errors import BootError, CommandError, InputError
from ..paths import INSTALLED_FILES, LAYERS, LOGS, NODE_RECORD, REMOVAL_JOURNAL, STORE
from ..store.activation_record import Activation
from ..system import host, tree
from ..system.dpkg import owned_by_dpkg
from ..util import files
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.run import Runner
from . import ownership, uninstall
from .ownership import Ours
from .request import EVERYTHING, Removed, RemoveRequest
from .uninstall import Removal

_MODPROBE = "etc/modprobe.d/"
_NOTE = "nvidia-prebake: "
_CDI = "run/cdi/nvidia.yaml"


def remove(
    runner: Runner,
    request: RemoveRequest,
    check: bool = False,
    say: Callable[[str], None] = lambda _: None,
    root: Path = Path("/"),
) -> Removed:
    """Removes what is ours, or, with ``check``, only says what would be removed and what would stay.

    Raises GpuNodeError; BootError with the code ``driver_in_use`` names who holds the driver, and then nothing was removed.
    """
    host.require_root()
    if request.deadline_s <= 0:
        raise InputError(f"gpu_remove_deadline_s: {request.deadline_s} is not valid; it must be greater than zero")
    containerd = Containerd(runner)
    if check:
        return Remove(root, runner, containerd, request, Events()).plan()
    with files.locked(paths.LOCK, "a removal"):
        return Remove(root, runner, containerd, request, Events(say)).run()


@dataclass
class Remove:
    """One removal on the system at ``root``: ``/``, except in tests."""

    root: Path
    runner: Runner
    containerd: Containerd
    request: RemoveRequest
    events: Events

    def plan(self) -> Removed:
        """What a removal would do. Changes nothing."""
        found = self._look()
        if not found.is_anything(self._all):
            return self._nothing(found)
        done = Removal(touch=False)
        changed = {path for active in found.active for path in self._changed(active)}
        uninstall.take_files(self.root, self.runner, replace(found.accounted(self.request.marker_path), kept=frozenset(changed)), done)
        modules = found.own_modules()
        holders = control.other_holders(self.root) if modules else ()
        if holders and self.request.in_use == REFUSE:
            raise BootError(_in_use(holders), code="driver_in_use")
        out = Removed("planned", "")
        for active in found.active:
            self._plan_deactivation(active, out, done, changed)
        if self._all and found.blacklist == nouveau_blacklist.OURS:
            done.removed.append(nouveau_blacklist.PATH)
        out.removed += [*(path for path in done.removed if path not in out.removed), *self._own_paths(found)]
        out.services = control.running_services(self.root, self.runner) if modules else ()
        out.modules = () if holders else modules
        out.images = tuple(found.images) if self.request.images else ()
        out.left = found.left(done.kept, self.request.images, self._all)
        self._say_until_reboot(out, holders)
        out.reason = f"{len(out.removed)} paths would be removed, {len(out.left)} things would be left"
        return out

    def _changed(self, active: Activation) -> set[str]:
        """The paths of the layer that a deactivation would not remove."""
        placed_entries = {entry.path: entry for entry in active.placed}
        present = tree.describe_present(self.root, placed_entries)
        changed = {path for path, entry in placed_entries.items() if present[path] not in (entry, None)}
        owned = owned_by_dpkg(self.root)
        replaced = {kept.entry.path for kept in active.originals}
        made = take_away.made_since(self.root, active, present, owned)
        return (changed | (owned & {*placed_entries}) - replaced) - made.paths

    def _plan_deactivation(self, active: Activation, out: Removed, done: Removal, changed: set[str]) -> None:
        done.kept += sorted(changed - {*done.kept})
        out.restored += [kept.entry.path for kept in active.originals if kept.entry.path not in {*changed, *out.restored}]
        stays = {*changed, *out.restored, *out.removed}
        goes = [entry.path for entry in active.placed if entry.type != "folder" and entry.path not in stays]
        out.removed += [path for path in goes if os.path.lexists(self.root / path)]

    def run(self) -> Removed:
        """Carries the removal out. Raises GpuNodeError."""
        found = self._look()
        if not found.is_anything(self._all):
            return self._nothing(found)
        self._end_containers()
        out = Removed("removed", "")
        self._unload(found, out)
        config = self._begin()
        kept = self._deactivate(found, out)
        done = Removal()
        accounted = replace(found.accounted(self.request.marker_path), kept=frozenset(kept))
        with self.events.step("remove-files") as event:
            uninstall.take_files(self.root, self.runner, accounted, done, self.events.say)
            blacklist = self._take_blacklist(found, done)
            event.update(removed=len(done.removed), kept=done.kept)
        if accounted.paths:  # a deactivation has already made those of its layer
            with self.events.step("make-indexes"):
                generated_files.regenerate(self.root, self.runner)
        self._initramfs(accounted.paths | blacklist)
        if not (found.operator or found.foreign or kmod.loaded(self.root, DRIVER_MODULES)):
            done.removed += self._runtime_files()
        self._restart_containerd(config, out)
        self._remove_images(found, out)
        out.left += found.left([path for path in done.kept if path not in kept], self.request.images, self._all)
        self._say_until_reboot(out, control.other_holders(self.root) if out.reboot_needed else ())
        own = self._own_paths(found)
        with self.events.step("remove-records"):
            self._forget(found)
        out.removed += [*done.removed, *own]
        out.reason = f"{len(out.removed)} paths were removed" + (f", {len(out.left)} things are left" if out.left else "")
        out.steps = self.events.steps
        return out

    @property
    def _all(self) -> bool:
        return self.request.scope == EVERYTHING

    def _look(self) -> Ours:
        return ownership.look(self.root, self.containerd, self.request.marker_path)

    def _nothing(self, found: Ours) -> Removed:
        reason = "nothing of ours is here: no layer, no node record, no list of installed files"
        if found.problems:
            reason = "no readable document says what of ours is here, and the damaged documents are left"
        return Removed("nothing", reason, left=found.left([], self.request.images, self._all))

    # --- before anything is removed ---------------------------------------------------------------------------------

    def _end_containers(self) -> None:
        """Ends driver containers that a killed run may have left running."""
        if self.containerd.is_ready():
            container = DriverContainer(self.containerd, self.runner, self.root, self.events.say)
            container.clean_slate()
            container.sweep()

    def _begin(self) -> str:
        """Records containerd's configuration in the journal and returns it. If an earlier run was interrupted in this boot, returns what
        that one recorded, so that this run knows whether to restart containerd."""
        boot_id = host.boot_id()
        try:
            journal = json.loads((self.root / REMOVAL_JOURNAL).read_text(encoding="utf-8"))
            if journal["boot_id"] == boot_id and isinstance(journal["containerd_config"], str):
                return journal["containerd_config"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or it is not complete: this run writes a new one
        config = self._config()
        files.make_private(self.root / STORE)
        files.write_atomic(self.root / REMOVAL_JOURNAL, json.dumps({"boot_id": boot_id, "containerd_config": config}), 0o600)
        return config

    def _config(self) -> str:
        try:
            return self.containerd.config_in_force()
        except CommandError:
            return ""  # containerd is missing or its configuration is invalid, so it is not restarted

    def _unload(self, found: Ours, out: Removed) -> None:
        modules = found.own_modules()
        if not modules:
            return
        with self.events.step("unload-modules") as event:
            try:
                out.services, out.modules = control.unload(self.root, self.runner, Deadline(self.request.deadline_s), modules)
            except BootError as error:
                if self.request.in_use == REFUSE:
                    raise
                out.reboot_needed = True
                event.update(outcome="left", error=str(error))

    def _deactivate(self, found: Ours, out: Removed) -> set[str]:
        """Deactivates the active layer, which also restores what it replaced; with the scope everything, also discards all captured layers.
        Returns the paths of the layer that stay."""
        with self.events.step("deactivate") as event:
            taken = deactivate.deactivate(self.root, self.runner, self.events.say)
            event["layer"] = taken.layer
        out.removed += [*taken.removed, *taken.second_copies]
        out.restored += [path for path in taken.restored if not footprint.is_ignored(path)]
        out.left += [Left(f"/{one.path}", one.why) for one in taken.stays]
        for layer in found.captured if self._all else ():
            with self.events.step("discard", layer=layer.layer):
                discard.discard(self.root, self.runner, layer.layer, self.events.say)
        return taken.kept_paths

    # --- what is made again -----------------------------------------------------------------------------------------

    def _take_blacklist(self, found: Ours, done: Removal) -> set[str]:
        """Removes the bake's file about nouveau, unless it was changed. Returns its path also if an interrupted run removed it, because it
        may still be in an initramfs."""
        if not self._all:
            return set()
        if found.blacklist == nouveau_blacklist.OURS:
            files.remove_durably(self.root / nouveau_blacklist.PATH)
            done.removed.append(nouveau_blacklist.PATH)
        return {nouveau_blacklist.PATH} if found.interrupted or found.blacklist == nouveau_blacklist.OURS else set()

    def _initramfs(self, accounted: set[str]) -> None:
        """Makes each initramfs again that contains a removed file. Our documents are removed later, so the run after an interruption does
        this too."""
        gone = {path for path in accounted if path.startswith(_MODPROBE) and not (self.root / path).exists()}
        for kver in initramfs.holding(self.root, self.runner, gone) if gone else ():
            self.events.say(f"making the initramfs of {kver} again")
            with self.events.step("make-initramfs", kernel=kver):
                initramfs.regenerate(self.runner, kver)

    def _runtime_files(self) -> list[str]:
        """Removes device nodes, their links in /dev/char and the CDI specification, which stay after the module was unloaded."""
        found = [path for folder in ("dev", "dev/nvidia-caps") for path in (self.root / folder).glob("nvidia*") if not path.is_dir()]
        links = [path for path in (self.root / "dev/char").glob("*:*") if path.is_symlink()]
        found += [path for path in links if path.readlink().name.startswith("nvidia")]
        found += [self.root / _CDI] if (self.root / _CDI).exists() else []
        for path in found:
            path.unlink(missing_ok=True)
        return [str(path.relative_to(self.root)) for path in found]

    def _restart_containerd(self, config: str, out: Removed) -> None:
        if not config or self._config() == config or not self.containerd.is_ready():
            return
        if self.request.restart_containerd == "never":
            text = "it keeps the driver container's runtime until it is restarted (gpu_remove_restart_containerd is never)"
            out.left.append(Left("containerd", text))
            return
        with self.events.step("restart-containerd"):
            self.containerd.restart(Deadline(self.request.deadline_s))
        out.containerd_restarted = True

    def _remove_images(self, found: Ours, out: Removed) -> None:
        if self.request.images and found.images:
            with self.events.step("remove-images", images=list(found.images)):
                for reference in found.images:
                    self.containerd.remove(reference)
            out.images = tuple(found.images)

    # --- our own documents ------------------------------------------------------------------------------------------

    def _documents(self, found: Ours) -> list[str]:
        """Those that could be read. A damaged one stays, because what it listed may still be here and nothing else lists it."""
        return [path for path, there in ((INSTALLED_FILES, found.placed), (NODE_RECORD, found.node)) if there]

    def _own_paths(self, found: Ours) -> list[str]:
        """Our documents and folders, which are removed at the end."""
        layers = found.layers if self._all else found.in_place
        paths = [*(f"{LAYERS}/{layer.layer}" for layer in layers), *self._documents(found)]
        if self._all:
            notes = self._notes()
            paths += [notes] if notes else []
            paths += [] if found.problems else found.history
        return paths

    def _notes(self) -> str:
        """The path of the release notes, if they are outside of the store and have a line of ours, or ""."""
        path = self.request.release_notes.lstrip("/")
        text = files.read_text(self.root / path) or ""
        return path if not path.startswith(f"{STORE}/") and any(line.startswith(_NOTE) for line in text.splitlines()) else ""

    def _forget(self, found: Ours) -> None:
        uninstall.forget(self.root, found.in_place, self._documents(found))
        if self._all:
            notes = self._notes()
            if notes:
                self._drop_note(self.root / notes)
            if not found.problems:
                shutil.rmtree(self.root / LOGS, ignore_errors=True)
                self._remove_store()
        if (self.root / STORE).is_dir():
            files.remove_durably(self.root / REMOVAL_JOURNAL)

    @staticmethod
    def _drop_note(path: Path) -> None:
        lines = [line for line in (files.read_text(path) or "").splitlines() if not line.startswith(_NOTE)]
        if lines:
            files.write_atomic(path, "\n".join(lines) + "\n", path.stat().st_mode & 0o7777)
        else:
            path.unlink()

    def _remove_store(self) -> None:
        """Removes the store, and in it the journal last: until then, the next run continues here."""
        store = self.root / STORE
        for path in sorted(store.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != Path(REMOVAL_JOURNAL).name:
                path.unlink()
        files.remove_durably(self.root / REMOVAL_JOURNAL)
        store.rmdir()

    def _say_until_reboot(self, out: Removed, holders: tuple[str, ...]) -> None:
        if out.reboot_needed or holders:
            out.reboot_needed = True
            modules = ", ".join(m.name for m in kmod.loaded(self.root, DRIVER_MODULES))
            who = f", in use by {', '.join(holders)}" if holders else ""
            out.left.append(Left("modules", f"in the kernel until the next reboot: {modules}{who}"))


def _in_use(holders: tuple[str, ...]) -> str:
    return (
        f"the driver is in use by: {', '.join(holders)}. End that, or set gpu_remove_in_use to {UNTIL_REBOOT} and reboot afterwards; "
        "otherwise nothing is removed"
    )
