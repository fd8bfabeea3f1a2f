"""What Ansible's events say about each node: its current step, the steps that have ended, its last lines, its results."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpu_prebake.plaintext import clean, clean_data

LINES_KEPT = 200
SILENCE_S = 30.0
_PROMPT = re.compile(r"(SSH|BECOME|Vault) password.*:\s*$")  # the password was asked for and given already
_LINE = re.compile(r"(\S+) \| (.*)")
SAID_KEPT = 1000
MOST_TEXT = 1024 * 1024
# The types of what the report and the display take out of a result. The keys of _LISTS hold mappings.
_TYPES: dict[str, type] = {
    **dict.fromkeys(("changed", "containerd_restarted", "reboot_needed", "provisional"), bool),
    **dict.fromkeys(("code", "action", "reason_code", "reason", "result", "summary", "module_version", "device_check"), str),
    **dict.fromkeys(("report", "invocation"), dict),
    **dict.fromkeys(("steps", "refused", "left", "removed", "node_warnings", "services", "modules", "images"), list),
}
_LISTS = ("steps", "refused", "left")
_BAKE, _BOOT, _REMOVE, _SEAL = "prebake_layer", "gpu_boot", "gpu_remove", "image_seal"
_ENDED = {"runner_on_ok": "ok", "runner_on_failed": "failed", "runner_on_skipped": "skipped", "runner_on_unreachable": "unreachable"}


def checked(result: object) -> tuple[dict[str, Any], list[str]]:
    """A task's result, which may come from a node, so that the rest of the program can use it: its texts are safe to show, and what is of
    another type than the report needs is left out. Also returns the keys of what was left out."""
    found = clean_data(result) if isinstance(result, Mapping) else {}
    odd = [name for name, kind in _TYPES.items() if not isinstance(found.get(name, kind()), kind)]
    odd += [name for name in _LISTS if name not in odd and not all(isinstance(item, Mapping) for item in found.get(name, ()))]
    return {name: value for name, value in found.items() if name not in odd}, odd


@dataclass
class Step:
    """One task on one node, with its time in seconds as the controller measures it."""

    name: str
    began: float
    seconds: float = 0.0
    outcome: str = ""


@dataclass
class Node:
    """One node of the run."""

    name: str
    step: Step | None = None
    heard: float = 0.0
    steps: list[Step] = field(default_factory=list)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    failed: Mapping[str, Any] | None = None
    unreachable: str = ""
    interrupted: Mapping[str, Any] | None = None
    changed: bool = False
    odd: list[str] = field(default_factory=list)
    bake: Mapping[str, Any] | None = None
    boot: Mapping[str, Any] | None = None
    remove: Mapping[str, Any] | None = None
    seal: Mapping[str, Any] | None = None

    @property
    def outcome(self) -> str:
        """``ok``, ``changed``, ``failed``, ``unreachable``, ``interrupted`` or ``unfinished``."""
        if self.interrupted is not None:
            return "interrupted"
        if self.failed is not None:
            return "failed"
        if self.unreachable:
            return "unreachable"
        if self.step is not None:
            return "unfinished"
        return "changed" if self.changed else "ok"


class Watcher:
    """Receives what happens in a run, to show it."""

    def began(self, node: Node, step: Step) -> None:
        """A step began."""

    def line(self, node: Node, line: str) -> None:
        """A node's log has a new line."""

    def ended(self, node: Node, step: Step, result: Mapping[str, Any]) -> None:
        """A step ended."""

    def waiting(self, node: Node, step: Step, seconds: float) -> None:
        """A step has shown no output for a while; it has taken ``seconds`` so far."""

    def said(self, text: str) -> None:
        """Ansible printed something that belongs to no step: a warning, an error, a difference."""


