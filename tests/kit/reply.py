"""How a fake program or a driver container ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.kit.node import FakeNode

KILLED = 1e6  # seconds; more than any limit allows


@dataclass(frozen=True)
class Reply:
    """Exit status, output and duration; a program that takes longer than its limit is killed there."""

    rc: int = 0
    out: str = ""
    err: str = ""
    seconds: float = 0.0


Program = Callable[["FakeNode", list[str]], Reply]  # gets the words after the program's name
Script = Callable[["FakeNode", str], Reply]  # what one run of a driver container does; gets the action
