"""The lab's errors: the text says what failed, where, and what to do."""

from __future__ import annotations


class LabError(Exception):
    """An error whose text is shown to the user without a traceback."""


class KernelPanicError(LabError):
    """A VM's serial log contains a kernel panic."""
