"""Removing a layer from the store."""

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