class Run:
    """Collects the events of one run, in their order."""

    def __init__(
        self, watcher: Watcher, hide: Callable[[str], str], verbosity: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.nodes: dict[str, Node] = {}
        self.matched_nothing = False
        self.has_ended = False
        self.said: list[str] = []
        self._watcher, self._hide, self._verbosity, self._clock = watcher, hide, verbosity, clock

    def take(self, event: Mapping[str, Any]) -> bool:
        """Takes one event, and what was printed with it. Without ``event`` it is output that belongs to no event."""
        kind, data, text = event.get("event", ""), event.get("event_data") or {}, (event.get("stdout") or "")[:MOST_TEXT]
        if kind == "runner_on_start":
            self._begin(data)
        elif kind in _ENDED:
            self._end(_ENDED[kind], data)
            if self._verbosity:
                self._say(text)
        elif kind in ("playbook_on_no_hosts_matched", "playbook_on_no_hosts_remaining"):
            self.matched_nothing = self.matched_nothing or kind.endswith("matched")
            self._say(text)
        elif kind == "playbook_on_stats":
            self._close(data)
            if self._verbosity:
                self._say(text)
        elif kind in ("runner_on_file_diff", "runner_retry", "runner_item_on_failed"):
            self._say(text)
        elif kind == "verbose":
            self._lines(text)
        elif kind in ("", "warning", "error", "deprecated", "system_warning", "debug") or self._verbosity:
            self._say(text)
        return False

    def tick(self) -> None:
        """Called often: reports each step that has shown no output for a while."""
        now = self._clock()
        for node in self.nodes.values():
            if node.step and now - node.heard > SILENCE_S:
                node.heard = now
                self._watcher.waiting(node, node.step, now - node.step.began)

    def _node(self, data: Mapping[str, Any]) -> Node:
        return self.nodes.setdefault(data["host"], Node(data["host"]))

    def _begin(self, data: Mapping[str, Any]) -> None:
        node = self._node(data)
        name = self._hide(clean(str(data.get("task") or data.get("task_action") or "")))
        node.step = Step(name, self._clock())
        node.heard = node.step.began
        self._watcher.began(node, node.step)

    def _end(self, outcome: str, data: Mapping[str, Any]) -> None:
        node = self._node(data)
        step = node.step or Step(self._hide(clean(str(data.get("task", "")))), self._clock())
        node.step = None
        result, odd = checked(data.get("res"))
        step.seconds = round(self._clock() - step.began, 3)
        step.outcome = "changed" if outcome == "ok" and result.get("changed") else outcome
        action = str(data.get("task_action", "")).rpartition(".")[2]
        if outcome == "failed" and data.get("ignore_errors"):
            step.outcome = "ignored"
        elif outcome == "failed":
            node.failed = result
        elif outcome == "unreachable":
            node.unreachable = str(result.get("msg", "unreachable"))
        node.changed = node.changed or step.outcome == "changed"
        if action in (_BAKE, _BOOT, _REMOVE, _SEAL):
            node.odd += [f"{step.name}: {name}" for name in odd]
        if action == _BAKE:
            node.bake = result
        elif action == _BOOT:
            node.boot = result
        elif action == _REMOVE:
            node.remove = result
        elif action == _SEAL:
            node.seal = result
        if step.outcome != "skipped":
            node.steps.append(step)
        self._watcher.ended(node, step, result)

    def _close(self, data: Mapping[str, Any]) -> None:
        """Takes over Ansible's own summary at the end: a failure that a playbook has rescued does not count."""
        self.has_ended = True
        for node in self.nodes.values():
            node.failed = node.failed if node.name in data.get("failures", {}) else None
            node.unreachable = node.unreachable if node.name in data.get("dark", {}) else ""
            node.changed = node.name in data.get("changed", {})  # the result of a task under no_log does not show it

    def _lines(self, text: str) -> None:
        """Lines of nodes' logs, which begin with the node's name; only our own action prints them."""
        for raw in text.splitlines():
            found = _LINE.fullmatch(raw)
            node = self.nodes.get(found[1]) if found else None
            if found and node and node.step:
                line = self._hide(clean(found[2]))
                node.lines.append(line)
                node.heard = self._clock()
                self._watcher.line(node, line)
            else:
                self._say(raw)

    def _say(self, text: str) -> None:
        shown = "\n".join(self._hide(clean(line)) for line in text.splitlines() if line.strip() and not _PROMPT.match(line))
        if shown:
            self.said = [*self.said[1 - SAID_KEPT :], shown]
            self._watcher.said(shown)
