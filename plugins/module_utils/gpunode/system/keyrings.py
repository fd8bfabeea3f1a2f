"""Which keys the running kernel trusts to sign modules: its keyrings, read through /proc/keys and keyctl(2).

The kernel looks in ``.secondary_trusted_keys``, to which the built-in keys and the owner's (MOK, ``.machine``) are linked (kernel/module/
signing.c, certs/system_keyring.c). Debian's and Ubuntu's kernels are patched to look in ``.platform`` too, the firmware's db. A key in
``.blacklist`` is trusted nowhere. /proc/keys lists every key, but not its ring, so keyctl(2) is asked for each ring's members.
"""

from __future__ import annotations

import array
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import read_text

_TRUSTED = (".secondary_trusted_keys", ".builtin_trusted_keys")  # the first of these that exists; it contains the second
_PLATFORM, _REVOKED = ".platform", ".blacklist"
_TRUSTS_PLATFORM = expression(r"debian-kernel@lists\.debian\.org|\(Ubuntu ")  # in /proc/version, who built the kernel
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_READ = 11
_MAX_MEMBERS = 4096
_GONE = set("RDNi")  # revoked, dead, negative, invalidated
_KEY_ID = expression(r": ([0-9a-f]{2,}): X509\.")
Members = Callable[[int], "tuple[int, ...]"]


@dataclass(frozen=True)
class Key:
    """A line of /proc/keys: serial number, kind (cut off to nine letters), and description."""

    serial: int
    kind: str
    text: str


def parse(text: str) -> tuple[Key, ...]:
    """Reads /proc/keys (proc(5)): serial, flags, usage, expiry, permissions, uid, gid, type, description."""
    found = []
    for line in lines(text):
        words = line.split(None, 8)
        if len(words) == 9 and not _GONE & set(words[1]) and re.fullmatch(r"[0-9a-f]{8}", words[0]):
            found.append(Key(int(words[0], 16), words[7], words[8]))
    return tuple(found)


def members(serial: int) -> tuple[int, ...]:
    """The serial numbers of the keys in a keyring of the running kernel. Raises OSError."""
    number = _KEYCTL.get(os.uname().machine)
    if number is None:
        raise OSError(f"the number of keyctl(2) on {os.uname().machine} is not known")
    import ctypes  # noqa: PLC0415 - most nodes need no look into the kernel's keyrings

    libc = ctypes.CDLL(None, use_errno=True)
    ring = (ctypes.c_int32 * _MAX_MEMBERS)()
    size = libc.syscall(ctypes.c_long(number), ctypes.c_long(_READ), ctypes.c_long(serial), ring, ctypes.c_long(ctypes.sizeof(ring)))
    if size < 0:
        raise OSError(ctypes.get_errno(), "keyctl")
    return tuple(array.array("i", bytes(ring)[: min(size, ctypes.sizeof(ring))]))


def read(root: Path, ring: Members | None = None) -> tuple[str, ...] | None:
    """The ids of the keys whose signatures the kernel accepts on modules, in the form of ``certificate``; None if they are unknown."""
    keys = {key.serial: key for key in parse(read_text(root / "proc/keys") or "")}
    rings = {key.text.partition(":")[0]: key.serial for key in keys.values() if key.kind == "keyring" and key.text.startswith(".")}
    top = next((rings[name] for name in _TRUSTED if name in rings), None)
    if top is None:
        return None
    wanted = [top]
    if _PLATFORM in rings and _TRUSTS_PLATFORM.search(read_text(root / "proc/version") or ""):
        wanted.append(rings[_PLATFORM])
    ask = ring or members
    try:
        trusted = _ids(keys, wanted, ask)
        revoked = _ids(keys, [rings[_REVOKED]], ask) if _REVOKED in rings else set()
    except OSError:
        return None
    return tuple(sorted(trusted - revoked))


def _ids(keys: dict[int, Key], rings: list[int], ask: Members) -> set[str]:
    """The ids of all keys in ``rings`` and in the rings that these link to."""
    found: set[str] = set()
    seen: set[int] = set()
    while rings:
        ring = rings.pop()
        if ring in seen:
            continue
        seen.add(ring)
        for serial in ask(ring):
            key = keys.get(serial)
            match = _KEY_ID.search(key.text) if key else None
            if key and key.kind == "keyring":
                rings.append(serial)
            elif match:
                found.add(match[1])
    return found
