"""The demo's report as text: tables for a terminal of what each node did and why, and where its time went, with conclusions."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_SHORTEST_S = 0.05
_FACTS = (
    ("driver", "driver"),
    ("kernel", "kernel"),
    ("action", "action"),
    ("reason code", "reason_code"),
    ("reason", "reason"),
    ("result", "result"),
    ("device check", "device_check"),
    ("module loaded", "module_loaded"),
    ("module version", "module_version"),
    ("bound to", "bound"),
    ("containerd restarted", "containerd_restarted"),
)
_COMPILE = ("dkms-build", "installer")


def show(report: dict[str, Any]) -> None:
    """Prints the report. Each time is native or emulated, and only times of one kind are compared."""
    nodes = report["nodes"]
    console = Console(width=None if Console().is_terminal else 150, highlight=False)
    console.print(_facts(nodes))
    console.print(_times(nodes))
    for line in conclusions(nodes):
        console.print(line, markup=False)


def _facts(nodes: list[dict[str, Any]]) -> Table:
    table = _table("What each node did, and why", nodes)
    for title, cells in facts(nodes):
        table.add_row(title, *cells)
    return table


def facts(nodes: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The rows of the table of nodes: a title, and a text for each node."""
    rows = [(title, [_text(node[key]) for node in nodes]) for title, key in _FACTS]
    rows.insert(1, ("the image", [node["seal"] or "not baked" for node in nodes]))
    rows.append(("the driver says", [_first_line(node["driver_says"]) for node in nodes]))
    rows.append(("the GPU says", [_first_line(node["gpu_says"]) for node in nodes]))
    return rows


def _times(nodes: list[dict[str, Any]]) -> Table:
    table = _table("Where the time went, in seconds (N native, E emulated; steps below 0.05 s are left out)", nodes)
    for name in merged([[step["name"] for step in node["steps"]] for node in nodes]):
        found = [next((s for s in node["steps"] if s["name"] == name), None) for node in nodes]
        if any(step and step["seconds"] >= _SHORTEST_S for step in found):
            table.add_row(name, *(f"{s['seconds']:8.2f} {s['kind'][0].upper()}" if s else "" for s in found))
    return table


def merged(sequences: list[list[str]]) -> list[str]:
    """Each name once, after those that came before it in its own sequence."""
    names: list[str] = []
    for sequence in sequences:
        place = 0
        for name in sequence:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return names


def conclusions(nodes: list[dict[str, Any]]) -> list[str]:
    """What the figures show, in sentences."""
    sentences = []
    for node in nodes:
        native = [s for s in node["steps"] if s["kind"] == "native" and s["name"].rsplit(": ", 1)[-1] in _COMPILE]
        if native:
            seconds = sum(s["seconds"] for s in native)
            sentences.append(
                f"{node['name']}: compiled in the image build, {seconds:.1f} s native ({node['baked_at']}); not compiled on the node."
            )
    by_name = {node["name"]: _boot_s(node) for node in nodes}
    fast, slow = by_name.get("baked-stand-in"), by_name.get("never-baked-stand-in")
    if fast and slow:
        sentences.append(
            f"Stand-in, from ssh to ready, emulated: baked {fast:.1f} s, never baked {slow:.1f} s, {slow / fast:.1f} times as long; "
            "the stand-in's compile is about a hundred times smaller than NVIDIA's."
        )
    return sentences


def _boot_s(node: dict[str, Any]) -> float:
    skipped = ("power-on to ssh",)
    return sum(
        float(s["seconds"])
        for s in node["steps"]
        if s["kind"] == "emulated" and s["name"] not in skipped and not s["name"].startswith("container: ")
    )


def _table(title: str, nodes: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for node in nodes:
        table.add_column(node["name"], overflow="fold")
    return table


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _first_line(text: str) -> str:
    return " ".join(text.splitlines()[0].split()) if text else ""
