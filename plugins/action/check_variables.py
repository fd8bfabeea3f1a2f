"""Refuses variables that begin with a role's name and are not the role's. It runs on the controller alone and asks the node nothing."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import variables_of
from ansible_collections.gpu.prebake.plugins.module_utils.options import argument_spec
from ansible_collections.gpu.prebake.plugins.plugin_utils import rolevariables

display = Display()


class ActionModule(ActionBase):
    """All that it needs are the names of the variables that Ansible hands to each action."""

    _requires_connection = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fails with ``unknown_variable`` for the names that it refuses; warns of names that look like a misspelled role name."""
        result = super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(argument_spec("check_variables"))
        role, names = arguments["role"], [str(name) for name in task_vars or {}]
        known = variables_of(role)
        found = rolevariables.unknown(names, role, known, arguments["ignored_variables"])
        if found:
            return dict(result, failed=True, code="unknown_variable", msg=rolevariables.refusal(role, found))
        for name, near in rolevariables.misspelled(names, role, known).items():
            display.warning(f"{name}: no role of this collection reads this variable: did you mean {near}?")
        return {**result, "changed": False}
