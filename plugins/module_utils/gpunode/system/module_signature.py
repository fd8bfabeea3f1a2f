"""Signatures at the end of kernel modules. Format: kernel, include/linux/module_signature.h and scripts/sign-file.c.

A signed module consists of the module, a PKCS#7 message, twelve bytes that end with the message's length (big endian), and a line. The
kernel reads from the end; everything before the message was signed, also an older signature.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..util.expressions import expression

MARKER = b"~Module signature appended~\n"
_INFO = struct.Struct(">BBBBB3xI")  # algorithm, hash, kind of id, length of signer, of key id, of signature
_PKCS7 = 2
_MODULE = expression(
    r"((usr/)?lib/modules/(?P<kver>[^/]+)/.+|var/lib/dkms/[^/]+/[^/]+/(?P<built>[^/]+)/[^/]+/module/[^/]+)\.ko(\.(gz|xz|zst))?"
)


@dataclass(frozen=True)
class Signature:
    """The last signature of a module: what was signed is the first ``signed_size`` bytes."""

    signed_size: int
    message: bytes


def read(path: Path) -> Signature | None:
    """The signature of an uncompressed module; None if it has none. Raises DataError for an invalid one, OSError."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        end = size - len(MARKER)
        if end < 0 or os.pread(stream.fileno(), len(MARKER), end) != MARKER:
            return None
        start = end - _INFO.size
        found = _INFO.unpack(os.pread(stream.fileno(), _INFO.size, start)) if start >= 0 else ()
        if not found or found[2] != _PKCS7 or found[3] or found[4] or not 0 < found[5] <= start:
            raise DataError(f"{path}: it ends like a signed module, but has no valid signature before that", code="signing_failed")
        begin = start - found[5]
        return Signature(begin, os.pread(stream.fileno(), found[5], begin))


def strip(path: Path) -> int:
    """Cuts off every signature of an uncompressed module; returns how many there were. Raises DataError, OSError."""
    count = 0
    while found := read(path):
        os.truncate(path, found.signed_size)
        count += 1
    return count


def kernel_of(path: str) -> str:
    """The kernel release of the module at a path relative to the root, in the kernel's folder or in DKMS's; "" for any other path."""
    match = _MODULE.fullmatch(path)
    return (match["kver"] or match["built"]) if match else ""


@dataclass(frozen=True)
class Signer:
    """The certificate whose key signed every module of a layer: its name, the id by which a kernel knows its key, its SHA-256."""

    name: str
    key_id: str
    fingerprint: str
