"""Starting real programs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import CommandError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import run
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

RUNNER = SystemRunner()


def test_without_the_marker_no_test_can_start_a_program() -> None:
    with pytest.raises(AssertionError, match="wants to start a program"):
        subprocess.run(["true"], check=False)


@pytest.mark.subprocess
def test_output_status_and_locale() -> None:
    result = RUNNER.run(["sh", "-c", 'echo out; echo err >&2; echo "$LC_ALL"; cat; exit 3'], ok=(0, 3))
    assert (result.rc, result.stdout, result.stderr) == (3, "out\nC.UTF-8\n", "err\n")


@pytest.mark.subprocess
def test_another_status_is_an_error_with_the_output() -> None:
    with pytest.raises(CommandError, match="exit status 3: why") as caught:
        RUNNER.run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.rc == 3
    assert RUNNER.run(["false"], ok=None).rc == 1


@pytest.mark.subprocess
def test_a_missing_program_is_said_to_be() -> None:
    with pytest.raises(CommandError, match="no-such-program-here: missing or not executable") as caught:
        RUNNER.run(["no-such-program-here"])
    assert caught.value.rc is None


@pytest.mark.subprocess
@pytest.mark.parametrize("streaming", [False, True], ids=["captured", "line by line"])
def test_at_its_limit_the_whole_group_is_killed(tmp_path: Path, streaming: bool) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! > {pids}; echo begun; wait"
    lines: list[str] = []
    start = time.monotonic()
    with pytest.raises(CommandError, match="timed out after 0 s, killed") as caught:
        RUNNER.run(["sh", "-c", script], timeout_s=0.4, on_line=lines.append if streaming else None)
    assert time.monotonic() - start < 5
    assert caught.value.rc is None
    assert "begun" in caught.value.output
    time.sleep(0.1)
    stat = Path(f"/proc/{pids.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.mark.subprocess
def test_lines_come_as_they_are_written_both_outputs_merged() -> None:
    seen: list[tuple[float, str]] = []
    start = time.monotonic()
    result = RUNNER.run(["sh", "-c", "echo a; sleep 0.4; echo b >&2; printf c"], on_line=lambda s: seen.append((time.monotonic(), s)))
    assert [line for _, line in seen] == ["a", "b", "c"]
    assert seen[0][0] - start < 0.35
    assert result.stdout == "a\nb\nc\n"


@pytest.mark.subprocess
def test_a_program_left_behind_does_not_hold_up_the_end() -> None:
    start = time.monotonic()
    result = RUNNER.run(["sh", "-c", "sleep 20 & echo $!"], timeout_s=15, on_line=lambda _: None)
    assert time.monotonic() - start < 5
    os.kill(int(result.stdout), 9)


def test_a_process_that_takes_no_signal_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as nvidia-smi in state D on a GPU that has fallen off the bus."""

    class Hung:
        pid, stdout, stderr = 2**22, None, None

        def wait(self, timeout: float | None = None) -> int:
            assert timeout is not None, "an unbounded wait"
            raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    run._kill_group(Hung())  # type: ignore[arg-type]


@pytest.mark.subprocess
def test_a_program_in_the_background_ends_with_its_input() -> None:
    running = RUNNER.start(["sh", "-c", "echo ready 7; cat; exit 5"])
    assert running.line(10) == "ready 7"
    assert running.line(0.1) == "", "it writes nothing more"
    assert running.end(10) == 5


@pytest.mark.subprocess
def test_a_program_in_the_background_that_does_not_end_is_killed() -> None:
    running = RUNNER.start(["sh", "-c", "echo $$; exec sleep 300"])
    pid = int(running.line(10))
    assert running.end(0.2) is None
    assert not Path(f"/proc/{pid}").exists()
    assert RUNNER.start(["true"]).line(10) == "", "one that ends without output"


@pytest.mark.subprocess
def test_a_program_in_the_background_sees_the_end_of_a_killed_starter(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        RUNNER.start(["sh", "-c", f"cat; echo over > {tmp_path / 'seen'}"])
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    end = time.monotonic() + 10
    while not (tmp_path / "seen").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


PROMPT = """
import os, sys
print("Password: ", end="")
print(sys.stdin.readline().rstrip("\\n")[::-1], os.isatty(0), os.isatty(1))
"""


@pytest.mark.subprocess
@pytest.mark.parametrize("line", ["se cret:\"$w'ord", "ü" * 2000, "x" * 4094], ids=["special", "wide", "longest"])
def test_a_line_is_typed_at_a_terminal_and_shown_nowhere(line: str) -> None:
    result = RUNNER.run([sys.executable, "-c", PROMPT], typed=line)
    assert result.stdout == f"Password: {line[::-1]} True False\n"


@pytest.mark.subprocess
def test_a_typed_line_nobody_reads_does_no_harm() -> None:
    assert RUNNER.run(["true"], typed="x").rc == 0
    with pytest.raises(CommandError, match="timed out"):
        RUNNER.run(["sleep", "60"], timeout_s=0.2, typed="x")


# --- more output than anybody needs -------------------------------------------------------------------------------------


@pytest.mark.subprocess
@pytest.mark.parametrize("stream", ["", " >&2"], ids=["output", "errors"])
def test_a_program_that_never_stops_writing_is_killed(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    monkeypatch.setattr(run, "MOST_OUTPUT", 1 << 20)
    with pytest.raises(CommandError, match="wrote more than 1 MiB, killed") as caught:
        RUNNER.run(["sh", "-c", f"yes{stream}"])
    assert (caught.value.rc, caught.value.timed_out) == (None, False)
    assert len(caught.value.output) <= 1 << 20


@pytest.mark.subprocess
def test_of_lines_that_are_passed_on_only_both_ends_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "KEPT_OUTPUT", 1 << 16)
    passed: list[str] = []
    result = RUNNER.run(["sh", "-c", "echo first; yes | head -n 100000; echo last"], on_line=passed.append)
    assert len(passed) == 100_002
    kept = result.stdout.splitlines()
    assert (kept[0], kept[-1]) == ("first", "last")
    assert [line for line in kept if "were cut here" in line]
    assert len(result.stdout) < 3 << 16


@pytest.mark.subprocess
def test_a_line_without_an_end_is_cut() -> None:
    passed: list[str] = []
    RUNNER.run(["sh", "-c", "head -c 3000000 /dev/zero; echo; echo next"], on_line=passed.append)
    assert [len(line) < 9000 for line in passed] == [True, True]
    assert passed[0].endswith(" [2991808 bytes cut]")
    assert passed[1] == "next"


@pytest.mark.subprocess
def test_a_first_line_without_an_end_is_none() -> None:
    running = RUNNER.start(["sh", "-c", "cat /dev/zero"])
    assert running.line(60) == ""
    running.end(0.1)


@pytest.mark.parametrize("word", ["a\0b", "\ud800"], ids=["a NUL byte", "no bytes at all"])
@pytest.mark.subprocess
def test_an_argument_that_no_program_can_have_is_an_error_of_ours(word: str) -> None:
    with pytest.raises(CommandError, match="it cannot be started"):
        RUNNER.run(["true", word])
