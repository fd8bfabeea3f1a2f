"""Runs the module of this name, shows the compile's lines as they arrive (plugin_utils/followed.py) and takes a signing key from the
controller to the node (plugin_utils/signingkey.py).
"""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import BUILD
from ansible_collections.gpu.prebake.plugins.plugin_utils.signingkey import SigningKeyAction

_BESIDE_TRIES_S = 1800.0


class ActionModule(SigningKeyAction):
    """A bake. It is always followed."""

    log = "/var/log/gpu-prebake/bake.log"

    def limit_s(self) -> float:
        tries, try_s, delay_s = (self.argument_s(name, BUILD[name].default) for name in ("tries", "try_s", "delay_s"))
        return tries * (try_s + delay_s) + _BESIDE_TRIES_S

    def is_followed(self) -> bool:
        return True
