"""An action that takes a signing key from the controller to the node for as long as its module runs.

The key, its certificate and a PIN are sent through the connection's standard input into files in memory, below /run, that belong to root.
They are never in a program's arguments, nor in Ansible's temporary folder, which lies on the node's disk. The module and this action both
remove them, so that they are gone as soon as the first of the two has ended; the module continues if the connection is lost.
"""

from __future__ import annotations

import base64
import shlex
import uuid
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import signing_key

from . import controllerfile
from .followed import FollowedAction

_NOT_IN_MEMORY = 9
# Standard input is base64, so that a shell or terminal on the way does not interpret any byte of it.
_WRITE = """
umask 077
case "$(stat -f -c %T /run)" in tmpfs|ramfs) ;; *) exit {not_in_memory} ;; esac
mkdir -p -m 0700 /run/gpu-prebake
mkdir -p {folder} && base64 -d > {file}
"""


class SigningKeyAction(FollowedAction):
    """Gives the module paths on the node in place of its signing options."""

    def run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The module's result."""
        key, certificate, pin = (str(arguments.get(f"signing_{name}") or "") for name in ("key", "certificate", "pin"))
        is_remote = bool(boolean(arguments.pop("signing_remote_src", None) or False, strict=False))
        wrong = signing_key.problem(key, certificate, pin, is_on_machine=is_remote)
        if wrong:
            return {"failed": True, "code": "bad_input", "msg": wrong}
        folder = f"/{signing_key.FOLDER}/{uuid.uuid4().hex}"
        try:
            contents = self._contents(key, certificate, pin, is_remote)
        except (AnsibleError, OSError) as error:
            message = f"the signing key or its certificate cannot be read on the controller: {error}"
            return {"failed": True, "code": "signing_key", "msg": message}
        try:
            for name, content in contents.items():
                failed = self._write(folder, name, content)
                if failed:
                    return failed
                arguments[f"signing_{name}"] = f"{signing_key.PIN_FILE if name == 'pin' else ''}{folder}/{name}"
            return super().run_module({**arguments, "signing_remote_src": True}, task_vars)
        finally:
            if contents:
                self._low_level_execute_command(f"rm -rf {shlex.quote(folder)}")

    def _contents(self, key: str, certificate: str, pin: str, is_remote: bool) -> dict[str, bytes]:
        """The contents to send, each by the option that it belongs to."""
        found = {}
        if key and not is_remote and not key.startswith("pkcs11:"):
            found["key"] = controllerfile.contents(self, key)
        if certificate and not is_remote:
            found["certificate"] = controllerfile.contents(self, certificate)
        if pin and not pin.startswith(signing_key.PIN_FILE):
            found["pin"] = pin.encode()
        return found

    def _write(self, folder: str, name: str, content: bytes) -> dict[str, Any] | None:
        """Writes a secret into memory on the node; returns the failure as a result, or None."""
        if not self._connection.has_pipelining:
            wrong = f"the connection {self._connection.transport} has no standard input, and a secret does not belong into arguments"
            advice = "use ssh, or put the key on the machine and set signing_remote_src"
            return {"failed": True, "code": "signing_key", "msg": f"the signing key cannot be sent to the machine: {wrong}: {advice}"}
        script = _WRITE.format(not_in_memory=_NOT_IN_MEMORY, folder=shlex.quote(folder), file=shlex.quote(f"{folder}/{name}"))
        done = self._low_level_execute_command(f"/bin/sh -c {shlex.quote(script)}", in_data=base64.b64encode(content) + b"\n")
        if done["rc"] == 0:
            return None
        reason = "its /run is not a tmpfs, so not in memory" if done["rc"] == _NOT_IN_MEMORY else str(done["stderr"]).strip()
        return {"failed": True, "code": "signing_key", "msg": f"the signing key cannot be written to the machine's memory: {reason}"}
