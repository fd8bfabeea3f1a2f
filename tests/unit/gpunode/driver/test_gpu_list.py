"""A driver's own list of supported GPUs: reading it, and what follows from it and from our table."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import gpu_list, gpus, supported_gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.gpu_list import UNKNOWN, Driver, GpuList
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.gpu_lists import GSP, NEWER, OEM, OLDER, OPEN, PATH, document, row


def listed(*rows: dict[str, Any]) -> GpuList:
    return supported_gpus.read(document(*rows).encode(), PATH)


OLD, NEW = listed(*OLDER), listed(*NEWER)


def test_a_list_becomes_compact_ranges() -> None:
    assert (OLD.source, OLD.supported, OLD.kernelopen) == (PATH, "13f2 1db4 1e09 2330 2342 26b1", "2330 2342 26b1")
    assert OLD.legacy == (("367.xx", "0ff2"), ("470.xx", "102d"))
    assert NEW.gsp_proprietary == "1eb8 2330"
    assert listed(*(row(device, OPEN) for device in ("2331", "2330", "2332", "2334"))).kernelopen == "2330-2332 2334"


def test_it_may_be_packed_by_gzip() -> None:
    assert supported_gpus.read(gzip.compress(document(*OLDER).encode()), PATH) == OLD


@pytest.mark.parametrize(
    ("rows", "supported", "legacy"),
    [
        pytest.param((row("102d", legacy="470.xx"), row("102d", **OEM)), "102d", (), id="legacy, and an OEM's row that is not"),
        pytest.param((row("102d"), row("102d", legacy="470.xx")), "102d", (), id="in the other order"),
        pytest.param((row("102d", legacy="470.xx"),) * 2, "", (("470.xx", "102d"),), id="legacy twice"),
    ],
)
def test_an_id_with_a_legacy_row_and_another_is_supported(
    rows: tuple[dict[str, Any], ...], supported: str, legacy: tuple[tuple[str, str], ...]
) -> None:
    found = listed(*rows)
    assert (found.supported, found.legacy) == (supported, legacy)


def test_a_chip_has_the_features_of_any_of_its_rows() -> None:
    found = listed(row("26b1"), row("26b1", OPEN, **OEM), row("26b1", OPEN, GSP, legacy="470.xx"))
    assert (found.kernelopen, found.gsp_proprietary) == ("26b1", "")


PACKED = gzip.compress(document(*OLDER).encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "not valid JSON", id="empty"),
        pytest.param(b"<html>", "not valid JSON", id="not JSON"),
        pytest.param(document(*OLDER).encode()[:-5], "not valid JSON", id="cut off"),
        pytest.param(PACKED[:-20], "it is cut off", id="packed and cut off"),
        pytest.param(PACKED[:10] + b"\xff" * 40, "it is malformed", id="packed and damaged"),
        pytest.param(gzip.compress(b" " * (supported_gpus.LARGEST + 1)), "it is larger", id="huge once unpacked"),
        pytest.param(b" " * (supported_gpus.LARGEST + 1), "it is larger", id="huge"),
        pytest.param(b"\xff\xfe", "it is malformed", id="not text"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep"),
        pytest.param(b"[]", "it is malformed", id="a list"),
        pytest.param(b'"chips"', "it is malformed", id="a text"),
        pytest.param(b"{}", "it is malformed", id="no chips"),
        pytest.param(b'{"chips": []}', "it has no list of chips", id="none"),
        pytest.param(b'{"chips": {"devid": 1}}', "it has no list of chips", id="a mapping"),
        pytest.param(b'{"chips": ["x"]}', "it is malformed", id="a row is text"),
        pytest.param(b'{"chips": [{}]}', "it is malformed", id="a row without an id"),
        pytest.param(b'{"chips": [{"devid": 7}]}', "it is malformed", id="an id that is a number"),
        pytest.param(b'{"chips": [{"devid": "0x123456"}]}', "a row is malformed", id="an id that is too long"),
        pytest.param(b'{"chips": [{"devid": "0x1234", "legacybranch": "a\\nb"}]}', "a row is malformed", id="a branch that is none"),
        pytest.param(b'{"chips": [{"devid": "0x1234", "features": "kernelopen"}]}', "a row is malformed", id="features that are text"),
    ],
)
def test_whatever_is_no_list_is_a_value_error(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        supported_gpus.read(data, PATH)


def modules(flavour: str, version: str = "550.163.01", by: GpuList = OLD, kind: str = "cuda") -> Driver:
    return Driver(kind, version, flavour, by)


LEGACY = "driver branch 470.xx is the last for it by the list in driver 550.163.01, which no longer supports it"
TABLE_SAYS = "driver branch 470 is the last for kepler GPUs, 550.163.01 is newer"
NEEDS_OPEN = "GPUs need open kernel modules, these are proprietary"


@pytest.mark.parametrize(
    ("driver", "device", "said"),
    [
        # listed
        pytest.param(modules("open"), "2330", "", id="listed, open"),
        pytest.param(modules("open"), "26b1", "", id="listed with an OEM's subsystem alone"),
        pytest.param(modules("proprietary"), "1db4", "", id="listed, proprietary alone"),
        pytest.param(modules("open"), "1db4", "(kernelopen)", id="listed without open modules"),
        pytest.param(modules("open"), "1e09", "(kernelopen)", id="listed without open modules, of a generation that has them"),
        pytest.param(modules("proprietary"), "1e09", "", id="the same, proprietary"),
        pytest.param(modules("proprietary"), "2330", "", id="open and proprietary, by our table"),
        pytest.param(modules("proprietary"), "2342", f"grace-hopper {NEEDS_OPEN}", id="open alone, by our table"),
        pytest.param(modules("open", "620.10", NEW), "4000", "", id="newer than our table"),
        pytest.param(modules("open", "595.58.03", NEW), "3041", "", id="in the list earlier than in our table"),
        pytest.param(modules("proprietary", "620.10", NEW), "4000", "(gsp_proprietary_supported)", id="newer than our table, open alone"),
        pytest.param(modules("proprietary", "620.10", NEW), "1eb8", "", id="open and proprietary, by the list"),
        pytest.param(modules("proprietary", "620.10", NEW), "2901", "(gsp_proprietary_supported)", id="open alone, by the list"),
        pytest.param(modules("proprietary", by=listed(row("4000", OPEN))), "4000", None, id="newer than our table, an older list"),
        # legacy
        pytest.param(modules("proprietary"), "102d", LEGACY, id="legacy"),
        pytest.param(modules("open"), "102d", LEGACY, id="legacy, open"),
        pytest.param(modules("proprietary", "610.57.04", NEW), "1db4", "driver branch 580.xx is the last", id="legacy, V100"),
        pytest.param(modules("open", by=listed(row("10c3", legacy="340.xx"))), "10c3", "340.xx is the last", id="legacy, not in our table"),
        # not listed
        pytest.param(modules("open"), "1eb8", "", id="T4 is missing"),
        pytest.param(modules("open", "550.163.01"), "2901", "blackwell GPUs need driver branch 570 or newer", id="missing and too new"),
        pytest.param(modules("open"), "ffff", None, id="neither knows it"),
        # no list
        pytest.param(modules("open", by=UNKNOWN), "2330", "", id="no list"),
        pytest.param(modules("open", by=UNKNOWN), "102d", "kepler GPUs need proprietary kernel modules, these are open", id="no list, K80"),
        pytest.param(modules("open", by=UNKNOWN), "ffff", None, id="no list, unknown"),
        # what is unknown
        pytest.param(modules(""), "2330", "these are of unknown flavour", id="unknown flavour"),
        pytest.param(modules("open"), "", None, id="no device id"),
        pytest.param(modules("open"), "12330", None, id="a device id that is too long"),
        # grid
        pytest.param(modules("open", kind="grid"), "2330", "", id="grid, listed"),
        pytest.param(modules("proprietary", kind="grid"), "102d", TABLE_SAYS, id="grid, legacy: our table"),
        pytest.param(modules("open", kind="grid"), "1e09", "", id="grid, without open modules: our table"),
        pytest.param(modules("proprietary", "620.10", listed(row("2330", OPEN), row("1eb8", OPEN, GSP)), "grid"), "2330", "",
            id="grid, without proprietary modules: our table"),
    ],
)  # fmt: skip
def test_list_and_table_together_say_which_gpus_modules_drive(driver: Driver, device: str, said: str | None) -> None:
    found = driver.refusal(device)
    if said:
        assert said in (found or "")
    else:
        assert found == said


@pytest.mark.parametrize(
    ("driver", "device", "said"),
    [
        pytest.param(Driver("cuda", "550.163.01", listed=OLD), "102d", LEGACY, id="legacy"),
        pytest.param(Driver("cuda", "550.163.01"), "102d", TABLE_SAYS, id="dropped, by our table"),
        pytest.param(Driver("grid", "550.163.01", listed=OLD), "102d", TABLE_SAYS, id="dropped, grid"),
        pytest.param(Driver("cuda", "595.58.03", listed=NEW), "3041", "", id="listed, which our table would refuse"),
        pytest.param(Driver("cuda", "550.163.01", listed=OLD), "1eb8", "", id="not listed, in our table"),
        pytest.param(Driver("cuda", "550.163.01", listed=OLD), "ffff", "", id="neither knows it"),
    ],
)
def test_a_gpu_that_no_modules_of_a_version_drive(driver: Driver, device: str, said: str) -> None:
    assert driver.unsupported(device) == said


@pytest.mark.parametrize(
    ("driver", "names", "beyond"),
    [
        pytest.param(modules("open", by=UNKNOWN), "turing ampere hopper grace-hopper ada", "", id="no list"),
        pytest.param(modules("proprietary", by=UNKNOWN), "maxwell pascal volta turing ampere hopper ada", "", id="no list, proprietary"),
        pytest.param(modules("open"), "ampere hopper grace-hopper ada", "", id="of Turing, the list has a chip without open modules alone"),
        pytest.param(modules("open", by=listed(*OLDER, row("1e30", OPEN))), "turing ampere hopper grace-hopper ada", "", id="and another"),
        pytest.param(modules("open", "610.57.04", NEW), "turing ampere hopper grace-hopper ada blackwell rubin", "4000", id="newer"),
        pytest.param(modules("proprietary", "610.57.04", NEW), "turing ampere hopper ada", "", id="newer, proprietary"),
        pytest.param(modules("open", "650.10", listed(row("1e30", legacy="640.xx"))), "ampere hopper grace-hopper ada blackwell rubin", "",
            id="a generation that was dropped later than our table"),
    ],
)  # fmt: skip
def test_the_generations_that_modules_drive(driver: Driver, names: str, beyond: str) -> None:
    assert " ".join(generation.name for generation in driver.generations()) == names
    assert driver.beyond_table() == beyond


DEVICES = st.sampled_from(["102d", "13f2", "1db4", "1e09", "1eb8", "2330", "2342", "2901", "3041", "4000", "ffff"])
ROWS = st.lists(
    st.builds(
        row,
        DEVICES,
        *(st.sampled_from(["", OPEN]), st.sampled_from(["", GSP])),
        legacy=st.sampled_from(["", "", "470.xx", "580.xx"]),
    ),
    min_size=1,
    max_size=8,
)
DRIVERS = st.builds(
    Driver,
    st.sampled_from(["cuda", "grid"]),
    st.sampled_from(["470.256.02", "550.163.01", "580.126.09", "610.57.04"]),
    st.sampled_from(["open", "proprietary"]),
)


@given(ROWS, DRIVERS, DEVICES)
def test_what_a_list_says_of_a_gpu_is_what_its_rows_say(rows: list[dict[str, Any]], driver: Driver, device: str) -> None:
    mine = [one for one in rows if one["devid"] == f"0x{device.upper()}"]
    good = [one for one in mine if "legacybranch" not in one]
    by_table = driver.refusal(device)
    by_list = Driver(driver.kind, driver.version, driver.flavour, listed(*rows))
    found = by_list.refusal(device)
    if not mine:
        assert found == by_table
    elif driver.kind == "grid":
        assert found in ("", by_table)
    elif not good:
        assert found
        assert any(one["legacybranch"] in found for one in mine)
    elif driver.flavour == "open":
        assert (found == "") is any(OPEN in one["features"] for one in good)
    elif not any(OPEN in one["features"] for one in good) or any(GSP in one["features"] for one in good):
        assert found == ""
    assert not (by_list.unsupported(device) and found == "")


@given(st.sets(st.integers(0, 0xFFFF), max_size=50))
def test_ranges_are_exactly_their_ids(ids: set[int]) -> None:
    text = supported_gpus.ranges(ids)
    assert gpu_list.are_ranges(text)
    assert all(
        GpuList(supported=text).supports(number) is (number in ids) for number in [*ids, *(n + 1 for n in ids if n < 0xFFFF), 0, 0x2330]
    )


@pytest.mark.parametrize("text", [" ", "233", "2330 ", "2330-", "2330,2331", "2330-2331-2332", "23G0", "2330\n", "2330  2331", "0x2330"])
def test_other_text_is_no_ranges(text: str) -> None:
    assert not gpu_list.are_ranges(text)


def test_a_list_of_one_generation_changes_nothing_for_the_others() -> None:
    for generation in gpus.GENERATIONS:
        device = f"{generation.ids[0][0]:04x}"
        for flavour in ("open", "proprietary"):
            assert modules(flavour, by=listed(row("ffff"))).refusal(device) == modules(flavour, by=UNKNOWN).refusal(device)


def test_the_rows_of_these_tests_are_as_the_real_ones() -> None:
    assert json.loads(document(row("26b1", OPEN, **OEM)))["chips"] == [
        {"devid": "0x26B1", "name": "a GPU", "features": ["dpycbcr420", "kernelopen"], "subvendorid": "0x1028", "subdevid": "0x16A1"}
    ]
