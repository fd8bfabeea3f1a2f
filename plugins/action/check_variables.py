"""Refuses variables that begin with a role's name and are not the role's, and reports that the controller could not write.

It runs on the controller alone and asks the node nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import variables_of
from ansible_collections.gpu.prebake.plugins.module_utils.options import argument_spec
from ansible_collections.gpu.prebake.plugins.plugin_utils import rolevariables
from ansible_collections.gpu.prebake.plugins.plugin_utils.controllerfile import unwritable

display = Display()


class ActionModule(ActionBase):
    """Of the variables, it needs only the names, which Ansible hands to each action."""

    _requires_connection = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fails with a code for the first thing that it refuses; warns of names that look like a misspelled role name."""
        result = super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(argument_spec("check_variables"))
        if arguments["role"]:
            result.update(_names_checked(arguments["role"], [str(name) for name in task_vars or {}], arguments["ignored_variables"]))
        if not result.get("failed"):
            result.update(_files_checked(arguments["report_files"] or {}))
        return dict(result, changed=False)


def _names_checked(role: str, names: list[str], ignored: list[str]) -> dict[str, Any]:
    known = variables_of(role)
    found = rolevariables.unknown(names, role, known, ignored)
    if found:
        return dict(failed=True, code="unknown_variable", msg=rolevariables.refusal(role, found))
    for name, near in rolevariables.misspelled(names, role, known).items():
        display.warning(f"{name}: no role of this collection reads this variable: did you mean {near}?")
    return {}


def _files_checked(files: Mapping[str, str]) -> dict[str, Any]:
    for variable, path in files.items():
        why = unwritable(path) if path else ""
        if why:
            return dict(failed=True, code="report_unwritable", msg=f"{variable}: {path} cannot be written on the controller: {why}")
    return {}
