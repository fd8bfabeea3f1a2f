"""JSON of others, and documents of ours, however odd."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import jsondoc

DEEP = "[" * 100_000 + "]" * 100_000
ODD = [
    pytest.param(DEEP, "nested too deeply", id="deep"),
    pytest.param("[" * 33 + "]" * 33, "nested too deeply", id="deeper than any that we need"),
    pytest.param('{"a":1,"a":2}', "the key .a. is there twice", id="a key twice"),
    pytest.param('{"a":NaN}', "NaN is not a number", id="NaN"),
    pytest.param("-Infinity", "Infinity is not a number", id="infinite"),
    pytest.param("1" * 21, "a number has 21 digits", id="a number of many digits"),
    pytest.param("[" + " " * 4_200_000 + "]", "longer than", id="long"),
    pytest.param(b"\xff\xfe\x00", "codec", id="no text"),
    pytest.param(b"{\xff}", "codec", id="not UTF-8"),
    pytest.param("", "Expecting value", id="empty"),
]


@pytest.mark.parametrize(("text", "said"), ODD)
def test_whatever_is_wrong_with_others_json_is_a_value_error(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jsondoc.parse(text)


def test_others_json_is_read_in_any_encoding_that_it_may_have() -> None:
    assert jsondoc.parse('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert jsondoc.parse('"ü"'.encode("utf-16")) == "ü"
    assert jsondoc.parse("[" * 32 + "]" * 32)


@pytest.mark.parametrize(
    "text", [DEEP, '{"schema": NaN}', '{"schema": 1.0}', '{"schema": true}', '{"schema": {"a": 1}}', '{"schema": 1e999}']
)
def test_whatever_is_wrong_with_a_document_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError, match="it is not used") as caught:
        jsondoc.load(text, 1, "/x.json", "x_invalid")
    assert caught.value.code == "x_invalid"
    assert not jsondoc.is_newer(caught.value, 1)


def test_a_message_is_short_however_long_or_deep_the_value_is() -> None:
    deep: object = []
    for _ in range(3000):
        deep = [deep]
    for value in (deep, "x" * 10**6, ["x"] * 10**6, {"x" * 10**6: 1}):
        with pytest.raises(DataError) as caught:
            jsondoc.get({"k" * 10**6: value}, "k" * 10**6, int, "/x.json", "x_invalid")
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("value", "good"), [(0, True), (2**63 - 1, True), (2**63, False), (-1, False), (10**30, False), (True, False)])
def test_whole_numbers_have_a_range(value: int, good: bool) -> None:
    if good:
        assert jsondoc.whole({"n": value}, "n", "/x.json", "x_invalid") == value
        return
    with pytest.raises(DataError, match=r"/x\.json: n is"):
        jsondoc.whole({"n": value}, "n", "/x.json", "x_invalid")
