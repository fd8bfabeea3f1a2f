"""The lab's errors: the text says what failed, where, and what to do."""

from __future__ import annotations


class LabError(Exception):
    """Shown to the user as it is, without a traceback."""


class KernelPanicError(LabError):
    """A VM's serial log holds a kernel panic."""
