"""Runs the module of this name, and brings a signing key that is on the controller: see plugin_utils/signingkey.py."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.plugin_utils.signingkey import SigningKeyAction


class ActionModule(SigningKeyAction):
    """A look of seconds: nothing is followed."""

    def is_followed(self) -> bool:
        return False
