"""The demo's page: complete, escaped, and without anything from elsewhere. tests/page checks in a browser how it looks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.demo import demo, demopage, picture
from lab.machine import paths


@pytest.fixture
def report() -> dict[str, Any]:
    """The report of a real run."""
    return dict(json.loads((paths.TOP / "tests/data/demo/report.json").read_text()))


def test_the_page_shows_what_each_node_did_and_why(report: dict[str, Any]) -> None:
    page = demopage.render(report)
    for node in report["nodes"]:
        for key in ("name", "action", "reason_code", "reason", "result", "module_version"):
            assert node[key] in page
    assert page.count('class="warn"') == 1
    assert page.count("<tr class=") == sum(len(node["steps"]) for node in report["nodes"])
    (compile_s,) = [step["seconds"] for step in report["nodes"][0]["steps"] if step["name"] == "image build: container: dkms-build"]
    assert f"{compile_s:.2f}</td>" in page
    assert "1.6.6" in page


def test_the_page_loads_nothing_and_runs_nothing(report: dict[str, Any]) -> None:
    page = demopage.render(report)
    assert re.findall(r"<script|<link[^>]+stylesheet|@import|url\(", page) == []
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"data:,"}
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}


def test_texts_that_come_from_a_node_are_escaped(report: dict[str, Any]) -> None:
    report["nodes"][0]["warnings"] = ["<script>alert(1)</script>"]
    report["nodes"][0]["name"] = "<b>node</b>"
    page = demopage.render(report)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_demo_writes_report_picture_and_page(report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = iter(report["nodes"])
    monkeypatch.setattr(demo.session, "reexec", lambda argv: None)
    monkeypatch.setattr(demo, "OUT", tmp_path / "demo")
    monkeypatch.setattr(demo, "run", lambda node: next(nodes))
    monkeypatch.setattr(demo, "versions", lambda: report["versions"])
    assert demo.main() == 0
    written = json.loads((tmp_path / "demo/report.json").read_text())
    assert written.keys() == report.keys()
    assert [node["name"] for node in written["nodes"]] == [node.name for node in demo.NODES]
    assert (tmp_path / "demo/timeline.svg").read_text() == picture.wide(written)
    assert (tmp_path / "demo/report.html").read_text() == demopage.render(written)
