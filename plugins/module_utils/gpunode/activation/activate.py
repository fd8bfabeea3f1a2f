"""Activates a captured layer, as a transaction: afterwards it is completely in place and recorded, or not at all.

The order is journal, files, generated files, DKMS's tree, record. Each is flushed to the disk before the next one relies on it. If the run
is interrupted at any point, the next one rolls the activation back (rule R7). The caller holds ``paths.LOCK``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..driver import dkms
from ..errors import LayerError
from ..paths import ACTIVATION_JOURNAL
from ..store import activation_record
from ..store.activation_record import ACTIVATE, DEPMOD, MADE, Activation, Journal
from ..store.manifest import Manifest
from ..store.objects import Store
from ..system import host
from ..system.tree import Entry
from ..util import files, trust
from ..util.run import Runner
from . import generated_files, preconditions, steps
from .deactivate import finish_taking_away, resume
from .disk_errors import disk_errors_named
from .staging import Staging, in_order
from .steps import Say, say_nothing
from .verify import verify


def activate(
    root: Path, runner: Runner, layer: Manifest, say: Say = say_nothing, hash_user_space: bool = True, for_image: bool = False
) -> Activation:
    """Activates ``layer`` and returns the activation record. If the layer is active already, no file is changed.

    The record names the machine of ``root``; ``for_image`` leaves the name empty, for every machine that is made from the image.
    Without ``hash_user_space``, libraries and firmware that are linked are not read; the caller must ``verify`` them before it relies on
    them. Raises LayerError, DataError, CommandError: then nothing was changed, or all of it was rolled back. If the rollback fails
    too, the code is ``activation_unfinished``, and the next run rolls back.
    """
    owner = "" if for_image else host.machine_id(root)
    resume(root, runner, say)
    active = activation_record.read(root)
    refuse_another(active, layer)
    if active:
        changed = verify(root)
        if changed:
            raise LayerError(
                f"layer {layer.layer} is active, and files of it were changed since: {'; '.join(changed[:5])}: deactivate it, then look at "
                "the files that stay",
                code="activation_changed",
                details={"problems": list(changed)},
            )
        return _owned(root, activation_record.read(root) or active, owner)
    with disk_errors_named():
        return _Activating(root, runner, layer, say, hash_user_space, owner).run()


def adopt(root: Path) -> None:
    """Makes the active layer, if there is one, this machine's own. Before that, a layer that a bake activated in an image belongs to every
    machine of the image. Raises DataError."""
    active = activation_record.read(root)
    if active:
        _owned(root, active, host.machine_id(root))


def _owned(root: Path, active: Activation, owner: str) -> Activation:
    """Writes the owner's machine id into the record, if it has another one."""
    owned = replace(active, machine_id=owner)
    if owned != active:
        activation_record.write(root, owned)
    return owned


def refuse_another(active: Activation | None, layer: Manifest) -> None:
    """Raises LayerError if a layer other than ``layer`` is active."""
    if active and active.layer != layer.layer:
        raise LayerError(f"layer {active.layer} is active: deactivate it before you activate {layer.layer}", code="layer_active")


def indexes_were_swapped(activation: Activation) -> bool:
    """Whether the kernel's module indexes were taken from the bake, and not made by a run of depmod."""
    return any(one.program == DEPMOD and one.swapped for one in activation.derived)


