"""The lines of the kernel's log that NVIDIA's driver, or the kernel about its modules, wrote. Pure.

Any user can cause a line that contains a text of his: an oom-kill names his cgroup, a crash his program and the file it crashed in. So a
text counts only where the driver writes it: at the beginning of a message, in a form that begins with more than the fifteen characters of
a process's name (TASK_COMM_LEN), with which the kernel begins such a message. A message of several lines, as a file name can make one,
counts if its first line does.

Formats: dmesg(1); the driver's messages, in the sources of its open kernel modules.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..util.bounded import lines
from ..util.expressions import expression

_LONGEST = 1024  # what the kernel keeps of a line (LOG_LINE_MAX)
# The time, and with CONFIG_PRINTK_CALLER the thread or the processor.
_STAMP = expression(r"\[ *[0-9]+\.[0-9]+\](?:\[ *[TC][0-9]+\])? ")
_NVRM = expression(
    r"NVRM: (?:GPU [0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f.]{1,6}: |Xid \([0-9A-Za-z:. -]{1,64}\): [0-9]"
    r"|The NVIDIA (?:GPU|probe)|None of the NVIDIA devices|No NVIDIA GPU found|RmInitAdapter failed|installed in this system )"
)
_MODULE = expression(r"nvidia[a-z_]*: (?:Unknown symbol |disagrees about version of symbol |module verification failed: )")


def message(line: str) -> str:
    """A line without the time that begins it."""
    match = _STAMP.match(line)
    return line[match.end() :] if match else line


def of_driver(log: str) -> str:
    """The driver's own lines, without their times."""
    return "\n".join(line for line in _messages(log) if _NVRM.match(line))


def of_modules(log: str) -> str:
    """The kernel's lines about the driver's modules, without their times."""
    return "\n".join(line for line in _messages(log) if _MODULE.match(line))


def _messages(log: str) -> Iterator[str]:
    """Each line's message. Where lines have times, one without a time continues the message before it, and counts only if that is the
    driver's."""
    has_times = any(map(_STAMP.match, lines(log, 64)))
    is_drivers = False
    for line in lines(log, _LONGEST):
        begins = not has_times or _STAMP.match(line) is not None
        text = message(line) if begins else line.lstrip(" ")
        if begins:
            is_drivers = _NVRM.match(text) is not None
        if begins or is_drivers:
            yield text
