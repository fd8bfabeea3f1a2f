"""The errors of this library: each says what is wrong, where, and what to do, and carries a code that never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class GpuNodeError(Exception):
    """Root of all errors that this library raises on purpose.

    ``code`` is for programs (documented in docs/codes.md), ``details`` goes into reports as it is.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.details: dict[str, Any] = dict(details or {})


class InputError(GpuNodeError):
    """What the caller asked for cannot be meant."""

    code = "bad_input"


class UnsupportedError(GpuNodeError):
    """The machine is of a kind on which this has not been tested; an answer of its own, never a success."""

    code = "unsupported"


class PreflightError(GpuNodeError):
    """Something is missing before the work may begin; nothing has been changed."""

    code = "preflight"


class BusyError(GpuNodeError):
    """Somebody else is at it; the message names who."""

    code = "busy"


class DataError(GpuNodeError):
    """A file of ours or of a driver container cannot be read as what it should be."""

    code = "bad_data"


class CommandError(GpuNodeError):
    """A program failed, was missing or took too long."""

    code = "command_failed"

    def __init__(self, argv: Sequence[str], rc: int | None, output: str, reason: str, timed_out: bool = False) -> None:
        tail = output.strip()[-2000:]
        super().__init__(
            f"{' '.join(argv)}: {reason}{': ' + tail if tail else ''}",
            details={"argv": list(argv), "rc": rc, "output": tail},
        )
        self.argv = list(argv)
        self.rc = rc
        self.output = output
        self.timed_out = timed_out


class DeadlineError(GpuNodeError):
    """The one deadline for everything has passed."""

    code = "deadline"


class ImageError(GpuNodeError):
    """The driver image is not there and cannot be fetched, or is not what it should be."""

    code = "image"


class BuildError(GpuNodeError):
    """The driver container did not leave what was asked for."""

    code = "build_failed"


class LayerError(GpuNodeError):
    """A layer cannot be put in place, taken away or dropped; nothing has been changed, or all of it was taken back."""

    code = "layer"


class BootError(GpuNodeError):
    """The node has no working driver after all that was allowed has been tried."""

    code = "boot_failed"


class InterruptedRunError(GpuNodeError):
    """The run was told to stop from outside."""

    code = "interrupted"


class SealError(GpuNodeError):
    """A finished image is not what it is said to be, and must not ship."""

    code = "seal_refused"
