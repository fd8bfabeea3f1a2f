"""The timeline as SVG: for wide screens both clocks side by side, with a lane for each node; for narrow ones, one clock below the other.

The colours are Okabe and Ito's, which colour-blind readers can distinguish; light or dark follows the reader's system. Texts do not
overlap: captions are above their bars, and a figure inside a bar is left out where the bar is too short for it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lab.demo import timeline
from lab.demo.timeline import COMPILE, LABELS, Lane

_STYLE = """
.tl { --ground: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --panel: #f6f8fa; --build: #8c98a4; --compile: #d55e00;
  --power: #b6bfc9; --look: #f0c419; --pull: #cc79a7; --place: #9a86d6; --container: #56b4e9; --after: #009e73;
  font-family: system-ui, "DejaVu Sans", Arial, sans-serif }
@media (prefers-color-scheme: dark) { .tl { --ground: #0d1117; --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --panel: #161b22 } }
.tl text { fill: var(--ink); font-size: 13px } .tl .title { font-size: 18px; font-weight: 700 }
.tl .head { font-size: 14px; font-weight: 700 } .tl .name, .tl .loud { font-weight: 700 }
.tl .soft { fill: var(--soft); font-size: 12px } .tl .in { fill: #111; font-size: 12px; text-anchor: middle }
.tl .tick { fill: var(--soft); font-size: 11px; text-anchor: middle } .tl .grid { stroke: var(--line) }
.tl .edge { stroke: var(--ink); stroke-width: 1.5 }
"""
_CLOCKS = (
    ("native", "Image build, once", "native seconds"),
    ("emulated", "First boot of a node, power-on to ready", "emulated seconds, slower than a real node"),
)
NOTE = "Two clocks: never compare seconds of one with the other. The stand-in's compile is about a hundred times smaller than NVIDIA's."
"""What a reader must know to read the picture."""
_CHARACTER = 0.62  # width of a character in font sizes, generously
_BAR, _LANE, _HEAD = 26, 66, 56
_NAMES = 205
_EDGE = 20


@dataclass(frozen=True)
class _Panel:
    """One clock's part of the picture: its place, and how many seconds its width stands for."""

    x: float
    y: float
    width: float
    scale_s: float

    def at(self, seconds: float) -> float:
        """The x of a time in seconds."""
        return self.x + self.width * seconds / self.scale_s


def wide(report: dict[str, Any], titled: bool = True) -> str:
    """The picture for wide screens, 1000 units wide. Without `titled` it has no headline, for a page that shows the headline itself."""
    nodes, lanes = report["nodes"], _lanes(report)
    top, left, right = 52 if titled else 8, _EDGE + _NAMES, 580
    columns = ((left, right - 40 - left), (right, 1000 - _EDGE - right))
    body = [_text(_EDGE, 32, timeline.headline(report), "title")] if titled else []
    bottom = 0.0
    for (clock, title, unit), (x, width) in zip(_CLOCKS, columns, strict=True):
        panel = _Panel(x, top, width, _scale_s(lanes[clock]))
        drawn, bottom_of_it = _panel(panel, lanes[clock], title, unit, None)
        body += drawn
        bottom = max(bottom, bottom_of_it)
    for place, node in enumerate(nodes):
        y = top + _HEAD + place * _LANE
        said = (f"{_driver(node)} {node['module_version']}", f"{node['action']}, {node['result']}")
        body += [_text(_EDGE, y + 16, node["name"], "name"), *_lines(_EDGE, y + 32, said)]
    body += _lines(_EDGE, top + _HEAD + len(nodes) * _LANE + 28, textwrap.wrap(NOTE, 30))
    return _document(1000, bottom, body, report)


def narrow(report: dict[str, Any]) -> str:
    """The picture for a phone; 360 units wide."""
    lanes = _lanes(report)
    names = [node["name"] for node in report["nodes"]]
    y, body = 8.0, []
    for clock, title, unit in _CLOCKS:
        panel = _Panel(10, y, 340, _scale_s(lanes[clock]))
        drawn, y = _panel(panel, lanes[clock], title, unit, names)
        body += drawn
        y += 12
    said = textwrap.wrap(NOTE, 52)
    body += _lines(10, y + 4, said)
    return _document(360, y + 16 * len(said), body, report)


def _lanes(report: dict[str, Any]) -> dict[str, list[Lane]]:
    return {clock: [timeline.lane(node, clock) for node in report["nodes"]] for clock, _, _ in _CLOCKS}


def _scale_s(lanes: Sequence[Lane]) -> float:
    return max([lane.seconds for lane in lanes] + [1.0]) * 1.02


def _panel(panel: _Panel, lanes: Sequence[Lane], title: str, unit: str, names: Sequence[str] | None) -> tuple[list[str], float]:
    """One clock: its heading, axis, lanes and legend, and the y of its end. `names`, if there is no column for them, are written above
    the captions."""
    lane_height = _LANE + (16 if names else 0)
    axis = panel.y + _HEAD + lane_height * len(lanes) + 4
    size = f'width="{panel.width + 16:g}" height="{axis + 22 - panel.y:g}"'
    body = [
        f'<rect x="{panel.x - 8:g}" y="{panel.y:g}" {size} rx="6" fill="var(--panel)"/>',
        _text(panel.x, panel.y + 22, title, "head"),
        _text(panel.x, panel.y + 40, unit, "soft"),
        *(_text(min(x, panel.x + panel.width - 8), axis + 14, f"{tick} s", "tick") for tick, x in _ticks(panel)),
    ]
    for place, lane in enumerate(lanes):
        y = panel.y + _HEAD + place * lane_height
        if names:
            body.append(_text(panel.x, y + 12, names[place], "name"))
            y += 16
        body += _lane(panel, lane, y)
    groups = [group for group in LABELS if any(bar.group == group for lane in lanes for bar in lane.bars)]
    legend, bottom = _legend(panel, groups, axis + 44)
    return [*body, *legend], bottom


def _lane(panel: _Panel, lane: Lane, y: float) -> list[str]:
    if not lane.bars:
        return [_text(panel.x, y + 12, "not baked", "soft")]
    compiled = f"compile {_seconds(lane.compile_s)}" if lane.compile_s else "no compile"
    caption = f'{_seconds(lane.seconds)}, <tspan class="loud">{compiled}</tspan>'
    drawn = [f'<text x="{panel.x:g}" y="{y + 12:g}">{caption}</text>']
    drawn += [f'<line class="grid" x1="{x:.1f}" y1="{y + 17:g}" x2="{x:.1f}" y2="{y + 23 + _BAR:g}"/>' for _, x in _ticks(panel)]
    for bar in lane.bars:
        x, width = panel.at(bar.start_s), max(panel.at(bar.seconds) - panel.x, 1.0)
        edge = ' class="edge"' if bar.group == COMPILE else ""
        hint = f"<title>{escape(LABELS[bar.group])}: {_seconds(bar.seconds)}</title>"
        drawn.append(f'<rect x="{x:.1f}" y="{y + 20:g}" width="{width:.1f}" height="{_BAR}" fill="var(--{bar.group})"{edge}>{hint}</rect>')
    # Figures are drawn after all bars, so that no bar covers a figure.
    for bar in lane.bars:
        width = panel.at(bar.seconds) - panel.x
        figure = next((s for s in _figures(bar.group, bar.seconds) if len(s) * 12 * _CHARACTER + 6 < width), "")
        if figure:
            loud = " loud" if bar.group == COMPILE else ""
            drawn.append(_text(panel.at(bar.start_s) + width / 2, y + 20 + _BAR / 2 + 4, figure, f"in{loud}"))
    return drawn


def _figures(group: str, seconds: float) -> tuple[str, ...]:
    """The texts that may stand in a bar, longest first."""
    return (*((f"compile {_seconds(seconds)}",) if group == COMPILE else ()), _seconds(seconds), f"{seconds:.0f}")


def _ticks(panel: _Panel) -> list[tuple[int, float]]:
    """Round numbers of seconds, and the x of each."""
    step = next(s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 10000) if panel.scale_s / s <= panel.width / 55)
    return [(tick, panel.at(tick)) for tick in range(0, int(panel.scale_s) + 1, step)]


def _legend(panel: _Panel, groups: Sequence[str], y: float) -> tuple[list[str], float]:
    """Squares with names, in lines that fit the panel; and the y of its end."""
    drawn: list[str] = []
    x = panel.x
    for group in groups:
        width = 18 + len(LABELS[group]) * 12 * 0.56 + 14
        if x > panel.x and x + width > panel.x + panel.width + 8:
            x, y = panel.x, y + 20
        edge = ' class="edge"' if group == COMPILE else ""
        drawn.append(f'<rect x="{x:g}" y="{y - 10:g}" width="12" height="12" fill="var(--{group})"{edge}/>')
        drawn.append(_text(x + 18, y, LABELS[group], "soft"))
        x += width
    return drawn, y + 12


def _driver(node: dict[str, Any]) -> str:
    return "NVIDIA" if node["driver"] == "nvidia" else str(node["driver"])


def _lines(x: float, y: float, said: Sequence[str]) -> list[str]:
    return [_text(x, y + 16 * number, line, "soft") for number, line in enumerate(said)]


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def _document(width: float, height: float, body: Sequence[str], report: dict[str, Any]) -> str:
    description = "; ".join(
        f"{lane.node}, {clock}: {_seconds(lane.seconds)}, of which compile {_seconds(lane.compile_s)}"
        for clock, lanes in _lanes(report).items()
        for lane in lanes
        if lane.bars
    )
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tl" role="img" {size}>'
        f"<title>{escape(timeline.headline(report))}</title><desc>{escape(description)}</desc><style>{_STYLE}</style>"
        f'<rect width="{width:g}" height="{height:g}" fill="var(--ground)"/>{"".join(body)}</svg>\n'
    )
