"""X.509 certificates, as far as signing modules needs them: read with ``openssl x509``, identified as the kernel identifies keys.

The kernel describes a key by its certificate's subject key id or, without one, by the serial number (crypto/asymmetric_keys/
x509_public_key.c); /proc/keys has both in lower-case hexadecimal.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..errors import CommandError, PreflightError
from ..util.expressions import expression
from ..util.files import read_bytes
from ..util.run import Runner
from .module_signature import Signer

_LIMIT_S = 30.0
_LARGEST = 1 << 20  # bytes
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_SHOWN = ("-noout", "-subject", "-nameopt", "sep_multiline,sname,utf8", "-serial", "-startdate", "-enddate", "-fingerprint", "-sha256")
_SKID = expression(r"X509v3 Subject Key Identifier:[^\n]*\n[ \t]*([0-9A-Fa-f:]+)")
_FINGERPRINT = expression(r"^sha256 Fingerprint=([0-9A-F:]+)$", re.MULTILINE | re.IGNORECASE)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ALGORITHM = expression(r"Public Key Algorithm: (\S+)")


@dataclass(frozen=True)
class Certificate:
    """``form`` is the file's format, PEM or DER; ``algorithm`` is openssl's name of the public key's algorithm."""

    path: Path
    form: str
    signer: Signer
    public_key: str
    algorithm: str
    not_before: datetime
    not_after: datetime


def refused(path: Path | str, reason: str) -> PreflightError:
    return PreflightError(f"the signing certificate {path}: {reason}", code="signing_certificate")


def form_of(path: Path) -> str:
    """The file's format, ``PEM`` or ``DER``. Raises PreflightError for a file that cannot be read or is neither."""
    try:
        data = read_bytes(path, _LARGEST)
    except OSError as error:
        raise refused(path, f"it cannot be read ({error.strerror})") from error
    if data.count(_BEGIN) > 1:
        raise refused(path, "it holds several certificates: give a file with only the one that the key belongs to")
    if _BEGIN in data:
        return "PEM"
    if data[:1] != b"\x30":
        raise refused(path, "it is not an X.509 certificate in PEM or DER format")
    return "DER"


def fingerprint_of(data: bytes) -> str:
    """SHA-256 of the certificate in a file's contents, in hexadecimal, as ``Signer.fingerprint``; nothing else of it is checked. Raises
    ValueError if the PEM text is damaged."""
    begin, end = data.find(_BEGIN), data.find(_END)
    der = base64.b64decode(b"".join(data[begin + len(_BEGIN) : end].split()), validate=True) if 0 <= begin < end else data
    return hashlib.sha256(der).hexdigest()


def fingerprint(path: Path) -> str:
    """``fingerprint_of`` of a file. Raises OSError, ValueError."""
    return fingerprint_of(read_bytes(path, _LARGEST))


def read(runner: Runner, path: Path) -> Certificate:
    """Reads a certificate. Raises PreflightError; CommandError if openssl is missing."""
    form = form_of(path)
    base = ["openssl", "x509", "-inform", form, "-in", str(path)]
    try:
        shown = runner.run([*base, *_SHOWN], timeout_s=_LIMIT_S).stdout
        text = runner.run([*base, "-noout", "-text"], timeout_s=_LIMIT_S).stdout
        public_key = runner.run([*base, "-noout", "-pubkey"], timeout_s=_LIMIT_S).stdout
    except CommandError as error:
        if error.rc is None:
            raise
        raise refused(path, "openssl cannot read it as an X.509 certificate") from error
    return parse(path, form, shown, text, public_key)


def parse(path: Path, form: str, shown: str, text: str, public_key: str) -> Certificate:
    """The certificate from openssl's output. Raises PreflightError."""
    fields = dict(re.findall(r"^(\w+)=(.*)$", shown, re.MULTILINE))
    fingerprint = _FINGERPRINT.search(shown)
    names = dict(re.findall(r"^[ \t]+(\w+)=(.*)$", shown, re.MULTILINE))
    algorithm = _ALGORITHM.search(text)
    skid = _SKID.search(text)
    try:
        serial = fields["serial"].lower()
        serial = ("00" if int(serial[0], 16) > 7 else "") + serial  # as in DER, where it would otherwise be negative
        signer = Signer(
            name=names.get("CN") or names.get("O") or "a certificate without a name",
            key_id=skid[1].replace(":", "").lower() if skid else serial,
            fingerprint=fingerprint[1].replace(":", "").lower() if fingerprint else "",
        )
        return Certificate(
            path, form, signer, public_key, algorithm[1] if algorithm else "", _date(fields["notBefore"]), _date(fields["notAfter"])
        )
    except (KeyError, ValueError, IndexError, OverflowError) as error:
        raise refused(path, f"openssl's description of it cannot be parsed ({error})") from error


def _date(text: str) -> datetime:
    """Parses ``Nov 25 22:39:26 2026 GMT``. strptime could expect other names of months, because a module runs in its user's locale."""
    month, day, time, year, _zone = text.split()
    hour, minute, second = map(int, time.split(":"))
    return datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=timezone.utc)
