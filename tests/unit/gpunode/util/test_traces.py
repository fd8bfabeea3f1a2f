"""Which lines of a script's output are traces of bash: what bash really prints, and what commands print."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.traces import is_trace, without_traces

SCRIPT = 'set -x\nf() { x=$(true); : "$(: $(:))"; }\nf\nset +x\n'


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "ps4",
    [
        "+ ",
        "+ $(date +%FT%T) ",
        "+ $(date --iso-8601=seconds) ",
        "+[$(date +%T)] ",
        "+(install.sh:$LINENO): ",
        "[$(date +%FT%T)] + ",
        "[$(date +%FT%T%:z)]: + ",
        "$(date +%FT%T.%3N) + ",
    ],
)
def test_what_bash_prints_is_a_trace(ps4: str) -> None:
    done = subprocess.run(["bash", "-c", SCRIPT], env={"PS4": ps4, "PATH": "/usr/bin:/bin"}, text=True, capture_output=True, check=True)
    printed = done.stderr.splitlines()
    assert len(printed) > 4
    assert [line for line in printed if not is_trace(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "+15 C",
        "1 + 1",
        "2026-06-01T12:00:00 error: no device",
        "[    3.141592] NVRM: Xid 79 + more",
        "nvidia.c:1:2: error: a + b",
        "  + indented",
        "T 1795577719.500000 marker",
    ],
)
def test_what_commands_print_is_none(line: str) -> None:
    assert not is_trace(line)


def test_a_line_of_any_length_is_read_in_no_time() -> None:
    assert not is_trace("[" * 1_000_000)
    assert is_trace("+ " + "x" * 1_000_000)


def test_a_text_without_its_traces() -> None:
    assert without_traces("+ a\nb\n++ c\nd\n") == "b\nd\n"
