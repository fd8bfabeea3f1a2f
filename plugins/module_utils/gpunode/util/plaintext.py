"""Texts that somebody else wrote, such as a program, a container or a node, made safe to show and to keep: the only place that does it.

A terminal obeys control sequences; bidi characters show a text in another order than it has; a lone surrogate cannot be written to a file.
The program on the controller reads this file too (src/gpu_prebake/plaintext.py is a link to it), so it imports nothing of ours.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

LONGEST = 8192
"""A longer line is cut to this many characters before anything else looks at it."""
DEEPEST = 32
"""Data that is nested more deeply is left out."""

_CUT = "..."
# What is 7-bit begins with an escape character, what is 8-bit with one of the C1 controls.
_SEQUENCES = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[@-Z\\-_]"
# Controls without the tab, Unicode's bidi controls and line separators, lone surrogates.
_UNSAFE = r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


@functools.cache
def _compiled() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compiled on first use: a node's look takes less time than that."""
    return re.compile(_SEQUENCES), re.compile(_UNSAFE)


def clean(line: str) -> str:
    """One line, without its end, at most LONGEST characters of it: terminal sequences are dropped, other unsafe characters become ``?``."""
    line = line.rstrip("\r\n")
    if len(line) > LONGEST:
        line = line[: LONGEST - len(_CUT)] + _CUT
    if line.isascii() and line.isprintable():
        return line
    sequences, unsafe = _compiled()
    return unsafe.sub("?", sequences.sub("", line))


def clean_text(text: str) -> str:
    """Several lines, each as ``clean`` returns it."""
    return "\n".join(map(clean, text.split("\n")))


def clean_data(value: Any, depth: int = 0) -> Any:
    """Data of JSON's types: every text and key as ``clean_text`` returns it, and no number that JSON does not have."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if depth >= DEEPEST:
        return _CUT
    if isinstance(value, Mapping):
        return {clean(str(key)): clean_data(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_data(item, depth + 1) for item in value]
    return clean_text(str(value))
