"""What Ansible's events say about each node: its current step, the steps that have ended, its last lines, its results."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LINES_KEPT = 200
SILENCE_S = 30.0
_PROMPT = re.compile(r"(SSH|BECOME|Vault) password.*:\s*$")  # the password was asked for and given already
_LINE = re.compile(r"(\S+) \| (.*)")
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BAKE, _BOOT, _REMOVE, _SEAL = "prebake_layer", "gpu_boot", "gpu_remove", "image_seal"
_ENDED = {"runner_on_ok": "ok", "runner_on_failed": "failed", "runner_on_skipped": "skipped", "runner_on_unreachable": "unreachable"}


def clean(text: str) -> str:
    """A line that is safe to show: without control sequences that a terminal would obey."""
    return _CONTROLS.sub("?", _SEQUENCES.sub("", text.rstrip("\r\n")))


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
        self.pid = 0
        self.matched_nothing = False
        self.has_ended = False
        self.said: list[str] = []
        self._watcher, self._hide, self._verbosity, self._clock = watcher, hide, verbosity, clock

    def take(self, event: Mapping[str, Any]) -> bool:
        """Takes one event of ansible-runner. Returns False, so that ansible-runner keeps no copy of it on disk."""
        self.pid = event.get("pid") or self.pid
        kind, data, text = event.get("event", ""), event.get("event_data") or {}, event.get("stdout") or ""
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
        elif kind in ("verbose", "warning", "error", "deprecated", "system_warning", "debug"):
            self._output(text)
        elif self._verbosity:
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
        name = self._hide(str(data.get("task") or data.get("task_action") or ""))
        node.step = Step(name, self._clock())
        node.heard = node.step.began
        self._watcher.began(node, node.step)

    def _end(self, outcome: str, data: Mapping[str, Any]) -> None:
        node = self._node(data)
        step = node.step or Step(self._hide(str(data.get("task", ""))), self._clock())
        node.step = None
        result = data.get("res") or {}
        step.seconds = round(self._clock() - step.began, 3)
        step.outcome = "changed" if outcome == "ok" and result.get("changed") else outcome
        action = str(data.get("task_action", "")).rpartition(".")[2]
        if outcome == "failed" and data.get("ignore_errors"):
            step.outcome = "ignored"
        elif outcome == "failed":
            node.failed = result
        elif outcome == "unreachable":
            node.unreachable = clean(str(result.get("msg", "unreachable")))
        node.changed = node.changed or step.outcome == "changed"
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

    def _output(self, text: str) -> None:
        for raw in text.splitlines():
            found = _LINE.fullmatch(raw)
            node = self.nodes.get(found[1]) if found else None
            if found and node and node.step:
                line = self._hide(clean(found[2]))
                node.lines.append(line)
                node.heard = self._clock()
                self._watcher.line(node, line)
            elif raw.strip() and not _PROMPT.match(raw):
                self._say(raw)

    def _say(self, text: str) -> None:
        shown = "\n".join(self._hide(clean(line)) for line in text.splitlines() if line.strip())
        if shown:
            self.said.append(shown)
            self._watcher.said(shown)
