"""The demo's report as bars: for each node one lane on each of two clocks, native (image build) and emulated (the node's boot)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COMPILE = "compile"
_INSIDE_BUILD, _INSIDE_RUN = "image build: container: ", "container: "
_COMPILE_STEPS = ("dkms-build", "installer")
COMPILE_STEP_NAMES = frozenset(prefix + name for prefix in (_INSIDE_BUILD, _INSIDE_RUN) for name in _COMPILE_STEPS)
"""The names of the compile's steps in the report; a step shorter than SLIVER_S did not compile."""
SLIVER_S = 0.1
_GROUPS = {
    "image build: packer build": "build",
    "power-on to ssh": "power",
    "probe-and-decide": "look",
    "pull-image": "pull",
    "activate-layer": "place",
    "run-container": "container",
}
LABELS = {
    "build": "rest of the image build",
    COMPILE: "compile the kernel module",
    "power": "power-on to ssh",
    "look": "look at the node and decide",
    "pull": "pull the driver image",
    "place": "activate the baked layer",
    "container": "driver container, without compile",
    "after": "load, check, start services",
}
"""Every group of bars, in the order of the legend."""


@dataclass(frozen=True)
class Bar:
    """One bar: its group (a key of LABELS), its start and its length, in the seconds of its clock."""

    group: str
    start_s: float
    seconds: float


@dataclass(frozen=True)
class Lane:
    """One node on one clock: its bars, without gaps between them."""

    node: str
    bars: tuple[Bar, ...]

    @property
    def seconds(self) -> float:
        """From the start of the first bar to the end of the last."""
        return sum(bar.seconds for bar in self.bars)

    @property
    def compile_s(self) -> float:
        """How much of that is the compile."""
        return sum(bar.seconds for bar in self.bars if bar.group == COMPILE)


def lane(node: dict[str, Any], kind: str) -> Lane:
    """A node of the report on the clock `kind` (native or emulated); neighbouring steps of one group become one bar.

    A container's steps are part of the step that ran the container. The rest of that step is drawn before them: the report does not say
    when it was, but nearly all of it is preparation (packages, the image, the container's start).
    """
    steps = [step for step in node["steps"] if step["kind"] == kind]
    prefix = _INSIDE_BUILD if kind == "native" else _INSIDE_RUN
    parts: list[tuple[str, float]] = []
    for place, step in enumerate(steps):
        if step["name"].startswith(prefix):
            continue
        group = _GROUPS.get(step["name"], "after")
        parts += _split(group, step["seconds"], _inside(steps[place + 1 :], prefix))
    return Lane(node["name"], _bars(parts))


def _inside(following: Sequence[dict[str, Any]], prefix: str) -> list[tuple[str, float]]:
    inside = []
    for step in following:
        if not step["name"].startswith(prefix):
            break
        inside.append((step["name"].removeprefix(prefix), float(step["seconds"])))
    return inside


def _split(group: str, seconds: float, inside: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    before = max(0.0, seconds - sum(took for _, took in inside))
    return [(group, before), *((COMPILE if name in _COMPILE_STEPS and took >= SLIVER_S else group, took) for name, took in inside)]


def _bars(parts: Sequence[tuple[str, float]]) -> tuple[Bar, ...]:
    bars: list[Bar] = []
    at = 0.0
    for group, seconds in parts:
        if bars and bars[-1].group == group:
            bars[-1] = Bar(group, bars[-1].start_s, round(bars[-1].seconds + seconds, 3))
        elif seconds:
            bars.append(Bar(group, round(at, 3), seconds))
        at += seconds
    return tuple(bars)


def headline(report: dict[str, Any]) -> str:
    """What the picture shows, in one sentence that follows from the figures alone."""
    compiled = [node["name"] for node in report["nodes"] if lane(node, "emulated").compile_s]
    baked = [node["name"] for node in report["nodes"] if lane(node, "native").bars]
    slow = [name for name in baked if name in compiled]
    if slow:
        return f"Baked, but compiled on the node nevertheless: {', '.join(slow)}"
    if not baked:
        return "No node was baked: each compiled the driver itself"
    return "Baked nodes boot without a compile: it was done once, in the image build"
