"""Uninstalls everything that we put on a node or into an image: look, plan, unload, remove what our documents list, report what is left.

The documents that say what is ours are removed last, so that the next run can continue an interrupted removal (rule R4).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import paths
from ..activation import deactivate, discard, take_away
from ..activation.take_away import TakenAway
from ..container import scratch
from ..container.containerd import Containerd
from ..container.containerd_config import is_comparable
from ..container.driver_container import DriverContainer
from ..container.leftovers import Left
from ..driver import control, footprint, initramfs, kmod, nouveau_blacklist, services
from ..driver.control import REFUSE
from ..driver.modules import DRIVER_MODULES
from ..errors import BootError, CommandError, DataError, ImageError, InputError
from ..paths import LOGS, REMOVAL_JOURNAL, STORE
from ..store import contents, driver_images
from ..store.contents import NOTE, Contents
from ..system import host
from ..util import files, jsondoc, trust
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.folders import matching
from ..util.run import Runner
from . import ownership, plan, uninstall
from .ownership import Ours
from .plan import RemovalPlan
from .request import EVERYTHING, Removed, RemoveRequest

_MODPROBE = "etc/modprobe.d/"
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
    trust.require_store(root)
    if request.deadline_s <= 0:
        raise InputError(f"gpu_remove_deadline_s: {request.deadline_s} is not valid; it must be greater than zero")
    if check:
        return _remove(root, runner, request, Events(), is_planned=True)
    with files.locked(paths.LOCK, "a removal"):
        return _remove(root, runner, request, Events(say))


def _remove(root: Path, runner: Runner, request: RemoveRequest, events: Events, is_planned: bool = False) -> Removed:
    containerd = Containerd(runner)
    found = ownership.look(root, containerd, request.marker_path)
    if not found.is_anything(request.scope == EVERYTHING) and not (request.images and found.images):
        return _nothing(found, request)
    scratch.require(root)
    if is_planned:
        return _planned(root, runner, plan.make(root, found, request), request)
    _end_containers(root, runner, containerd, events)
    return _Removing(root, runner, containerd, request, events, plan.make(root, found, request)).run()


def _nothing(found: Ours, request: RemoveRequest) -> Removed:
    reason = "nothing of ours is here: no layer, no node record, no list of installed files"
    if found.problems:
        reason = "no readable document says what of ours is here, and the damaged documents are left"
    everything = request.scope == EVERYTHING
    return Removed("nothing", reason, left=[*found.left([], request.images, everything), *_others(found.contents, found, everything)])


def _others(contents: Mapping[str, Contents], found: Ours, everything: bool) -> list[Left]:
    """What stays in our store and log folder where these are removed."""
    return [other for one in contents.values() for other in one.others] if everything and not found.problems else []


def _planned(root: Path, runner: Runner, made: RemovalPlan, request: RemoveRequest) -> Removed:
    """The result that carrying the plan out would have."""
    todo = plan.files_of(root, runner, made.found, request.marker_path)
    set_aside = any(one.kept.entry.type == "file" for plan in todo for one in plan.not_restored)
    staying = {top for top, contents in made.found.contents.items() if contents.others or (set_aside and top == STORE)}
    removed = dict.fromkeys((*(path for one in todo for path in one.removed), *made.blacklists, *made.own_paths(staying)))
    restored = dict.fromkeys(kept.entry.path for one in todo for kept in one.restore)
    stays = [stay for one in todo for stay in one.all_stays]
    left = [*made.found.left(stays, request.images, made.everything), *_others(made.found.contents, made.found, made.everything)]
    out = Removed("planned", "", [*removed], [*restored], left)
    out.services = tuple(unit.name for unit in services.running(runner)) if made.modules else ()
    out.modules = () if made.holders else made.modules
    out.images = made.images
    if made.holders:
        _say_until_reboot(root, out, made.holders)
    out.reason = f"{len(out.removed)} paths would be removed, {len(out.left)} things would be left"
    return out


def _say_until_reboot(root: Path, out: Removed, holders: tuple[str, ...]) -> None:
    out.reboot_needed = True
    modules = ", ".join(m.name for m in kmod.loaded(root, DRIVER_MODULES))
    who = f", in use by {', '.join(holders)}" if holders else ""
    out.left.append(Left("modules", f"in the kernel until the next reboot: {modules}{who}"))


@dataclass(frozen=True)
class _Removing:
    """One removal on the system at ``root``: ``/``, except in tests. ``out`` is its result so far."""

    root: Path
    runner: Runner
    containerd: Containerd
    request: RemoveRequest
    events: Events
    made: RemovalPlan
    out: Removed = field(default_factory=lambda: Removed("removed", ""))

    def run(self) -> Removed:
        """Carries the plan out. Raises GpuNodeError; the services that were stopped then run again, and so where another driver stays."""
        driver_stays = True
        try:
            out = self._run()
            driver_stays = bool(self.made.found.operator or self.made.found.foreign)
            return out
        finally:
            services.end(self.root, self.runner, driver_stays, self.events.say)

    def _run(self) -> Removed:
        made, out, events = self.made, self.out, self.events
        self._unload()
        config = _config_before(self.root, self.containerd)
        kept = self._deactivate()
        done = self._remove_files(kept)
        self._make_initramfs(done)
        if not (made.found.operator or made.found.foreign or kmod.loaded(self.root, DRIVER_MODULES)):
            out.removed += _remove_runtime_files(self.root)
        self._restart_containerd(config)
        self._remove_images()
        out.left += made.found.left(done.stays, self.request.images, made.everything)
        if out.reboot_needed:
            _say_until_reboot(self.root, out, control.other_holders(self.root))
        with events.step("remove-records"):
            staying = _forget(self.root, made)
        out.left += _others(staying, made.found, made.everything)
        out.removed += [*done.second_copies, *done.removed, *made.own_paths(staying)]
        out.reason = f"{len(out.removed)} paths were removed" + (f", {len(out.left)} things are left" if out.left else "")
        out.steps = events.steps
        return out

    def _unload(self) -> None:
        if not self.made.modules:
            return
        with self.events.step("unload-modules") as event:
            try:
                deadline = Deadline(self.request.deadline_s)
                self.out.services, self.out.modules = control.unload(self.root, self.runner, deadline, self.made.modules)
            except BootError as error:
                if self.request.in_use == REFUSE:
                    raise
                self.out.reboot_needed = True
                event.update(outcome="left", error=str(error))

    def _deactivate(self) -> frozenset[str]:
        """Deactivates the active layer, which also restores what it replaced; with the scope everything, also discards all captured layers.
        Returns the paths that the rest of the removal must not touch."""
        out = self.out
        with self.events.step("deactivate") as event:
            taken = deactivate.deactivate(self.root, self.runner, self.events.say)
            event["layer"] = taken.layer
        out.removed += [*taken.removed, *taken.second_copies]
        out.restored += [path for path in taken.restored if not footprint.is_ignored(path)]
        out.left += [Left(f"/{one.path}", one.why) for one in taken.stays]
        for layer in self.made.found.captured if self.made.everything else ():
            with self.events.step("discard", layer=layer.layer):
                discard.discard(self.root, self.runner, layer.layer, self.events.say)
        return frozenset(taken.kept_paths | {*taken.restored})

    def _remove_files(self, kept: frozenset[str]) -> TakenAway:
        """Removes what other lists have, and the bake's files about nouveau and Nova."""
        accounted = replace(self.made.found.accounted(self.request.marker_path), kept=kept)
        with self.events.step("remove-files") as event:
            todo = uninstall.plan(self.root, self.runner, accounted)
            done = take_away.carry_out(self.root, self.runner, todo, self.events.say, interrupted=True)
            for path in self.made.blacklists:
                files.remove_durably(self.root / path)
                done.removed.append(path)
            event.update(removed=len(done.removed), kept=done.kept)
        return done

    def _make_initramfs(self, done: TakenAway) -> None:
        """Makes each initramfs again that contains a removed file. Our documents are removed later, so the run after an interruption does
        this too."""
        found = self.made.found
        paths = {*done.removed, *found.accounted(self.request.marker_path).paths}
        paths |= {one.path for one in nouveau_blacklist.BLACKLISTS} if self.made.everything and found.interrupted else set()
        gone = {path for path in paths if path.startswith(_MODPROBE) and not (self.root / path).exists()}
        for kver in initramfs.holding(self.root, self.runner, gone) if gone else ():
            self.events.say(f"making the initramfs of {kver} again")
            with self.events.step("make-initramfs", kernel=kver):
                initramfs.regenerate(self.runner, kver)

    def _restart_containerd(self, config: str) -> None:
        if not config or _config(self.containerd) == config or not self.containerd.is_ready():
            return
        if self.request.restart_containerd == "never":
            text = "it keeps the driver container's runtime until it is restarted (gpu_remove_restart_containerd is never)"
            self.out.left.append(Left("containerd", text))
            return
        with self.events.step("restart-containerd"):
            self.containerd.restart(Deadline(self.request.deadline_s))
        self.out.containerd_restarted = True

    def _remove_images(self) -> None:
        """Removes our driver images, if that is asked for. Those that stay are unpinned before the list of them goes."""
        if self.made.images:
            with self.events.step("remove-images", images=list(self.made.images)):
                for reference in self.made.images:
                    self.containerd.remove(reference)
                with contextlib.suppress(DataError):  # a damaged list stays, and is named
                    driver_images.forget(self.root, self.made.images)
            self.out.images = self.made.images
        stay = [name for name in self.made.unpinned if name not in self.made.images]
        if stay and self.containerd.is_ready():
            there = self.containerd.pinned()
            with self.events.step("unpin-images", images=[name for name in stay if name in there]) as event:
                for name in event["images"]:
                    self.containerd.unpin(name)


