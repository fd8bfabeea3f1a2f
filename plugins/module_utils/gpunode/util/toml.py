"""TOML 1.0 (https://toml.io/en/v1.0.0) that others wrote, bounded in size and depth: the only place that parses it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

LARGEST = 1 << 18  # characters; containerd's whole configuration has about ten thousand
_MAX_DEPTH = 32  # containerd's configuration has seven levels
# Of one line. The parser takes the square of the number of a key's parts, and a key does not go on over the end of a line.
_MAX_DOTS = 250
_MAX_INTEGER = 2**63  # larger ones are no TOML


def parse(text: str) -> dict[str, Any]:
    """The table that a document holds. Raises ValueError if it is not TOML, or is larger or nested deeper than any that we need."""
    if len(text) > LARGEST:
        raise ValueError(f"it is longer than {LARGEST} characters")
    if any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
        raise ValueError(f"a line has more than {_MAX_DOTS} dots")
    try:
        value = _parsed(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [value]
    for _depth in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _parsed(text: str) -> dict[str, Any]:
    """Either parser is imported here: a run that reads no TOML does not wait for it."""
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415

        return tomllib.loads(text)
    from .tomli import loads  # noqa: PLC0415

    return loads(text)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise ValueError("a number has more than 64 bits")
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
