"""Runs the module of this name: see plugin_utils/nodeaction.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.plugin_utils.nodeaction import NodeAction


class ActionModule(NodeAction):
    """A layer is put in place or taken away in seconds; a slow disk is given more."""

    def limit_s(self) -> float:
        return 1800.0
