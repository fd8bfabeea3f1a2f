"""The lines of the kernel's log that NVIDIA's driver, or the kernel about its modules, wrote. Pure.

Any user can cause a line that contains a text of his: an oom-kill names his cgroup, a crash his program and the file it crashed in. So a
text counts only where the driver writes it: at the beginning of a message, in a form that begins with more than the fifteen characters of
a process's name (TASK_COMM_LEN), with which the kernel begins such a message. A message of several lines, as a file name can make one,
counts if its first line does.

Formats: dmesg(1); the driver's messages, in the sources of its open kernel modules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from ..util.bounded import lines
from ..util.expressions import expression

_LONGEST = 1024  # what the kernel keeps of a line (LOG_LINE_MAX)
_LONGEST_RECORD = 4 * _LONGEST
# The time, and with CONFIG_PRINTK_CALLER the thread or the processor.
_STAMP = expression(r"\[ *[0-9]+\.[0-9]+\](?:\[ *[TC][0-9]+\])? ")
_NVRM = expression(
    r"NVRM: (?:GPU [0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f.]{1,6}: |Xid \([0-9A-Za-z:. -]{1,64}\): [0-9]"
    r"|The NVIDIA (?:GPU|probe)|None of the NVIDIA devices|No NVIDIA (?:GPU found|devices probed|graphics adapter)|RmInitAdapter failed"
    r"|This PCI I/O region assigned |installed in this (?:vGPU host )?system )"
)
# How the second and further lines of a message begin, where each has a time of its own or none has one.
_GOES_ON = expression(
    r"NVRM: (?:installed in this (?:vGPU host )?system |NVIDIA (?:[A-Za-z]+ )?[0-9.]{1,20} driver release|NVIDIA Linux driver release"
    r"|nvidia\.ko because it does not |proprietary nvidia\.ko |System Processor \(GSP\)|BAR[0-9] is [0-9]{1,9}M @ 0x)"
)
_MODULE = expression(r"nvidia[a-z_]*: (?:Unknown symbol |disagrees about version of symbol |module verification failed: )")


def message(line: str) -> str:
    """A line without the time that begins it."""
    match = _STAMP.match(line)
    return line[match.end() :] if match else line


def records(log: str) -> tuple[str, ...]:
    """The driver's own messages, without their times. One of several lines is put together to one, because its parts say nothing by
    themselves: "installed in this system is not supported by the", "NVIDIA 550.90.07 driver release"."""
    found: list[str] = []
    for line in _lines(log):
        if line.is_drivers and line.begins:
            found.append(line.text)
        elif line.is_drivers and len(found[-1]) < _LONGEST_RECORD:
            found[-1] += f" {line.text.removeprefix('NVRM: ')}"
    return tuple(found)


def without(log: str, slots: Collection[str]) -> str:
    """The log without the messages, of one line or several, that name one of the PCI addresses ``slots``."""
    messages: list[list[str]] = []
    for whole, line in zip(log.split("\n"), _lines(log)):
        if line.begins or not messages:
            messages.append([])
        messages[-1].append(whole)
    return "\n".join(line for one in messages if not any(slot in line for slot in slots for line in one) for line in one)


def of_modules(log: str) -> str:
    """The kernel's lines about the driver's modules, without their times."""
    return "\n".join(line.text for line in _lines(log) if line.begins and _MODULE.match(line.text))


class _Line(NamedTuple):
    """``begins``: a message begins with it. ``is_drivers``: it belongs to a message of the driver. ``text``: without its time."""

    begins: bool
    is_drivers: bool
    text: str


def _lines(log: str) -> Iterator[_Line]:
    """Where lines have times, one without a time goes on with the message before it, and is the driver's only if that is."""
    has_times = any(map(_STAMP.match, lines(log, 64)))
    is_drivers = False
    for line in lines(log, _LONGEST):
        has_begun = not has_times or _STAMP.match(line) is not None
        text = message(line) if has_begun else line.lstrip(" ")
        goes_on = not has_begun or (is_drivers and _GOES_ON.match(text) is not None)
        if not goes_on:
            is_drivers = _NVRM.match(text) is not None
        yield _Line(not goes_on, is_drivers, text)