class _Activating:
    def __init__(self, root: Path, runner: Runner, layer: Manifest, say: Say, hash_user_space: bool, owner: str) -> None:
        self.root = root
        self.runner = runner
        self.layer = layer
        self.say = say
        self.hash_user_space = hash_user_space
        self.owner = owner
        self.store = Store(root)
        self.replaced = set(layer.replaced)

    def _begin(self, step: str) -> None:
        steps.begin(self.say, steps.ACTIVATE, step)

    def run(self) -> Activation:
        layer = self.layer
        self._begin("check")
        folders = preconditions.check(self.root, self.store, layer)
        self._begin("read")
        preconditions.check_contents(self.store, layer)
        self.placing = Staging(self.root, self.store)
        self._begin("keep")
        planned = Activation(
            layer=layer.layer,
            identity=layer.identity,
            machine_id=self.owner,
            activated=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"),
            placed=in_order(e for e in layer.files if e.type != "folder" or e.path in self.replaced),
            folders=folders,
            originals=generated_files.back_up(self.root, self.store, layer.originals),
            derived=generated_files.plan(self.root, self.store, layer),
        )
        self._begin("journal")
        activation_record.write_journal(self.root, Journal(ACTIVATE, planned))
        with _rolled_back_on_failure(self.root, self.runner, planned, self.say):
            record = self._put(planned)
            self._begin("record")
            activation_record.write(self.root, record)
        self._begin("end")
        files.remove_durably(trust.below(self.root, ACTIVATION_JOURNAL))
        self._begin("done")
        return record

    def _put(self, planned: Activation) -> Activation:
        """Takes all steps between the journal and the record. Returns the record."""
        with self._hashing() as hashed:
            self._begin("stage")
            how = self._stage(planned)
            # This also flushes the backups: nothing may be replaced or deleted before it.
            self._begin("flush-staged")
            self.placing.flush()
            damaged = hashed.result()
        if damaged:
            raise LayerError(f"{'; '.join(damaged[:5])}: bake again", code="layer_damaged", details={"problems": list(damaged)})
        self._begin("place")
        self._place(planned, how)
        made = tuple(self._derive(one) for one in planned.derived)
        self._begin("register")
        for entry in planned.placed:
            if _is_dkms(entry):
                self._place_one(entry, how)
        self.placing.label(self.runner, [*planned.folders, *(entry.path for entry in planned.placed)], self.say)
        self._begin("flush")
        self.placing.flush()
        return replace(planned, derived=made, how={path: way for path, way in how.items() if way}, verified=self.hash_user_space)

    @contextmanager
    def _hashing(self) -> Iterator[Future[tuple[str, ...]]]:
        """Runs the body, and hashes meanwhile, in a thread, the files that need not be verified before they are placed."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            yield pool.submit(self.store.problems, preconditions.unread(self.layer.files) if self.hash_user_space else ())

    def _stage(self, planned: Activation) -> dict[str, str]:
        described = {entry.path: entry for entry in self.layer.files if entry.type == "folder"}
        for path in planned.folders:
            self.placing.make_folder(path, described.get(path))
        how = {e.path: self.placing.stage(e, e.path in self.replaced) for e in planned.placed if e.type != "folder"}
        for one in planned.derived:
            for entry in one.after:
                self.placing.stage(entry, True)
        return how

    def _place(self, planned: Activation, how: dict[str, str]) -> None:
        # In reverse order, so that the contents of a folder are deleted before the folder.
        for path in sorted(self.layer.deleted, reverse=True):
            self._delete(path, planned)
        for entry in planned.placed:
            if not _is_dkms(entry):
                self._place_one(entry, how)

    def _delete(self, path: str, planned: Activation) -> None:
        if any(kept.entry.path == path and kept.entry.type == "folder" for kept in planned.originals):
            if not self.placing.remove_folder(path):
                raise LayerError(
                    f"/{path}: the layer deletes this folder, but on this node other files are in it: move them away",
                    code="original_changed",
                )
        else:
            self.placing.device(path.rpartition("/")[0])
            self.placing.remove(path)

    def _place_one(self, entry: Entry, how: dict[str, str]) -> None:
        if entry.type == "folder":
            self.placing.set_folder(entry)
            return
        try:
            self.placing.place(entry, how[entry.path], entry.path in self.replaced)
        except FileExistsError as error:
            raise LayerError(
                f"/{entry.path}: another program created it during the activation: find out which, then repeat", code="path_taken"
            ) from error

    def _derive(self, one: activation_record.Derived) -> activation_record.Derived:
        if one.swapped:
            self._begin("swap-indexes")
            for entry in one.after:
                self.placing.place(entry, MADE, replaces=True)
        else:
            self._begin(one.program)
            generated_files.make(self.root, self.runner, one, self.layer.identity.kver)
        return generated_files.made(self.root, one, self.layer)


def _is_dkms(entry: Entry) -> bool:
    return entry.path.startswith(f"{dkms.TREE}/")


@contextmanager
def _rolled_back_on_failure(root: Path, runner: Runner, planned: Activation, say: Say) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        say(f"activate: failed, rolling back: {error}")
        try:
            finish_taking_away(root, runner, planned, say, interrupted=True)
        except Exception as second:  # whatever it is, the journal stays, and the next run rolls back
            raise LayerError(
                f"{error}; and the rollback failed: {second}: correct that, then run the same again",
                code="activation_unfinished",
            ) from error
        raise
