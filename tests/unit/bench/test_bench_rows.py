"""The rows of layers and of a bake, from invented figures: unique names, every comparison present, budgets on the right rows."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from bench import bake, layer, report
from bench.ground import Ground

REPORT = {
    "steps": [
        {"name": name, "seconds": seconds} for name, seconds in (("open-sandbox", 0.5), ("build", 80.0), ("capture", 1.0), ("store", 1.5))
    ]
}


class _Ground:
    """Takes the place of a node; all work takes 0.15 s."""

    kver = "6.1.0-1-amd64"

    def python(self, _module: str, what: str, _runs: str, *words: str) -> dict[str, Any]:
        files, size = (int(words[1]), int(words[2]) * 10**6) if what != "stored" else (501, 333 * 10**6)
        return {"files": files, "bytes": size, "copied": 10**7, "seconds": defaultdict(lambda: [0.15])}


def test_rows_of_layers_and_of_the_bake_form_one_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_kernels", lambda ground: [ground.kver, "6.12.0-1-amd64"])
    monkeypatch.setattr(layer, "_name_of", lambda ground: "a layer")
    ground: Ground = _Ground()  # type: ignore[assignment]
    rows = [*layer.bench(ground), *bake.overhead(REPORT, 120.0, ""), *layer.stored(ground, "NVIDIA's layer", "nvidia", layer.NVIDIAS_MS)]
    found = {row["name"]: row for row in report.document(rows, "here", [])["rows"]}
    assert {name: row["budget"] for name, row in found.items() if "activate" in name and row["kept"]} == {
        "activate 500 files, 500 MB, without hashing": 200,
        "activate the stand-in's layer (501 files, 333 MB, 10 MB of it copied), without hashing": 200,
        "deactivate the stand-in's layer": 200,
        "activate NVIDIA's layer (501 files, 333 MB, 10 MB of it copied), without hashing": 250,
        "deactivate NVIDIA's layer": 250,
    }
    assert found["activate 5000 files, 500 MB, without hashing"]["ratio"] == 1.0


def test_everything_but_the_build_counts_as_overhead_of_the_bake() -> None:
    build, added, packer = report.document(bake.overhead(REPORT, 120.0, "2026-06-01 12:00"), "here", [])["rows"]
    assert (build["value"], added["value"], packer["value"]) == (80.0, 3.0, 120.0)
    assert (added["budget"], added["kept"], added["compared_with"]) == (4.0, True, build["name"])
    assert {found["made"] for found in (build, added, packer)} == {"2026-06-01 12:00"}
