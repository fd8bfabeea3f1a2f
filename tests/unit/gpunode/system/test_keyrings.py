"""Which keys a kernel trusts, from its list of keys and from the members of its rings."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import keyrings

from tests.kit.keyrings import BUILT_IN, DB, DEAD, KEYS, LEAKED, MOK, NOWHERE, UEFI, ring
from tests.kit.node import FakeNode

DEBIAN = "Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) (gcc-12) #1 SMP\n"
OWN = "Linux version 6.1.0-own (me@here) (gcc-12) #1 SMP\n"


@pytest.fixture
def uefi(node: FakeNode) -> FakeNode:
    node.put("proc/keys", KEYS + UEFI)
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
