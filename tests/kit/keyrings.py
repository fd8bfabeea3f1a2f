"""A kernel's trusted keys: its /proc/keys, and which key is in which keyring."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import keyrings

from tests.kit.values import DATA

KEYS = (DATA / "proc/keys-6.1-cloud").read_text()  # of a Debian kernel on a machine without UEFI
MOK, DB, LEAKED, NOWHERE, DEAD = ("a1" * 20, "db" * 20, "1e" * 20, "00" * 20, "de" * 20)
# The lines that a machine with UEFI has as well.
UEFI = f"""\
3f000001 I------     1 perm 1f0b0000     0     0 keyring   .machine: 1
3f000002 I------     1 perm 1f0b0000     0     0 keyring   .platform: 2
3f000003 I------     1 perm 1f0b0000     0     0 keyring   .blacklist: 1
2a000001 I------     1 perm 1f030000     0     0 asymmetri Fleet modules: {MOK}: X509.rsa 00000001 []
2a000002 I------     1 perm 1f030000     0     0 asymmetri Fleet db: {DB}: X509.rsa 00000002 []
2a000003 I------     1 perm 1f030000     0     0 asymmetri Leaked: {LEAKED}: X509.rsa 00000003 []
2a000004 I------     1 perm 1f030000     0     0 asymmetri Nowhere: {NOWHERE}: X509.rsa 00000004 []
2a000005 I-D----     1 perm 1f030000     0     0 asymmetri Dead: {DEAD}: X509.rsa 00000005 []
"""
BUILT_IN = [key for key in keyrings.parse(KEYS) if key.kind == "asymmetri"]


def _serial(name: str) -> int:
    return next(key.serial for key in keyrings.parse(KEYS) if key.text.startswith(name))


_BUILTIN, _SECONDARY = _serial(".builtin_trusted_keys:"), _serial(".secondary_trusted_keys:")


def ring(number: int) -> tuple[int, ...]:
    """The members of a keyring, by serial numbers."""
    return {
        _SECONDARY: (_BUILTIN, 0x3F000001),
        _BUILTIN: (*(key.serial for key in BUILT_IN), _SECONDARY),
        0x3F000001: (0x2A000001, 0x2A000005, 0x2A00FFFF),
        0x3F000002: (0x2A000002, 0x2A000003),
        0x3F000003: (0x2A000003,),
    }.get(number, ())
