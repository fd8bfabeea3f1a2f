"""Runs the module of this name and takes a signing key from the controller to the node: see plugin_utils/signingkey.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.plugin_utils.signingkey import SigningKeyAction


class ActionModule(SigningKeyAction):
    """Never followed: it only reads, which takes seconds."""

    def limit_s(self) -> float:
        return 900.0

    def is_followed(self) -> bool:
        return False
