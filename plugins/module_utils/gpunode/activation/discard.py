"""Discards a layer: removes it from the store."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..store.layers import drop_layer_folder, droppable
from ..store.objects import Store
from ..util import files
from ..util.run import Runner
from . import steps
from .deactivate import resume
from .disk_errors import disk_errors_named
from .steps import Say, say_nothing


def discard(root: Path, runner: Runner, layer_name: str, say: Say = say_nothing) -> bool:
    """Removes a layer, and the objects that only it needed, from the store. Returns whether the layer was there.

    Raises LayerError if the layer is active, was baked in place, or has a newer layout than this program knows; DataError, CommandError.
    """
    resume(root, runner, say)
    path = droppable(root, layer_name)
    was_there = path.exists()
    with disk_errors_named():
        # The manifest first: without it the rest is garbage, which a later run can remove too.
        steps.begin(say, steps.DISCARD, "manifest")
        files.remove_durably(path)
        steps.begin(say, steps.DISCARD, "folder")
        drop_layer_folder(path.parent)
        steps.begin(say, steps.DISCARD, "objects")
        try:
            Store(root).collect()
        except DataError as error:
            say(f"the store's objects stay: {error}")
        steps.begin(say, steps.DISCARD, "done")
    return was_there
