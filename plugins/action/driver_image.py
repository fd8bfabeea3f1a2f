"""Runs the module of this name and copies an image archive from the controller to the node: see plugin_utils/imagearchive.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.plugin_utils.imagearchive import ImageArchiveAction


class ActionModule(ImageArchiveAction):
    """Never followed: a pull takes seconds and has no log of its own."""

    def is_followed(self) -> bool:
        return False
