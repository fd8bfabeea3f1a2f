"""Deactivating the layer that is active, and finishing what an interrupted run began."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..paths import ACTIVATION, ACTIVATION_JOURNAL
from ..store import activation_record
from ..store.activation_record import ACTIVATE, DEACTIVATE, Activation, Journal
from ..store.objects import Store
from ..util import files
from ..util.run import Runner
from . import recovery, steps
from .disk_errors import disk_errors_named
from .steps import Say, say_nothing
from .take_away import TakenAway, take_away


def deactivate(root: Path, runner: Runner, say: Say = say_nothing) -> TakenAway:
    """Takes away what is active, if anything is; where the record of that is damaged, what the manifests account for.

    Raises LayerError, DataError where the record is of a newer layout, CommandError; the next run goes on then.
    """
    try:
        resumed = resume(root, runner, say)
        active = activation_record.read(root)
    except DataError as error:
        if any(activation_record.is_newer(one) for one in activation_record.problems(root)):
            raise
        say(f"{error}: what the layers' manifests account for is taken away")
        with disk_errors_named():
            return _take_away_unrecorded(root, runner, say)
    if active is None:
        return resumed or TakenAway("")
    with disk_errors_named():
        steps.begin(say, steps.DEACTIVATE, "journal")
        activation_record.write_journal(root, Journal(DEACTIVATE, active))
        return finish_taking_away(root, runner, active, say, interrupted=False)


def resume(root: Path, runner: Runner, say: Say = say_nothing) -> TakenAway | None:
    """Finishes or takes back what an interrupted run left; None where there was nothing to take away.

    Raises LayerError, DataError, CommandError.
    """
    journal = activation_record.read_journal(root)
    with disk_errors_named():
        Store(root).sweep()
    if journal is None:
        return None
    record = _record_beside(root, say)
    with disk_errors_named():
        if journal.operation == ACTIVATE and record:
            say(f"resume: layer {record.layer} is in place")
            files.remove_durably(root / ACTIVATION_JOURNAL)
            return None
        say(f"resume: {'take back' if journal.operation == ACTIVATE else 'finish taking away'} layer {journal.activation.layer}")
        return finish_taking_away(root, runner, journal.activation, say, interrupted=True)


def _record_beside(root: Path, say: Say) -> Activation | None:
    """The record, where there is a journal, which says all that a damaged one could."""
    try:
        return activation_record.read(root)
    except DataError as error:
        if activation_record.is_newer(error):
            raise
        say(f"{error}: the journal says it too")
        return None


def finish_taking_away(root: Path, runner: Runner, activation: Activation, say: Say, interrupted: bool) -> TakenAway:
    """Takes ``activation`` away, then the documents that name it, then what was kept aside for it."""
    done = take_away(root, runner, activation, say, interrupted)
    steps.begin(say, steps.TAKE_AWAY, "forget")
    files.remove_durably(root / ACTIVATION)
    steps.begin(say, steps.TAKE_AWAY, "end")
    files.remove_durably(root / ACTIVATION_JOURNAL)
    steps.begin(say, steps.TAKE_AWAY, "drop")
    Store(root).drop(kept.entry for kept in activation.all_kept)
    steps.begin(say, steps.TAKE_AWAY, "done")
    return done


def _take_away_unrecorded(root: Path, runner: Runner, say: Say) -> TakenAway:
    """What is in place gets a journal that can be read, so that a run that is interrupted here is ended by the next."""
    actives = recovery.in_place(root)
    recovery.copy_aside(root, say)
    done = TakenAway(", ".join(one.layer for one in actives))
    for one in actives:
        activation_record.write_journal(root, Journal(DEACTIVATE, one))
        done.add(finish_taking_away(root, runner, one, say, interrupted=True))
        for path in () if one.activated else recovery.lost(root, one):
            done.keep(path, "what was there before the layer is not in the store any more")
    for path in (ACTIVATION, ACTIVATION_JOURNAL):
        files.remove_durably(root / path)
    return done
