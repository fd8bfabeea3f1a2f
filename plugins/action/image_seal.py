"""Runs the module of this name, for which a certificate on the controller becomes its SHA-256: see plugin_utils/nodeaction.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import certificate
from ansible_collections.gpu.prebake.plugins.plugin_utils import controllerfile
from ansible_collections.gpu.prebake.plugins.plugin_utils.nodeaction import NodeAction


class ActionModule(NodeAction):
    """The seal reads the whole image."""

    def limit_s(self) -> float:
        return 3600.0

    def run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        path = str(arguments.get("signing_certificate") or "")
        if path and not boolean(arguments.get("signing_remote_src") or False, strict=False):
            try:
                arguments["signer"] = certificate.fingerprint_of(controllerfile.contents(self, path))
            except (AnsibleError, OSError, ValueError) as error:
                message = f"nvidia_prebake_signing_certificate: {path} cannot be read on the controller: {error}"
                return {"failed": True, "code": "signing_certificate", "msg": message}
            arguments["signing_certificate"] = ""
        return super().run_module(arguments, task_vars)
