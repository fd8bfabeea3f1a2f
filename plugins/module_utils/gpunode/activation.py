"""Putting a captured layer in place, taking it away, dropping it: each a transaction.

Journal first, then files, then what programs make of them, then DKMS's tree, then the record; each lasts before what depends on it begins.
Interrupted at any point, the next run takes an activation back and finishes a deactivation (R7). The caller holds contract.LOCK.
"""

from __future__ import annotations

import datetime
import errno
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from . import activated, derived, dkms, document, files, host, inventory, manifest, readiness, steps, unrecorded
from .activated import ACTIVATE, DEACTIVATE, DEPMOD, MADE, Activation, Journal
from .errors import DataError, LayerError
from .inventory import Entry
from .manifest import Manifest
from .placing import Placing
from .runner import Runner
from .steps import Say
from .store import Store, drop_layer_folder
from .takeaway import TakenAway, in_order, take_away

_BY_ERRNO = {errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EROFS: "read_only"}


def _nothing(_line: str) -> None:
    """Says nothing."""


def activate(root: Path, runner: Runner, layer: Manifest, say: Say = _nothing, hash_user_space: bool = True) -> Activation:
    """Puts ``layer`` in place and returns what is in place then; the same layer again changes nothing.

    Without ``hash_user_space``, libraries and firmware that are linked are not read; ``verify`` must follow before anything counts as
    done. Raises LayerError, DataError, CommandError: nothing was changed then, or all of it was taken back.
    """
    resume(root, runner, say)
    active = activated.read(root)
    refuse_another(active, layer)
    if active:
        changed = verify(root)
        if changed:
            raise LayerError(
                f"layer {layer.layer} is active, and changed since: {'; '.join(changed[:5])}: deactivate it and look at what stays",
                code="activation_changed",
                details={"problems": list(changed)},
            )
        return _of_this_machine(root, activated.read(root) or active)
    with disk_errors_named():
        return _Activating(root, runner, layer, say, hash_user_space).run()


def _of_this_machine(root: Path, active: Activation) -> Activation:
    """On a copy of another machine's disk, a caller who wants the layer active makes it this machine's."""
    mine = replace(active, machine_id=host.machine_id(root))
    if mine != active:
        activated.write(root, mine)
    return mine


def refuse_another(active: Activation | None, layer: Manifest) -> None:
    """Raises LayerError where another layer than ``layer`` is active."""
    if active and active.layer != layer.layer:
        raise LayerError(f"layer {active.layer} is active: deactivate it before {layer.layer} is put in place", code="layer_active")


def indexes_were_swapped(activation: Activation) -> bool:
    """Whether the kernel's module indexes came from the bake, instead of a run of depmod."""
    return any(one.program == DEPMOD and one.swapped for one in activation.derived)


