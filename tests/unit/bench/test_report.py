"""The format of the benchmarks' report. No test asserts a time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bench import report
from bench.rows import EMULATED, Row, interleaved, row

ONE = row("one call", [3.0, 1.0, 2.0], "s", compared_with="ten tasks")
TEN = row("ten tasks", [8.0, 8.0, 9.0], "s")
FACTS = row("facts", [0.05, 0.25, 0.07], budget=60)
KEPT = row("decision", [0.001], budget=5, made="2026-06-01 12:00")
LOAD = [0.04, 1.25]


def test_each_row_has_name_value_unit_budget_and_comparison(tmp_path: Path) -> None:
    written = json.loads(report.write(report.document([ONE, TEN, FACTS], "here", LOAD), tmp_path).read_text())
    assert (written["schema"], written["machine"], written["load"]) == (2, "here", [0.0, 1.2])
    assert written["rows"][0] == {
        "name": "one call",
        "value": 2.0,
        "unit": "s",
        "low": 1.0,
        "high": 3.0,
        "runs": 3,
        "clock": "native, warm",
        "budget": None,
        "compared_with": "ten tasks",
        "made": "",
        "kept": None,
        "ratio": 0.25,
    }
    assert [r["ratio"] for r in written["rows"]] == [0.25, None, None]
    facts = written["rows"][2]
    assert (facts["value"], facts["unit"], facts["budget"], facts["kept"]) == (70.0, "ms", 60, False)


def test_only_native_warm_rows_have_a_budget() -> None:
    with pytest.raises(ValueError, match="native warm rows only, this one is emulated"):
        row("facts", [0.1], clock=EMULATED, budget=100)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([], id="missing"),
        pytest.param([row("ten tasks", [8.0], "ms")], id="other-unit"),
        pytest.param([row("ten tasks", [8.0], "s", clock=EMULATED)], id="other-clock"),
    ],
)
def test_a_ratio_needs_a_row_of_the_same_unit_and_clock(other: list[Row]) -> None:
    with pytest.raises(ValueError, match="no row 'ten tasks'"):
        report.document([ONE, *other], "here", LOAD)


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two rows"):
        report.document([TEN, TEN], "here", LOAD)


def test_works_take_turns_and_the_first_turn_is_not_counted() -> None:
    order: list[str] = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=2)
    assert order == ["a", "b"] * 3
    assert [len(taken) for taken in seconds.values()] == [2, 2]


def test_the_table_says_which_budget_was_missed() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(report.table(report.document([ONE, TEN, FACTS, KEPT], "here", LOAD)))
    line = next(line for line in out.getvalue().splitlines() if "facts" in line)
    assert "60 ms: missed" in line
    line = next(line for line in out.getvalue().splitlines() if "decision" in line)
    assert "5 ms: kept" in line
    assert "of 2026-06-01 12:00" in line
    assert "0.25 of: ten tasks" in out.getvalue()
