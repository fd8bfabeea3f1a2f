"""A node with a GPU that nothing manages: a captured driver does not load itself, one that is baked in place does."""

from __future__ import annotations

from lab.builds import bakedimage
from tests.compare.comparison import note
from tests.compare.nodes import Managed

_SILENT = ("modules", "kernel_log", "devices", "answers", "initramfs", "failed")


def test_a_captured_driver_does_not_load_itself(image: str, managed: dict[str, Managed]) -> None:
    alone = managed[bakedimage.CAPTURED].alone
    assert len(alone["gpus"].split()) == 1, "the GPU must be on the bus"
    assert {name: alone[name] for name in _SILENT} == dict.fromkeys(_SILENT, "")
    note([f"{image}: captured, booted with a GPU and left alone: nothing in {', '.join(_SILENT)}"])


def test_a_driver_that_is_baked_in_place_loads_itself(image: str, managed: dict[str, Managed]) -> None:
    alone = managed[bakedimage.IN_PLACE].alone
    assert len(alone["gpus"].split()) == 1
    assert "nvidia" in alone["modules"].split()
    assert "NVRM" in alone["kernel_log"]
    assert "nvidia" in alone["answers"].split()
    note([f"{image}: in place, booted with a GPU and left alone: loaded {' '.join(alone['modules'].split())}"])
