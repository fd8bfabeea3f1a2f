"""The action of every module of this collection: runs the module on its node, and takes the answer for what it is: a stranger's.

Ansible lets a module set variables of the controller (``ansible_facts``), which override the inventory's, and prints a module's warnings as
they are. A node that somebody else controls can answer anything. So an answer loses everything by which it could command the controller,
must have the types that the module documents, and has a limit of size and of time.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.action import ActionBase

from ..module_utils.gpunode.util.plaintext import DEEPEST, clean, clean_data, clean_text

MOST_CHARACTERS = 16 * 1024 * 1024
"""How much a node may answer to one call."""

_MODULES = Path(__file__).parents[1] / "modules"
# By these keys Ansible lets a result change the controller's own state. Deprecations are passed to a function as its arguments.
_COMMANDS = frozenset(("ansible_facts", "ansible_stats", "add_host", "add_group", "deprecations"))
_ANSIBLES_OWN = "_ansible_"
_INTERPRETER = "discovered_interpreter_"  # a fact that Ansible itself adds to the answer of a module
_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "path": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "list": list,
    "dict": Mapping,
    "diff": (Mapping, list),
}
# What Ansible adds to the answer of any module.
_COMMON = {
    "changed": ("bool", ""),
    "failed": ("bool", ""),
    "skipped": ("bool", ""),
    "unreachable": ("bool", ""),
    "msg": ("str", ""),
    "rc": ("int", ""),
    "stdout": ("str", ""),
    "stderr": ("str", ""),
    "invocation": ("dict", ""),
    "warnings": ("list", ""),
    "diff": ("diff", ""),
}


def sanitised(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without keys that command Ansible, and with texts that are safe to show."""
    plain = {clean(str(key)): _clean(value) for key, value in answer.items() if not _is_command(str(key))}
    if isinstance(plain.get("warnings"), list):
        plain["warnings"] = [one for one in plain["warnings"] if isinstance(one, str) or dataclasses.is_dataclass(one)]
    return plain


def _is_command(key: str) -> bool:
    return key in _COMMANDS or key.startswith(_ANSIBLES_OWN)


def _clean(value: Any, depth: int = 0) -> Any:
    """As ``clean_data``, and also for what newer Ansibles put into an answer as values of their own: warnings, and errors with a cause."""
    if depth >= DEEPEST:
        return ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{name: _clean(item, depth + 1) for name, item in fields.items()})
    if isinstance(value, Mapping):
        return {clean(str(key)): _clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_clean(item, depth + 1) for item in value)
    return clean_data(value) if isinstance(value, (str, float)) else value


@functools.cache
def documented(module: str) -> dict[str, tuple[str, str]]:
    """Type and type of elements of everything that a module of this collection documents as its result."""
    tree = ast.parse((_MODULES / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and [name.id for name in node.targets if isinstance(name, ast.Name)] == ["RETURN"]:
            returned = yaml_load(ast.literal_eval(node.value))
            return _COMMON | {key: (facts["type"], facts.get("elements", "")) for key, facts in returned.items()}
    return _COMMON


def wrong_types(module: str, answer: Mapping[str, Any]) -> list[str]:
    """What is not of the type that the module documents, in words."""
    return [
        f"{key} is not {f'a list of {elements}' if elements else kind}"
        for key, (kind, elements) in documented(module).items()
        if key in answer and not _is_of(answer[key], kind, elements)
    ]


def _is_of(value: Any, kind: str, elements: str) -> bool:
    wanted = _TYPES.get(kind, object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind in ("int", "float")):
        return False
    return not elements or all(_is_of(item, elements, "") for item in value)


@contextmanager
def limited(seconds: float, says: str) -> Iterator[None]:
    """Raises AnsibleConnectionFailure in the body after so many seconds, even while it waits for a connection, and again after as many.

    Does nothing while another limit is in force, such as the task's own ``timeout``.
    """

    def ended(_number: int, _frame: FrameType | None) -> None:
        raise AnsibleConnectionFailure(says)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGALRM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGALRM, ended)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


class NodeAction(ActionBase):
    """Runs the module of the action's name. Subclasses define how long the module may take."""

    _supports_check_mode = True
    _supports_async = True
    _too_much = ""

    def limit_s(self) -> float:
        """Seconds within which the module must have ended by itself."""
        raise NotImplementedError

    def argument_s(self, name: str, default: float) -> float:
        """A number among the task's arguments, or the default if it is not a number: the module then refuses it."""
        try:
            return float(self._task.args.get(name, default))
        except (TypeError, ValueError):
            return default

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result, or a failure in its place if it cannot be one."""
        result = super().run(tmp, task_vars)
        result.update(self._checked(self.run_module(dict(self._task.args), task_vars or {})))
        return result

    def run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Runs the module with ``arguments`` and returns its answer."""
        wrap_async = bool(self._task.async_val)  # the task's own `async:`: then the caller polls
        result = self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=wrap_async)
        if not wrap_async:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(result)

    def _checked(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        module = str(self._task.action).rpartition(".")[2]
        wrong = [self._too_much] if self._too_much else wrong_types(module, answer)
        if wrong:
            return dict(
                failed=True,
                code="bad_answer",
                msg=f"the node's answer cannot be one of {module}, and is not used: {'; '.join(wrong)}. Whether the module has run is "
                "unknown: look at the node, and find out who controls it",
            )
        facts = {key: value for key, value in (answer.get("ansible_facts") or {}).items() if str(key).startswith(_INTERPRETER)}
        kept = {"_ansible_parsed": answer.get("_ansible_parsed", True), **({"ansible_facts": facts} if facts else {})}
        return {**sanitised(answer), **kept}

    # --- what Ansible calls for each module ---------------------------------------------------------------------------

    def _low_level_execute_command(self, cmd: str, *positional: Any, **named: Any) -> dict[str, Any]:
        """As Ansible's, with a limit of time and of size."""
        says = "the node has not answered within the time that the module may take; its work may continue"
        with limited(self.limit_s(), says):
            done: dict[str, Any] = super()._low_level_execute_command(cmd, *positional, **named)
        if len(done["stdout"]) + len(done["stderr"]) > MOST_CHARACTERS:
            self._too_much = f"it has more than {MOST_CHARACTERS // 1024 // 1024} MB"
            return {"rc": 1, "stdout": "", "stdout_lines": [], "stderr": self._too_much, "stderr_lines": [self._too_much]}
        return done

    def _parse_returned_data(self, res: dict[str, Any], *rest: Any) -> dict[str, Any]:
        """As Ansible's. JSON has no raw control characters, so only what Ansible would print from around it is cleaned."""
        plain = {**res, "stdout": clean_json(res.get("stdout", "")), "stderr": clean_text(res.get("stderr", ""))}
        answer = super()._parse_returned_data(plain, *rest)
        return {**sanitised(answer), "_ansible_parsed": answer.get("_ansible_parsed", False)}


def clean_json(text: str) -> str:
    """What a module printed, with lines of any length."""
    return "\n".join(line if line.isascii() and line.isprintable() else _clean_pieces(line) for line in text.split("\n"))


def _clean_pieces(line: str) -> str:
    step = 4096
    return "".join(clean(line[at : at + step]) for at in range(0, len(line), step))
