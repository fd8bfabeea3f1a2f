"""Writes the rows as a table for the terminal and as build/bench/report.json (see docs/bench.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.rows import Row

SCHEMA = 2


def document(rows: Sequence[Row], machine: str, load: Sequence[float]) -> dict[str, Any]:
    """The report. `load` is the machine's load average before the first benchmark and after each. `ratio` is a row's value divided by the
    value of the row that it is compared with. Raises ValueError for a name that occurs twice or does not exist."""
    by_name = {row.name: row for row in rows}
    if len(by_name) != len(rows):
        raise ValueError("two rows have the same name")
    each = [{**asdict(row), "kept": row.kept, "ratio": _ratio(row, by_name)} for row in rows]
    return {"schema": SCHEMA, "machine": machine, "load": [round(value, 1) for value in load], "rows": each}


def _ratio(row: Row, by_name: dict[str, Row]) -> float | None:
    if row.compared_with is None:
        return None
    other = by_name.get(row.compared_with)
    if other is None or (other.unit, other.clock) != (row.unit, row.clock):
        raise ValueError(f"{row.name}: there is no row {row.compared_with!r} of the same unit and clock to compare it with")
    return round(row.value / other.value, 3)


def write(report: dict[str, Any], folder: Path) -> Path:
    """Writes report.json into `folder` and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def table(report: dict[str, Any]) -> Table:
    """The rows as a table for people."""
    load = ", ".join(f"{value:g}" for value in report["load"])
    shown = Table(title=f"Benchmarks, medians ({report['machine']}; load average {load})", title_justify="left")
    for title, justify in (("what", "left"), ("median", "right"), ("fastest to slowest", "right"), ("runs", "right"), ("clock", "left")):
        shown.add_column(title, justify=justify)  # type: ignore[arg-type]
    shown.add_column("budget", justify="right")
    shown.add_column("compared with", justify="left")
    for row in report["rows"]:
        unit = row["unit"]
        shown.add_row(
            row["name"],
            f"{row['value']:.2f} {unit}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            str(row["runs"]),
            row["clock"] + (f", of {row['made']}" if row["made"] else ""),
            _budget(row),
            f"{row['ratio']:.2f} of: {row['compared_with']}" if row["ratio"] is not None else "",
        )
    return shown


def _budget(row: dict[str, Any]) -> str:
    if row["budget"] is None:
        return ""
    return f"{row['budget']:g} {row['unit']}: " + ("kept" if row["kept"] else "[bold red]missed[/]")


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    Console(width=None if Console().is_terminal else 170, highlight=False).print(table(report))
