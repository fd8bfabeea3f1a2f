"""The errors of this library: each message says what is wrong, where, and what to do; each error has a code that never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class GpuNodeError(Exception):
    """Root of all errors that this library raises on purpose.

    ``code`` is for programs (docs/codes.md lists all codes), ``details`` is copied into reports unchanged.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.details: dict[str, Any] = dict(details or {})


class InputError(GpuNodeError):
    """The caller's input is invalid."""

    code = "bad_input"


class UnsupportedError(GpuNodeError):
    """The machine is of a kind on which this has not been tested; that is never reported as a success."""

    code = "unsupported"


class PreflightError(GpuNodeError):
    """Something that the work needs is missing; nothing has been changed."""

    code = "preflight"


class BusyError(GpuNodeError):
    """Another process is at work on the same thing; the message names it."""

    code = "busy"


class DataError(GpuNodeError):
    """A file of ours or of a driver container cannot be read, or its contents are invalid."""

    code = "bad_data"


class CommandError(GpuNodeError):
    """A program failed, is missing or took too long."""

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
    """The deadline for the whole run has passed."""

    code = "deadline"


class ImageError(GpuNodeError):
    """The driver image is missing and cannot be fetched, or is not the expected one."""

    code = "image"


class BuildError(GpuNodeError):
    """The driver container did not produce what was asked for."""

    code = "build_failed"


class LayerError(GpuNodeError):
    """A layer cannot be activated, deactivated or discarded; nothing has been changed, or everything was rolled back."""

    code = "layer"


class BootError(GpuNodeError):
    """The node has no working driver, after everything that the policy allows was tried."""

    code = "boot_failed"


class InterruptedRunError(GpuNodeError):
    """The run was stopped from outside."""

    code = "interrupted"


class SealError(GpuNodeError):
    """A finished image is not what it is meant to be, and must not be shipped."""

    code = "seal_refused"
