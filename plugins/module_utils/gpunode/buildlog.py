"""What a failed build says: the first compiler error, and whether trying again can help (B6, B12). Pure functions of text."""

from __future__ import annotations

import re

_COMPILER_ERROR = re.compile(
    r"^.*?(?:[\w./+-]+:\d+(?::\d+)?: (?:fatal )?error: .*|\bld(?:\.\w+)?: .*error.*|undefined reference to .*)$", re.M
)
_MODPOST_ERROR = re.compile(r"^ERROR: modpost: .*$", re.M)
_MAKE_ERROR = re.compile(r"^make(?:\[\d+\])?: \*\*\* .*$", re.M)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded", re.I)
# Failures of the network or of somebody else's lock: the next try may find them gone. All else is the same again (B12).
_TRANSIENT = re.compile(
    r"Could not get lock|Temporary failure|Connection (?:refused|reset|timed out)|Resource temporarily unavailable|TLS handshake timeout",
    re.I,
)
# What the contract's cp says of a library that the build has deleted: an overlay refuses the mark that stands for it.
_WHITEOUT = re.compile(r"cannot create special file '[^']*?([^'/]+)': Operation not permitted")


def first_error(*texts: str | None) -> str | None:
    """The first compiler, modpost or make error in the texts, in that order of preference; None where there is none."""
    for pattern in (_COMPILER_ERROR, _MODPOST_ERROR, _MAKE_ERROR):
        for text in texts:
            match = pattern.search(text or "")
            if match:
                return match[0].strip()
    return None


def is_out_of_space(*texts: str | None) -> bool:
    """Whether a filesystem was full."""
    return any(_NO_SPACE.search(text or "") for text in texts)


def is_transient(output: str) -> bool:
    """Whether a failed build may succeed when it is simply run again."""
    return bool(_TRANSIENT.search(output)) and first_error(output) is None


def deleted_library(output: str) -> str:
    """The library whose deletion a build in a sandbox could not hand on; "" where that is not why it failed."""
    match = _WHITEOUT.search(output)
    return match[1] if match else ""


def last_lines(text: str, count: int = 15) -> str:
    """The end of an output, for a message."""
    return "\n".join(text.strip().splitlines()[-count:])
