"""What others wrote is safe to show: no terminal obeys it, no text is shown in another order, every text can be written to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import plaintext
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import Events, ProgressLog
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.plaintext import LONGEST, clean, clean_data, clean_text
from hypothesis import given
from hypothesis import strategies as st

UNSAFE = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"} - {"\t"}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        pytest.param("\x1b[31mred\x1b[0m \x1b[2K", "red ", id="colours"),
        pytest.param("\x1b]0;title\x07text", "text", id="a title"),
        pytest.param("\x9b31mred", "red", id="an 8-bit sequence"),
        pytest.param("a\rb\x08\x00", "a?b??", id="other controls"),
        pytest.param("a\nb\n", "a?b", id="a line end inside"),
        pytest.param("tab\tstays\r", "tab\tstays", id="tab"),
        pytest.param("user\u202egnp.exe", "user?gnp.exe", id="right to left"),
        pytest.param("a\u2066b\u2069\u200f\u061c", "a?b???", id="other bidi controls"),
        pytest.param("a\u2028b", "a?b", id="a line separator"),
        pytest.param("a\udcffb", "a?b", id="a byte that is not UTF-8"),
        pytest.param("fünf €", "fünf €", id="other languages"),
        pytest.param("x" * (LONGEST + 9), "x" * (LONGEST - 3) + "...", id="too long"),
    ],
)
def test_nothing_that_a_terminal_would_obey_is_shown(line: str, shown: str) -> None:
    assert clean(line) == shown


@given(st.text(max_size=50).map(lambda text: text.replace("?", "\x1b[")))
def test_whatever_the_line_its_result_is_safe(line: str) -> None:
    shown = clean(line)
    assert UNSAFE.isdisjoint(shown)
    shown.encode()


def test_a_text_keeps_its_lines() -> None:
    assert clean_text("a\x1b[K\r\nb\x07\n") == "a\nb?\n"


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_data_can_be_written_as_json(value: Any) -> None:
    text = json.dumps(clean_data(value), allow_nan=False, ensure_ascii=False)
    assert clean_data(json.loads(text)) == json.loads(text)
    text.encode()


def test_data_that_is_nested_without_end_is_cut() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    assert json.dumps(clean_data(value)).count("[") == plaintext.DEEPEST


def test_the_nodes_own_log_and_its_steps_are_clean(tmp_path: Path) -> None:
    say = ProgressLog(tmp_path, "x.log")
    say("CC \x1b[31mx.o\u202e\nsecond\udcff")
    assert (tmp_path / "var/log/gpu-prebake/x.log").read_text()[9:] == "CC x.o?\nsecond?\n"
    events = Events()
    with pytest.raises(ValueError, match="\x1b"), events.step("build"):
        raise ValueError("no \x1b[31mgood")
    assert events.steps[0]["error"] == "no good"


def test_the_controllers_program_reads_the_same_file() -> None:
    top = Path(__file__).parents[4]
    assert (top / "src/gpu_prebake/plaintext.py").resolve() == (top / "plugins/module_utils/gpunode/util/plaintext.py").resolve()