def _end_containers(root: Path, runner: Runner, containerd: Containerd, events: Events) -> None:
    """Ends driver containers that a killed run may have left running, and removes what they left."""
    if containerd.is_ready():
        DriverContainer(containerd, runner, root, events.say).end_interrupted()
    else:
        scratch.sweep(root)


def _config_before(root: Path, containerd: Containerd) -> str:
    """Records containerd's configuration in the journal and returns it. If an earlier run was interrupted in this boot, returns what that
    one recorded, so that this run knows whether to restart containerd."""
    boot_id = host.boot_id()
    try:
        journal = jsondoc.parse(files.read_document(trust.document(root, REMOVAL_JOURNAL)))
        recorded = journal["containerd_config"]
        if journal["boot_id"] == boot_id and isinstance(recorded, str) and (not recorded or is_comparable(recorded)):
            return recorded
    except (OSError, ValueError, KeyError, TypeError, DataError):
        pass  # there is none, or it is not complete: this run writes a new one
    config = _config(containerd)
    files.make_private(trust.below(root, STORE))
    files.write_atomic(trust.below(root, REMOVAL_JOURNAL), json.dumps({"boot_id": boot_id, "containerd_config": config}), 0o600)
    return config


def _config(containerd: Containerd) -> str:
    try:
        return containerd.config_in_force()
    except (CommandError, ImageError):
        return ""  # containerd is missing or its configuration is invalid, so it is not restarted


