"""The demo's report in the terminal: the order of its steps, and its conclusions."""

from __future__ import annotations

from typing import Any

from lab.demo import demoreport


def node(name: str, *steps: tuple[str, float, str]) -> dict[str, Any]:
    return {"name": name, "baked_at": "today", "steps": [{"name": n, "seconds": s, "kind": k} for n, s, k in steps]}


def test_steps_of_all_nodes_are_in_the_order_in_which_they_happened() -> None:
    assert demoreport.merged([["boot", "run", "load"], ["boot", "pull", "run", "compile", "load", "end"]]) == [
        "boot",
        "pull",
        "run",
        "compile",
        "load",
        "end",
    ]


def test_only_times_of_one_kind_are_compared() -> None:
    nodes = [
        node(
            "baked-stand-in",
            ("image build: container: dkms-build", 2.0, "native"),
            ("power-on to ssh", 14.0, "emulated"),
            ("run", 20.0, "emulated"),
        ),
        node("never-baked-stand-in", ("power-on to ssh", 14.0, "emulated"), ("run", 60.0, "emulated"), ("container: x", 50.0, "emulated")),
    ]
    said = demoreport.conclusions(nodes)
    assert "2.0 s native" in said[0]
    assert "baked 20.0 s, never baked 60.0 s, 3.0 times" in said[1]
