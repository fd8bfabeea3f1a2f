"""Vital product data: which fields there are, and when nothing can be said of them."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.vpd import read_only_fields

from tests.kit.vpd import product_data

GOOD = product_data({"PN": "MCX75310AAS-NEAT", "V0": "PCIeGen5 x16", "VA": "MLX:MN=MLNX:CSKU=V2:UUID=V3:PCI=V0:MODL=CX75310:SMDL=SW_MNG"})


def test_the_fields_of_a_bridge() -> None:
    found = read_only_fields(GOOD)
    assert found is not None
    assert found["PN"] == "MCX75310AAS-NEAT"
    assert found["VA"].endswith(":SMDL=SW_MNG")
    assert "RV" not in found


def test_what_follows_the_end_does_not_count() -> None:
    assert read_only_fields(GOOD + b"\xff" * 100) == read_only_fields(GOOD)


def test_writable_fields_and_small_resources_are_passed_over() -> None:
    between = GOOD[:-1] + b"\x0a\1\2" + b"\x91\5\0RW\2ab" + GOOD[-1:]
    assert read_only_fields(between) == read_only_fields(GOOD)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 1000, id="a device that does not answer"),
        pytest.param(b"\0" * 1000, id="zeros"),
        pytest.param(GOOD.replace(b"SW_MNG", b"SW_MNX"), id="a byte that the sum does not allow"),
        *(pytest.param(GOOD[:size], id=f"cut after {size} bytes") for size in (1, 2, 3, 40, len(GOOD) - 1)),
        pytest.param(GOOD[:1] + b"\xff\xff" + GOOD[3:], id="a name that is too long"),
        pytest.param(b"\x82\1\0x\x90\4\0PN\x09a\x78", id="a field that is longer than its resource"),
        pytest.param(b"\x82\1\0x\x90\2\0PN\x78", id="a field without a length"),
        pytest.param(b"\x82\1\0x\x90\3\0RV\0\x78", id="a sum without a byte"),
    ],
)
def test_of_damaged_data_nothing_can_be_said(data: bytes) -> None:
    assert read_only_fields(data) is None
