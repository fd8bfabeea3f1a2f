"""Runs the module of this name, and brings an archive that is on the controller: see plugin_utils/imagearchive.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.plugin_utils.imagearchive import ImageArchiveAction


class ActionModule(ImageArchiveAction):
    """A pull of seconds: it has no log of its own, and nothing is followed."""

    def is_followed(self) -> bool:
        return False
