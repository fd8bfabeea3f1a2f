"""Deactivates the active layer, and finishes or rolls back what an interrupted run left."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..paths import ACTIVATION, ACTIVATION_JOURNAL
from ..store import activation_record
from ..store.activation_record import ACTIVATE, DEACTIVATE, Activation, Journal
from ..store.objects import Store
from ..util import files, trust
from ..util.run import Runner
from . import recovery, steps
from .disk_errors import disk_errors_named
from .steps import Say, say_nothing
from .take_away import TakenAway, take_away
from .take_away_plan import of_activation


def deactivate(root: Path, runner: Runner, say: Say = say_nothing) -> TakenAway:
    """Deactivates the active layer, if there is one. If its record is damaged, takes away what the layers' manifests account for.

    Raises LayerError, CommandError, and DataError if the record has a newer layout. The next run then continues.
    """
    try:
        resumed = resume(root, runner, say)
        active = activation_record.read(root)
    except DataError as error:
        if any(activation_record.is_newer(one) for one in activation_record.problems(root)):
            raise
        say(f"{error}: taking away what the layers' manifests account for")
        with disk_errors_named():
            return _take_away_by_manifests(root, runner, say)
    if active is None:
        return resumed or TakenAway("")
    with disk_errors_named():
        steps.begin(say, steps.DEACTIVATE, "journal")
        activation_record.write_journal(root, Journal(DEACTIVATE, active))
        return finish_taking_away(root, runner, active, say, interrupted=False)


def resume(root: Path, runner: Runner, say: Say = say_nothing) -> TakenAway | None:
    """Rolls back an interrupted activation, or finishes an interrupted deactivation. Returns what it took away; None if nothing.

    Raises LayerError, DataError, CommandError.
    """
    journal = activation_record.read_journal(root)
    with disk_errors_named():
        Store(root).sweep()
    if journal is None:
        return None
    record = _readable_record(root, say)
    with disk_errors_named():
        if journal.operation == ACTIVATE and record:
            say(f"resume: layer {record.layer} is active")
            files.remove_durably(trust.below(root, ACTIVATION_JOURNAL))
            return None
        what = "roll back the activation" if journal.operation == ACTIVATE else "finish the deactivation"
        say(f"resume: {what} of layer {journal.activation.layer}")
        return finish_taking_away(root, runner, journal.activation, say, interrupted=True)


def _readable_record(root: Path, say: Say) -> Activation | None:
    """The activation record; None if there is none or it is damaged. The journal beside it says all that a damaged one could."""
    try:
        return activation_record.read(root)
    except DataError as error:
        if activation_record.is_newer(error):
            raise
        say(f"{error}: the journal is used instead")
        return None


def finish_taking_away(root: Path, runner: Runner, activation: Activation, say: Say, interrupted: bool) -> TakenAway:
    """Takes ``activation`` away, then removes its record and its journal, then drops its backups from the store."""
    done = take_away(root, runner, of_activation(activation), say, interrupted)
    steps.begin(say, steps.TAKE_AWAY, "forget")
    files.remove_durably(trust.below(root, ACTIVATION))
    steps.begin(say, steps.TAKE_AWAY, "end")
    files.remove_durably(trust.below(root, ACTIVATION_JOURNAL))
    steps.begin(say, steps.TAKE_AWAY, "drop")
    Store(root).drop(kept.entry for kept in activation.all_kept)
    steps.begin(say, steps.TAKE_AWAY, "done")
    return done


def _take_away_by_manifests(root: Path, runner: Runner, say: Say) -> TakenAway:
    """Takes away what ``recovery`` finds in place. Writes a readable journal for it first, so that the next run can finish an interrupted
    one."""
    actives = recovery.in_place(root)
    recovery.copy_aside(root, say)
    done = TakenAway(", ".join(one.layer for one in actives))
    for one in actives:
        activation_record.write_journal(root, Journal(DEACTIVATE, one))
        done.add(finish_taking_away(root, runner, one, say, interrupted=True))
        for path in () if one.activated else recovery.not_restored(root, one):
            done.keep(path, "what was there before the layer is no longer in the store, so it is not restored")
    for path in (ACTIVATION, ACTIVATION_JOURNAL):
        files.remove_durably(trust.below(root, path))
    return done
