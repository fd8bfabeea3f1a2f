"""Shows a run: live on a terminal, elsewhere as plain lines with time and node."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gpu_prebake.nodes import Node, Step, Watcher

LAST_LINES = 6
_STYLES = {"ok": "green", "changed": "yellow", "failed": "bold red", "unreachable": "bold red", "ignored": "magenta", "skipped": "dim"}


def short(name: str) -> str:
    """A step's name without the role's name before it."""
    return name.rpartition(" : ")[2] or name


def failure(result: Mapping[str, Any]) -> str:
    """The text for a failed step: its code, if it has one, and its message."""
    code = result.get("code")
    text = str(result.get("msg") or result.get("censored") or result.get("stderr") or "failed without a message")
    return f"{code}: {text}" if code else text


def message(step: Step, result: Mapping[str, Any]) -> str:
    """The text for an ended step, besides its outcome: why it failed, or the message of a debug task."""
    if step.outcome in ("failed", "unreachable", "ignored"):
        return failure(result)
    text = result.get("msg", "") if result.get("_ansible_verbose_always") else ""
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


class Plain(Watcher):
    """Plain lines without control codes: time, node, event."""

    def __init__(self, console: Console, hide: Callable[[str], str]) -> None:
        self._out, self._hide = console, hide

    def showing(self) -> AbstractContextManager[object]:
        """Does nothing: plain lines need no updating."""
        return nullcontext()

    def began(self, node: Node, step: Step) -> None:
        self._print(f"{node.name}: {short(step.name)} ...")

    def line(self, node: Node, line: str) -> None:
        self._print(f"{node.name} | {line}")

    def ended(self, node: Node, step: Step, result: Mapping[str, Any]) -> None:
        self._print(f"{node.name}: {short(step.name)}: {step.outcome} in {step.seconds:.1f} s")
        for line in self._hide(message(step, result)).splitlines():
            self._print(f"{node.name}: {line}")

    def waiting(self, node: Node, step: Step, seconds: float) -> None:
        self._print(f"{node.name}: {short(step.name)}: still running after {seconds:.0f} s")

    def said(self, text: str) -> None:
        for line in text.splitlines():
            self._print(line)

    def _print(self, text: str) -> None:
        self._out.out(f"{time.strftime('%H:%M:%S')} {text}", highlight=False)
        self._out.file.flush()


class OnTerminal(Watcher):
    """Ended steps scroll up; below them are the nodes that are at work, with their last lines."""

    def __init__(self, console: Console, hide: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._hide, self._clock = console, hide, clock
        self._nodes: dict[str, Node] = {}
        self._spinner = Spinner("dots")

    def showing(self) -> AbstractContextManager[object]:
        """Keeps the display of the nodes at work up to date while this context is entered."""
        return Live(get_renderable=self._working, console=self._console, refresh_per_second=5, transient=True)

    def began(self, node: Node, step: Step) -> None:  # noqa: ARG002 - the node holds the step
        self._nodes[node.name] = node

    def ended(self, node: Node, step: Step, result: Mapping[str, Any]) -> None:
        if step.outcome == "skipped":
            return
        style = _STYLES.get(step.outcome, "")
        self._console.print(
            f"[{style}]{step.outcome:>11}[/] [bold]{escape(node.name)}[/] {escape(short(step.name))} [dim]{step.seconds:.1f} s[/]",
            highlight=False,
        )
        said = self._hide(message(step, result))
        if said:
            self._console.print(Text(said, style=style if step.outcome != "ok" else ""), highlight=False)

    def said(self, text: str) -> None:
        self._console.print(Text(text, style="dim"), highlight=False)

    def _working(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        at_work = [(node, node.step) for node in list(self._nodes.values()) if node.step]
        last: list[RenderableType] = []
        for node, step in at_work:
            table.add_row(self._spinner, Text(node.name, style="bold"), short(step.name), f"{self._clock() - step.began:.0f} s")
            shown = list(node.lines)[-max(1, LAST_LINES // len(at_work)) :]
            last += [Text(f"{node.name} | {line}", style="dim", no_wrap=True, overflow="ellipsis") for line in shown]
        return Group(table, *last)


def make(console: Console, hide: Callable[[str], str]) -> Plain | OnTerminal:
    """The display that suits the output: a terminal or not."""
    return OnTerminal(console, hide) if console.is_terminal else Plain(console, hide)
