"""Runs the module of this name and copies an image archive from the controller to the node: see plugin_utils/imagearchive.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import PULL
from ansible_collections.gpu.prebake.plugins.plugin_utils.imagearchive import ImageArchiveAction

_BESIDE_TRIES_S = 600.0


class ActionModule(ImageArchiveAction):
    """Never followed: a pull takes seconds and has no log of its own."""

    def limit_s(self) -> float:
        tries, timeout_s, delay_s = (self.argument_s(name, PULL[name].default) for name in ("tries", "timeout_s", "delay_s"))
        return tries * (timeout_s + delay_s) + _BESIDE_TRIES_S

    def is_followed(self) -> bool:
        return False
