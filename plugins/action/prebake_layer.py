"""Runs the module of this name, shows the compile's lines as they arrive (plugin_utils/followed.py) and takes a signing key from the
controller to the node (plugin_utils/signingkey.py).
"""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.plugin_utils.signingkey import SigningKeyAction

_BESIDE_TRIES_S = 1800.0


class ActionModule(SigningKeyAction):
    """A bake. It is always followed."""

    log = "/var/log/gpu-prebake/bake.log"

    def limit_s(self) -> float:
        return self.argument_s("tries", 3) * (self.argument_s("try_s", 600) + self.argument_s("delay_s", 10)) + _BESIDE_TRIES_S

    def is_followed(self) -> bool:
        return True
