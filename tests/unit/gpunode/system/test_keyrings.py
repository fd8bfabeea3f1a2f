"""Which keys a kernel trusts, from its list of keys and from the members of its rings."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import keyrings

from tests.kit.node import FakeNode
from tests.kit.values import DATA

# /proc/keys of a Debian kernel; below, further lines for rings that only a machine with UEFI has.
KEYS = (DATA / "proc/keys-6.1-cloud").read_text()
UEFI = """\
3f000001 I------     1 perm 1f0b0000     0     0 keyring   .machine: 1
3f000002 I------     1 perm 1f0b0000     0     0 keyring   .platform: 2
3f000003 I------     1 perm 1f0b0000     0     0 keyring   .blacklist: 1
2a000001 I------     1 perm 1f030000     0     0 asymmetri Fleet modules: {mok}: X509.rsa 00000001 []
2a000002 I------     1 perm 1f030000     0     0 asymmetri Fleet db: {db}: X509.rsa 00000002 []
2a000003 I------     1 perm 1f030000     0     0 asymmetri Leaked: {leaked}: X509.rsa 00000003 []
2a000004 I------     1 perm 1f030000     0     0 asymmetri Nowhere: {nowhere}: X509.rsa 00000004 []
2a000005 I-D----     1 perm 1f030000     0     0 asymmetri Dead: {dead}: X509.rsa 00000005 []
"""
MOK, DB, LEAKED, NOWHERE, DEAD = ("a1" * 20, "db" * 20, "1e" * 20, "00" * 20, "de" * 20)
DEBIAN = "Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) (gcc-12) #1 SMP\n"
OWN = "Linux version 6.1.0-own (me@here) (gcc-12) #1 SMP\n"


def serial(name: str) -> int:
    return next(key.serial for key in keyrings.parse(KEYS) if key.text.startswith(name))


BUILTIN, SECONDARY = serial(".builtin_trusted_keys:"), serial(".secondary_trusted_keys:")
BUILT_IN = [key for key in keyrings.parse(KEYS) if key.kind == "asymmetri"]


def ring(number: int) -> tuple[int, ...]:
    return {
        SECONDARY: (BUILTIN, 0x3F000001),
        BUILTIN: (*(key.serial for key in BUILT_IN), SECONDARY),
        0x3F000001: (0x2A000001, 0x2A000005, 0x2A00FFFF),
        0x3F000002: (0x2A000002, 0x2A000003),
        0x3F000003: (0x2A000003,),
    }.get(number, ())


@pytest.fixture
def uefi(node: FakeNode) -> FakeNode:
    node.put("proc/keys", KEYS + UEFI.format(mok=MOK, db=DB, leaked=LEAKED, nowhere=NOWHERE, dead=DEAD))
    node.put("proc/version", DEBIAN)
    return node


def test_built_in_keys_and_the_owners_are_trusted_and_no_key_that_is_in_no_ring(uefi: FakeNode) -> None:
    uefi.put("proc/version", OWN)
    trusted = keyrings.read(uefi.root, ring)
    assert trusted
    assert MOK in trusted
    assert len(trusted) == len(BUILT_IN) + 1
    assert not {DB, LEAKED, NOWHERE, DEAD} & set(trusted)


def test_the_firmwares_db_counts_for_the_kernels_that_are_patched_so_and_a_revoked_key_never(uefi: FakeNode) -> None:
    trusted = keyrings.read(uefi.root, ring) or ()
    assert DB in trusted
    assert LEAKED not in trusted


@pytest.mark.parametrize("text", ["", "no such lines\n", "\n".join(line for line in KEYS.splitlines() if "_trusted_keys" not in line)])
def test_without_rings_nothing_is_known(node: FakeNode, text: str) -> None:
    node.put("proc/keys", text)
    assert keyrings.read(node.root, ring) is None


def test_a_ring_that_cannot_be_read_makes_all_unknown(uefi: FakeNode) -> None:
    def refused(number: int) -> tuple[int, ...]:
        if number == 0x3F000003:
            raise PermissionError(13, "no")
        return ring(number)

    assert keyrings.read(uefi.root, refused) is None


def test_no_list_of_keys_means_unknown(node: FakeNode) -> None:
    assert keyrings.read(node.root, ring) is None


def test_this_kernels_rings_are_read_or_refused_never_invented() -> None:
    found = keyrings.read(Path("/"))
    assert found is None or all(len(key) % 2 == 0 for key in found)
