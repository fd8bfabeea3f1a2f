"""Reading the marker that a driver container writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import marker
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.marker import Marker
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from hypothesis import given
from hypothesis import strategies as st

FULL = "kernel=6.1.0-56-cloud-amd64\ndriver_version=580.159.04\ndriver_kind=cuda\narch=x86_64\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param(FULL, Marker("6.1.0-56-cloud-amd64", "580.159.04", "cuda", "x86_64", False), id="all fields"),
        pytest.param(FULL.replace("x86_64", "amd64"), Marker("6.1.0-56-cloud-amd64", "580.159.04", "cuda", "x86_64", False), id="amd64"),
        pytest.param("kernel=6.1\n", Marker("6.1", None, None, None, False), id="an older image"),
        pytest.param("kernel=6.1\narch=sparc\n", Marker("6.1", None, None, None, False), id="an architecture that nobody knows"),
        pytest.param("kernel=6.1\nkernel=6.2\n", Marker("6.1", None, None, None, False), id="the first of two wins"),
        pytest.param("kernel=6.1\ndriver_kind=cuda-lts\n", Marker("6.1", None, "cuda", None, False), id="kind is normalised"),
        pytest.param("kernel=6.1\naccept_no_device=1\n", Marker("6.1", None, None, None, True), id="a test image"),
        pytest.param("kernel=6.1\naccept_no_device=10\n", Marker("6.1", None, None, None, False), id="not quite a test image"),
        pytest.param("# a note\nother=x y\n\nkernel=6.1\n", Marker("6.1", None, None, None, False), id="other lines"),
        pytest.param("kernel=6.1\r\n", Marker("6.1", None, None, None, False), id="line ends of another system"),
    ],
)
def test_reads_a_marker(text: str, wanted: Marker) -> None:
    assert marker.parse(text, "marker") == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "no kernel= line", id="empty"),
        pytest.param("kernel=\n", "no kernel= line", id="empty kernel"),
        pytest.param("kernel=\nkernel=6.1\n", "no kernel= line", id="the first wins, also an empty one"),
        pytest.param("driver_version=580.1\n", "no kernel= line", id="no kernel"),
        pytest.param("kernel=6.1\ndriver_version=../x\n", r"driver_version='\.\./x' is not a plain word", id="out of its folder"),
        pytest.param("kernel=/etc\n", "kernel='/etc' is not a plain word", id="absolute path"),
        pytest.param("kernel=6.1\narch=x86_64 rm\n", "is not a plain word", id="blank"),
        pytest.param("kernel=..\n", "is not a plain word", id="dots"),
        pytest.param("kernel=6.1\ndriver_kind=$(id)\n", "is not a plain word", id="shell"),
    ],
)
def test_refuses_a_bad_marker(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        marker.parse(text, "the marker")
    assert caught.value.code == "marker_invalid"
    assert "the marker" in str(caught.value)


@pytest.mark.parametrize("length", range(len(FULL)))
def test_cut_off_at_any_byte_it_matches_nothing_more(length: int) -> None:
    """A truncated marker must never match what the whole marker does not match."""
    try:
        found = marker.parse(FULL[:length], "marker")
    except DataError:
        return
    asked = {"kver": found.kernel, "version": found.version or "", "kind": found.kind or "", "arch": found.arch}
    if not marker.differences(found, **asked):  # type: ignore[arg-type]
        assert not marker.differences(marker.parse(FULL, "marker"), **asked)  # type: ignore[arg-type]


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: FULL + b.decode("utf-8", "replace"))))
def test_any_text_is_a_marker_or_a_data_error(text: str) -> None:
    try:
        found = marker.parse(text, "marker")
    except DataError:
        return
    assert found.kernel
    assert "/" not in found.kernel + (found.version or "")


def test_no_file_is_no_marker(tmp_path: Path) -> None:
    assert marker.read(tmp_path) is None
    (tmp_path / "opt").write_text("a file where a folder should be")
    assert marker.read(tmp_path) is None


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_what_is_no_file_in_its_place_is_a_data_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "m")
    with pytest.raises(DataError, match="not a regular file") as caught:
        marker.read(tmp_path, "/m")
    assert caught.value.code == "marker_invalid"


def test_a_folder_in_its_place_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        marker.read(tmp_path, "/m")


def test_bytes_that_are_no_text_are_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"kernel=\xff\xfe\n")
    with pytest.raises(DataError):
        marker.read(tmp_path, "/m")
