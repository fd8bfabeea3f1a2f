"""What the collection's modules share: the one place that turns an error into a module failure, and results that JSON can carry."""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .gpunode.boot.plan import Outcome, Plan
from .gpunode.errors import GpuNodeError, InterruptedRunError


def run_module(module: AnsibleModule, body: Callable[[AnsibleModule], dict[str, Any]]) -> None:
    """Runs ``body`` and exits with its results; a GpuNodeError becomes the module's failure with its code and details.

    An OSError (a full disk, a read-only filesystem) fails the module in the same way, and the message names the file. On SIGTERM the module
    cleans up as after any failure. Only the first signal counts: a second one must not interrupt the clean-up.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = body(module)
    except GpuNodeError as error:
        module.fail_json(**plain({"msg": str(error), "code": error.code, **error.details}))
    except OSError as error:
        said = f"{error.filename or 'the system'}: {error.strerror}: look at this file and its filesystem"
        module.fail_json(**plain({"msg": said, "code": "os_error"}))
    result = plain(result)
    for warning in [*result.get("notes", []), *result.get("node_warnings", []), *result.get("report", {}).get("warnings", [])]:
        module.warn(warning)
    module.exit_json(**result)


def _interrupt(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise InterruptedRunError(
        "stopped by a signal: run it again to finish; a bake has rolled its changes back, a boot continues from the node record"
    )


def plan_result(plan: Plan) -> dict[str, Any]:
    """A plan as a module returns it."""
    return {
        "action": plan.action.value,
        "reason_code": plan.code,
        "reason": plan.reason,
        "planned_steps": [step.value for step in plan.steps],
        "refused": [refusal.answer for refusal in plan.refused],
        "provisional": plan.provisional,
    }


def outcome_result(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a module returns it: the plan's fields and the outcome's own; where both have a field, the outcome's is used."""
    return {
        **plan_result(outcome.plan),
        "action": outcome.action.value,
        "changed": outcome.changed,
        "result": outcome.result,
        "reason_code": outcome.code,
        "reason": outcome.reason,
        "device_check": outcome.device_check,
        "module_version": outcome.module_version,
        "containers": outcome.containers,
        "containerd_restarted": outcome.containerd_restarted,
        "steps": outcome.steps,
        "node_warnings": outcome.warnings,
    }


def plain(value: Any) -> Any:
    """Dataclasses, enums and tuples as types that JSON has, and texts that UTF-8 has: Ansible refuses a whole answer in which the name of
    one file is not UTF-8."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value