class _Activating:
    def __init__(self, root: Path, runner: Runner, layer: Manifest, say: Say, hash_user_space: bool) -> None:
        self.root = root
        self.runner = runner
        self.layer = layer
        self.say = say
        self.hash_user_space = hash_user_space
        self.store = Store(root)
        self.replaced = set(layer.replaced)

    def _begin(self, step: str) -> None:
        steps.begin(self.say, steps.ACTIVATE, step)

    def run(self) -> Activation:
        layer = self.layer
        self._begin("check")
        folders = readiness.check(self.root, self.store, layer)
        self._begin("read")
        readiness.check_contents(self.store, layer)
        self.placing = Placing(self.root, self.store)
        self._begin("keep")
        planned = Activation(
            layer=layer.layer,
            identity=layer.identity,
            machine_id=host.machine_id(self.root),
            activated=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"),
            placed=in_order(e for e in layer.files if e.type != "folder" or e.path in self.replaced),
            folders=folders,
            originals=derived.keep(self.root, self.store, layer.originals),
            derived=derived.plan(self.root, self.store, layer),
        )
        self._begin("journal")
        activated.write_journal(self.root, Journal(ACTIVATE, planned))
        with _taken_back_on_failure(self.root, self.runner, planned, self.say):
            record = self._put(planned)
            self._begin("record")
            activated.write(self.root, record)
        self._begin("end")
        files.remove_durably(self.root / activated.JOURNAL)
        self._begin("done")
        return record

    def _put(self, planned: Activation) -> Activation:
        """Everything between journal and record."""
        with self._hashing() as hashed:
            self._begin("stage")
            how = self._stage(planned)
            # What was kept aside lasts from here on too: nothing has made way before.
            self._begin("flush-staged")
            self.placing.flush()
            damaged = hashed.result()
        if damaged:
            raise LayerError(f"{'; '.join(damaged[:5])}: bake anew", code="layer_damaged", details={"problems": list(damaged)})
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
        """Hashes beside the work what needs no hash before it."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            yield pool.submit(self.store.problems, readiness.others(self.layer.files) if self.hash_user_space else ())

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
        # Folders come after what was in them, which sorts behind them.
        for path in sorted(self.layer.deleted, reverse=True):
            self._delete(path, planned)
        for entry in planned.placed:
            if not _is_dkms(entry):
                self._place_one(entry, how)

    def _delete(self, path: str, planned: Activation) -> None:
        if any(kept.entry.path == path and kept.entry.type == "folder" for kept in planned.originals):
            if not self.placing.remove_folder(path):
                raise LayerError(
                    f"/{path}: the layer deletes this folder, and it holds something else on this node", code="original_changed"
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
            raise LayerError(f"/{entry.path}: somebody put it there meanwhile: find out who", code="path_taken") from error

    def _derive(self, one: activated.Derived) -> activated.Derived:
        if one.swapped:
            self._begin("swap-indexes")
            for entry in one.after:
                self.placing.place(entry, MADE, replaces=True)
        else:
            self._begin(one.program)
            derived.make(self.root, self.runner, one, self.layer.identity.kver)
        return derived.made(self.root, one, self.layer)


def _is_dkms(entry: Entry) -> bool:
    return entry.path.startswith(f"{dkms.TREE}/")


def problems(root: Path) -> tuple[str, ...]:
    """What is wrong with what is active, in words; all contents are read. Raises DataError."""
    active = activated.read(root)
    return inventory.problems(root, active.placed) if active else ("no layer is active",)


def record_verified(root: Path) -> None:
    """Records that there are no ``problems``. Raises DataError."""
    active = activated.read(root)
    if active and not active.verified:
        activated.write(root, replace(active, verified=True))


def verify(root: Path) -> tuple[str, ...]:
    """``problems``; where there are none, that is recorded. Raises DataError."""
    found = problems(root)
    if not found:
        record_verified(root)
    return found


def deactivate(root: Path, runner: Runner, say: Say = _nothing) -> TakenAway:
    """Takes away what is active, if anything is; where the record of that is damaged, what the manifests account for.

    Raises LayerError, DataError where the record is of a newer layout, CommandError; the next run goes on then.
    """
    try:
        resumed = resume(root, runner, say)
        active = activated.read(root)
    except DataError as error:
        if any(activated.is_newer(one) for one in activated.problems(root)):
            raise
        say(f"{error}: what the layers' manifests account for is taken away")
        with disk_errors_named():
            return _take_away_unrecorded(root, runner, say)
    if active is None:
        return resumed or TakenAway("")
    with disk_errors_named():
        steps.begin(say, steps.DEACTIVATE, "journal")
        activated.write_journal(root, Journal(DEACTIVATE, active))
        return _finish_taking_away(root, runner, active, say, interrupted=False)


def resume(root: Path, runner: Runner, say: Say = _nothing) -> TakenAway | None:
    """Finishes or takes back what an interrupted run left; None where there was nothing to take away.

    Raises LayerError, DataError, CommandError.
    """
    journal = activated.read_journal(root)
    with disk_errors_named():
        Store(root).sweep()
    if journal is None:
        return None
    record = _record_beside(root, say)
    with disk_errors_named():
        if journal.operation == ACTIVATE and record:
            say(f"resume: layer {record.layer} is in place")
            files.remove_durably(root / activated.JOURNAL)
            return None
        say(f"resume: {'take back' if journal.operation == ACTIVATE else 'finish taking away'} layer {journal.activation.layer}")
        return _finish_taking_away(root, runner, journal.activation, say, interrupted=True)


def _record_beside(root: Path, say: Say) -> Activation | None:
    """The record, where there is a journal, which says all that a damaged one could."""
    try:
        return activated.read(root)
    except DataError as error:
        if activated.is_newer(error):
            raise
        say(f"{error}: the journal says it too")
        return None


def _finish_taking_away(root: Path, runner: Runner, activation: Activation, say: Say, interrupted: bool) -> TakenAway:
    done = take_away(root, runner, activation, say, interrupted)
    steps.begin(say, steps.TAKE_AWAY, "forget")
    files.remove_durably(root / activated.PATH)
    steps.begin(say, steps.TAKE_AWAY, "end")
    files.remove_durably(root / activated.JOURNAL)
    steps.begin(say, steps.TAKE_AWAY, "drop")
    Store(root).drop(kept.entry for kept in activation.all_kept)
    steps.begin(say, steps.TAKE_AWAY, "done")
    return done


def _take_away_unrecorded(root: Path, runner: Runner, say: Say) -> TakenAway:
    """What is in place gets a journal that can be read, so that a run that is interrupted here is ended by the next."""
    actives = unrecorded.in_place(root)
    unrecorded.copy_aside(root, say)
    done = TakenAway(", ".join(one.layer for one in actives))
    for one in actives:
        activated.write_journal(root, Journal(DEACTIVATE, one))
        done.add(_finish_taking_away(root, runner, one, say, interrupted=True))
        for path in () if one.activated else unrecorded.lost(root, one):
            done.keep(path, "what was there before the layer is not in the store any more")
    for path in (activated.PATH, activated.JOURNAL):
        files.remove_durably(root / path)
    return done


@contextmanager
def _taken_back_on_failure(root: Path, runner: Runner, planned: Activation, say: Say) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        say(f"activate: failed, taking it back: {error}")
        try:
            _finish_taking_away(root, runner, planned, say, interrupted=True)
        except Exception as second:  # whatever it is, the journal stays and the next run takes it back
            raise LayerError(
                f"{error}; and it could not be taken back yet: {second}: run the same again once that is mended",
                code="activation_unfinished",
            ) from error
        raise


@contextmanager
def disk_errors_named() -> Iterator[None]:
    """A full or read-only filesystem becomes an error of ours with a code of its own."""
    try:
        yield
    except OSError as error:
        code = _BY_ERRNO.get(error.errno or 0, "os_error")
        raise LayerError(f"{error.filename or 'the system'}: {error.strerror}: look at this file and its filesystem", code=code) from error


def discard(root: Path, runner: Runner, layer_name: str, say: Say = _nothing) -> bool:
    """Drops a layer and what only it needed from the store; returns whether it was there.

    Raises LayerError while the layer is active, was baked in place, or is of a newer layout than this program knows.
    """
    resume(root, runner, say)
    path = droppable(root, layer_name)
    was_there = path.exists()
    with disk_errors_named():
        # Without its manifest a layer is garbage, whenever the rest goes.
        steps.begin(say, steps.DISCARD, "manifest")
        files.remove_durably(path)
        steps.begin(say, steps.DISCARD, "folder")
        drop_layer_folder(path.parent)
        steps.begin(say, steps.DISCARD, "objects")
        try:
            Store(root).collect()
        except DataError as error:
            say(f"objects stay: {error}")
        steps.begin(say, steps.DISCARD, "done")
    return was_there


def droppable(root: Path, layer_name: str) -> Path:
    """Where the manifest of a layer that may be dropped is, or was. Raises LayerError where it may not be."""
    if layer_name in ("", ".", "..") or "/" in layer_name:
        raise LayerError(f"{layer_name!r} is no name of a layer", code="layer_missing")
    active = activated.read(root)
    if active and active.layer == layer_name:
        raise LayerError(f"layer {layer_name} is active: deactivate it first", code="layer_active")
    path = manifest.path_of(root, layer_name)
    try:
        mode = manifest.read(path).mode if path.exists() else manifest.CAPTURED
    except DataError as error:
        if document.is_newer(error, manifest.SCHEMA):
            raise LayerError(
                f"{error}: it was written by a newer version of this program, which must drop it", code="store_newer"
            ) from error
        return path  # broken: nobody can use it, and what lies beside it is garbage
    if mode == manifest.IN_PLACE:
        raise LayerError(
            f"layer {layer_name} was baked in place: its files are in use where they lie; remove the driver instead", code="layer_in_place"
        )
    return path


def find(root: Path, layer_name: str) -> Manifest:
    """The layer of that name in the store. Raises LayerError, DataError."""
    path = manifest.path_of(root, layer_name)
    if "/" in layer_name or not path.exists():
        good, bad = manifest.read_all(root)
        present = ", ".join(layer.layer for layer in good) or "none"
        more = f"; besides, {'; '.join(bad)}" if bad else ""
        raise LayerError(f"layer {layer_name!r} is not in the store; layers there: {present}{more}", code="layer_missing")
    try:
        return manifest.read(path)
    except DataError as error:
        if document.is_newer(error, manifest.SCHEMA):
            raise LayerError(f"{error}: it was written by a newer version of this program", code="store_newer") from error
        raise