def _remove_runtime_files(root: Path) -> list[str]:
    """Removes device nodes, their links in /dev/char and the CDI specification, which stay after the module was unloaded."""
    found = [path for folder in ("dev", "dev/nvidia-caps") for path in matching(root / folder, "nvidia*") if not path.is_dir()]
    links = [path for path in matching(root / "dev/char", "*:*") if path.is_symlink()]
    found += [path for path in links if path.readlink().name.startswith("nvidia")]
    found += [root / _CDI] if (root / _CDI).exists() else []
    for path in found:
        path.unlink(missing_ok=True)
    return [str(path.relative_to(root)) for path in found]


# --- our own documents ----------------------------------------------------------------------------------------------------


def _forget(root: Path, made: RemovalPlan) -> dict[str, Contents]:
    """Removes our documents. Returns those of our folders that stay, because something of others is in them."""
    uninstall.forget(root, made.found.in_place, made.documents)
    if made.everything and made.notes:
        _drop_note(trust.below(root, made.notes))
    if made.everything and not made.found.problems:
        logs = contents.of_logs(root)
        contents.remove(root, logs)
        _remove_store(root)
        return {top: one for top, one in ((STORE, contents.of_store(root)), (LOGS, logs)) if one.others}
    files.remove_durably(trust.below(root, REMOVAL_JOURNAL))
    return {}


def _drop_note(path: Path) -> None:
    text = files.read_bytes(path).decode("utf-8", "surrogateescape")
    lines = [line for line in text.removesuffix("\n").split("\n") if not line.startswith(NOTE)]
    if lines:
        files.write_atomic(path, "\n".join(lines) + "\n", path.stat().st_mode & 0o7777)
    else:
        path.unlink()


def _remove_store(root: Path) -> None:
    """Removes what is ours in the store, the journal last: until then, the next run continues here."""
    contents.remove(root, contents.of_store(root), but=REMOVAL_JOURNAL)
    files.remove_durably(trust.below(root, REMOVAL_JOURNAL))
    files.remove_empty_folder(trust.below(root, STORE))
