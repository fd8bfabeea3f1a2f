"""Tells a container that containerd or its runtime could not start from one that ran and failed: the image is not to blame for the former.

``ctr run`` ends with one line of its own, ``ctr: …``, if it failed itself. If the container ran, it only passes the exit status on.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..util.bounded import cut
from ..util.expressions import expression

_DAEMON = expression(r"containerd\.sock|failed to dial|dial unix")
_NO_SPACE = expression(r"no space left on device|disk quota exceeded")
_NO_IMAGE = expression(r'^ctr: image "[^"]*": not found', 0)
# The runtime was ready to execute the program, and the image does not have it, or has it for another architecture.
_NO_PROGRAM = expression(
    r'exec: "[^"]*": (?:stat [^:]*: )?(?:executable file not found|no such file or directory|permission denied)|exec format error'
)


@dataclass(frozen=True)
class NotStarted:
    """``code`` is the error's (docs/codes.md), ``words`` are containerd's or the runtime's own, ``advice`` says what to do."""

    code: str
    words: str
    advice: str


def not_started(output: str) -> NotStarted | None:
    """Why no container was started, by the output of ``ctr run``; None if one was, or if the program in the image cannot be executed."""
    words = cut(output.rstrip().rpartition("\n")[2].strip())
    if not words.startswith("ctr: ") or _NO_PROGRAM.search(words):
        return None
    if _DAEMON.search(words):
        return NotStarted(code="containerd_unavailable", words=words, advice="see systemctl status containerd")
    if _NO_SPACE.search(words):
        return NotStarted(code="no_space", words=words, advice="make room on the filesystem that is full")
    if _NO_IMAGE.search(words):
        return NotStarted(code="image_missing", words=words, advice="pull the image again; another program may have removed it")
    advice = "containerd or its runtime (runc) could not start it, and the driver image is not at fault: see journalctl -u containerd"
    return NotStarted(code="container_not_started", words=words, advice=advice)
