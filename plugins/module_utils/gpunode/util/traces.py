"""Tells the trace lines of a shell (``set -x``) from what its commands print. A trace quotes its command, so it may contain the words of an
error that did not happen."""

from __future__ import annotations

from .expressions import expression

# What bash prints before a traced command is PS4, its first character once for each level: "+ ", "++ ", also with a time or a place behind
# it, "+[12:00:00] " or "+(install.sh:7): ", or with a time before it, "[2026-06-01T12:00:00] + ".
_TRACE = expression(r"\++(?:$|[ \t\[(]|\d[\d:.,TZ-]{6})|[\[(]*\d[\d:.,TZ/ -]{6,40}(?:\+\d\d:?\d\d)?[\])]*:? ?\++ ")
_BEGINS = frozenset("+[(0123456789")
_AT_ONCE = 200  # characters in which all that is before the command ends


def is_trace(line: str) -> bool:
    """Whether a line is a trace."""
    return line[:1] in _BEGINS and bool(_TRACE.match(line[:_AT_ONCE]))


def without_traces(text: str) -> str:
    """``text`` without its traces."""
    return "\n".join(line for line in text.split("\n") if not is_trace(line))
