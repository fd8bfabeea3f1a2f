"""Judges why a pull failed, by what was being asked when it did, and by the answer: the same word means different things at each step.

The texts are those of ``ctr images pull`` in containerd 1.6 to 2.1 and of Go's net and net/http packages.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from ..util.bounded import cut
from ..util.expressions import expression


class Step(enum.Enum):
    """What was being asked."""

    RESOLVE = "the name of the image"
    TOKEN = "a token"
    MANIFEST = "a manifest"
    BLOB = "a layer"
    UNPACK = "unpacking a layer"
    MACHINE = "this machine"


@dataclass(frozen=True)
class Judged:
    """``code`` is the error's (docs/codes.md). ``may_pass``: another try may succeed."""

    code: str
    may_pass: bool = False


@dataclass(frozen=True)
class PullFailure:
    """What was asked, the HTTP status of the answer (0 if there is none), and what it means."""

    step: Step
    status: int
    means: Judged

    @property
    def code(self) -> str:
        return self.means.code

    @property
    def may_pass(self) -> bool:
        return self.means.may_pass


_LONGEST = 4000
# What others chose freely, such as names and addresses, is no part of what went wrong.
_NAMES = expression(r'"[^"]*"|https?://\S+|\[[^\]]*\]')
_STATUS = expression(r"(?:^|\s)([45]\d\d) [A-Z]")
# A proxy's answer to CONNECT: net/http returns only the words of its status, without the number.
_PROXYS = expression(r"(?:head|get|post)\s+: (forbidden|proxy authentication required|unauthorized|method not allowed)$", re.IGNORECASE)
_NO_SPACE = expression(r"no space left|disk quota exceeded", re.IGNORECASE)
_CERTIFICATE = expression(r"x509: |tls: failed to verify certificate", re.IGNORECASE)
_SCHEME = expression(r"HTTP response to HTTPS client|does not look like a TLS handshake|malformed HTTP response", re.IGNORECASE)
_DAEMON = expression(r"containerd\.sock|failed to dial|dial unix", re.IGNORECASE)
# Nobody has answered, or the answer did not arrive whole.
_NETWORK = expression(
    r"no such host|server misbehaving|temporary failure|is unreachable|no route to host|\bEOF\b|timeout|timed out|deadline exceeded"
    r"|connection re(?:fused|set)|broken pipe|connection timed|use of closed network|network is down|proxyconnect",
    re.IGNORECASE,
)
_LOGIN = expression(r"no basic auth credentials|unauthorized|authentication required|authorization failed", re.IGNORECASE)
_REFUSED = expression(
    r"forbidden|access denied|access to the resource is denied|insufficient_scope|\bdenied: |invalid reference|no match for platform",
    re.IGNORECASE,
)
_UNPACK = expression(r"failed to (?:extract|unpack|prepare|mount|apply)|apply layer|mount callback|wrong diff id|snapshot", re.IGNORECASE)
_LOCAL = expression(r"permission denied|operation not permitted|read-only file system|input/output error|structure needs cleaning", re.I)
_LATER = {408, 425, 429}
_BUSY = 500


def judge(reason: str, reference: str = "", plain_http: bool = False) -> PullFailure:
    """Judges the last line of a pull of ``reference`` that failed."""
    line = cut(reason, _LONGEST)
    said = _NAMES.sub(" ", line.replace(reference, " ") if reference else line)
    match = _STATUS.search(said)
    step, status = _step(line, said), int(match[1]) if match else 0
    return PullFailure(step, status, _judged(line, said, step, status, plain_http))


def _step(line: str, said: str) -> Step:
    if _DAEMON.search(line):
        return Step.MACHINE
    if _UNPACK.search(said):
        return Step.UNPACK
    if re.search(r"failed to (?:authorize|fetch \w{1,40} token)", said):
        return Step.TOKEN
    if "/blobs/" in line or re.search(r"failed to copy|httpReadSeeker|content descriptor|content digest", said):
        return Step.MANIFEST if "/manifests/" in line else Step.BLOB
    return Step.RESOLVE if "/manifests/" in line or not _LOCAL.search(said) else Step.MACHINE


def _judged(line: str, said: str, step: Step, status: int, plain_http: bool) -> Judged:
    if _NO_SPACE.search(said):
        return Judged(code="no_space")
    if step in (Step.MACHINE, Step.UNPACK):
        return _on_this_machine(line, said)
    if _CERTIFICATE.search(said):
        return Judged(code="registry_certificate")
    if _SCHEME.search(said) or (plain_http and status == 400):
        return Judged(code="registry_scheme")
    if _PROXYS.search(said) or status == 407:
        return Judged(code="registry_proxy")
    if status >= _BUSY or status in _LATER or (not status and _NETWORK.search(said)):
        return Judged(code="image_unreachable", may_pass=True)
    return _answered(said, step, status)


def _on_this_machine(line: str, said: str) -> Judged:
    """Without a registry's answer. An image whose layers have the right digests and cannot be unpacked is at fault itself."""
    if _DAEMON.search(line):
        return Judged(code="containerd_unavailable", may_pass=True)
    if _LOCAL.search(said):
        return Judged(code="image_unpack")
    return Judged(code="image_unreachable", may_pass=True) if _NETWORK.search(said) else Judged(code="image")


def _answered(said: str, step: Step, status: int) -> Judged:
    """A registry or a token server has answered."""
    if step in (Step.BLOB, Step.MANIFEST):  # the image was named already: a token, or a signed address, ran out
        return Judged(code="image_unreachable", may_pass=True)
    if status == 401 or (not status and _LOGIN.search(said)) or (step is Step.TOKEN and status):
        return Judged(code="registry_login")
    if status == 403 or _REFUSED.search(said) or "not found" in said.lower():
        return Judged(code="image_refused")
    return Judged(code="image_unreachable", may_pass=True)
