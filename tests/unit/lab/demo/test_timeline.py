"""The demo's timeline: bars that add up, and a headline that claims no more than the figures show."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from lab.demo import picture, timeline
from lab.demo.timeline import Bar


def step(name: str, seconds: float, kind: str = "emulated") -> dict[str, Any]:
    return {"name": name, "seconds": seconds, "kind": kind}


NODE_STEPS = [
    step("power-on to ssh", 14.0),
    step("probe-and-decide", 1.0),
    step("run-container", 50.0),
    step("container: copied", 2.0),
    step("container: dkms-build", 30.0),
    step("container: installer", 0.02),
    step("container: toolkit", 8.0),
    step("load-modules", 0.5),
    step("write-record", 0.5),
]
BUILD_STEPS = [
    step("image build: packer build", 10.0, "native"),
    step("image build: container: dkms-build", 6.0, "native"),
    step("image build: container: marker", 1.0, "native"),
]


def node(name: str, *steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "driver": "stand-in",
        "module_version": "580.126.09",
        "action": "install",
        "result": "compiled",
        "steps": list(steps),
        **fields,
    }


def test_bars_of_a_boot_follow_each_other_and_the_compile_has_its_own() -> None:
    lane = timeline.lane(node("n", *BUILD_STEPS, *NODE_STEPS), "emulated")
    assert lane.bars == (
        Bar("power", 0.0, 14.0),
        Bar("look", 14.0, 1.0),
        Bar("container", 15.0, 11.98),
        Bar("compile", 26.98, 30.0),
        Bar("container", 56.98, 8.02),
        Bar("after", 65.0, 1.0),
    )
    assert (lane.seconds, lane.compile_s) == (pytest.approx(66.0), 30.0)


def test_bars_of_an_image_build_are_on_the_other_clock() -> None:
    lane = timeline.lane(node("n", *BUILD_STEPS, *NODE_STEPS), "native")
    assert lane.bars == (Bar("build", 0.0, 3.0), Bar("compile", 3.0, 6.0), Bar("build", 9.0, 1.0))


def test_a_node_that_was_not_baked_has_no_bar_on_the_native_clock() -> None:
    assert timeline.lane(node("n", *NODE_STEPS), "native").bars == ()


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        pytest.param(
            [node("baked", *BUILD_STEPS, NODE_STEPS[0]), node("never", *NODE_STEPS)],
            "Baked nodes boot without a compile",
            id="as-it-should-be",
        ),
        pytest.param(
            [node("baked", *BUILD_STEPS, *NODE_STEPS)], "Baked, but compiled on the node nevertheless: baked", id="compiled-twice"
        ),
        pytest.param([node("never", *NODE_STEPS)], "No node was baked", id="none-baked"),
    ],
)
def test_the_headline_claims_only_what_the_steps_show(nodes: list[dict[str, Any]], said: str) -> None:
    assert timeline.headline({"nodes": nodes}).startswith(said)


@pytest.mark.parametrize("draw", [picture.wide, picture.narrow])
def test_the_picture_has_every_node_every_bar_and_escapes_names(draw: Any) -> None:
    nodes = [node("a<b", *BUILD_STEPS, *NODE_STEPS), node("never", *NODE_STEPS)]
    drawn = ET.fromstring(draw({"nodes": nodes}))
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(text.itertext()) for text in drawn.iter(f"{space}text")]
    assert {"a<b", "never", "not baked", "10 s, compile 6.0 s", "66 s, compile 30 s"} <= set(texts)
    hints = [hint.text for rect in drawn.iter(f"{space}rect") for hint in rect.iter(f"{space}title")]
    assert hints.count("compile the kernel module: 30 s") == 2
    assert len(hints) == 3 + 6 + 6
