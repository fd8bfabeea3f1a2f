"""Runs the module of this name: see plugin_utils/nodeaction.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.plugin_utils.nodeaction import NodeAction


class ActionModule(NodeAction):
    """The seal reads the whole image."""

    def limit_s(self) -> float:
        return 3600.0
