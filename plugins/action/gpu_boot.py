"""Runs the module of this name: as one module call, or followed if the option ``progress`` is on. See plugin_utils/."""

from __future__ import annotations

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import BOOT
from ansible_collections.gpu.prebake.plugins.plugin_utils.imagearchive import ImageArchiveAction

_BESIDE_DEADLINE_S = 300.0


class ActionModule(ImageArchiveAction):
    """A boot. It is followed only on request, because following costs the controller more calls than the one module call."""

    log = "/var/log/gpu-prebake/boot.log"

    def limit_s(self) -> float:
        return self.argument_s("deadline_s", BOOT["deadline_s"].default) + _BESIDE_DEADLINE_S

    def is_followed(self) -> bool:
        return bool(boolean(self._task.args.get("progress", False), strict=False))
