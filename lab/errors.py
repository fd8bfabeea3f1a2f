"""The lab's one error: its text says what failed, where, and what to do."""

from __future__ import annotations


class LabError(Exception):
    """Shown to the user as it is, without a traceback."""
