"""Runs the module of this name: see plugin_utils/nodeaction.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import REMOVE
from ansible_collections.gpu.prebake.plugins.plugin_utils.nodeaction import NodeAction

_BESIDE_DEADLINE_S = 1800.0


class ActionModule(NodeAction):
    """A removal. It may have to restart containerd too."""

    def limit_s(self) -> float:
        return 2 * self.argument_s("deadline_s", REMOVE["deadline_s"].default) + _BESIDE_DEADLINE_S
