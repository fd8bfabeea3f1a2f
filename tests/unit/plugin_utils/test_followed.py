"""Following a module on its node: the shell lines run for real, on a job that is made like Ansible's."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.plaintext import LONGEST
from ansible_collections.gpu.prebake.plugins.plugin_utils import followed, jobscript
from ansible_collections.gpu.prebake.plugins.plugin_utils.followed import Lines

JID = "j123.45"
RUNNING = json.dumps({"started": True, "finished": False, "ansible_job_id": JID})
# Takes the place of async_wrapper: runs the module and writes its result.
WRAPPER = """
import subprocess, sys, pathlib
result = subprocess.run([sys.executable, sys.argv[2]], stdout=subprocess.PIPE).stdout
pathlib.Path(sys.argv[1]).write_bytes(result)
"""
MODULE = """
import json, signal, sys, time
def stop(*_):
    print(json.dumps({"failed": True, "code": "interrupted"})); sys.exit(1)
signal.signal(signal.SIGTERM, stop)
time.sleep(60)
"""


class Job:
    """A job on this machine: its temporary folder, its log, and the folder of job files."""

    def __init__(self, folder: Path) -> None:
        self.jobs, self.tmp, self.log = folder / "jobs", folder / "ansible-tmp-1", folder / "bake.log"
        self.tmp.mkdir()
        (self.tmp / "async_wrapper.py").write_text(WRAPPER)
        (self.tmp / "AnsiballZ_x.py").write_text(MODULE)
        self.file = self.jobs / JID

    def start(self) -> subprocess.Popen[bytes]:
        self.file.write_text(RUNNING)
        return subprocess.Popen([sys.executable, str(self.tmp / "async_wrapper.py"), str(self.file), str(self.tmp / "AnsiballZ_x.py")])

    def sh(self, script: str) -> str:
        return subprocess.run(["/bin/sh"], input=script, text=True, capture_output=True, check=False, timeout=60).stdout

    def look(self, passed: str = "", offset: int = 0) -> jobscript.Look:
        seen = jobscript.looked("greeting of the machine\n" + self.sh(jobscript.look(str(self.log), passed, offset, JID, str(self.tmp))))
        assert seen
        return seen

    def begin(self) -> str | None:
        return jobscript.begun(self.sh(jobscript.begin(str(self.log))))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(jobscript, "JOBS", shlex.quote(str(tmp_path / "jobs")))
    return Job(tmp_path)


@pytest.mark.subprocess
def test_a_job_is_running_then_told_to_stop_and_its_own_answer_arrives(job: Job) -> None:
    assert job.begin() == ""
    wrapper = job.start()
    try:
        end = time.monotonic() + 30
        while subprocess.run(["pgrep", "-f", str(job.tmp / "AnsiballZ_x.py")], check=False, capture_output=True).stdout.count(b"\n") < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)  # until it has set its handler
        assert job.look().state == "running"
        answer = jobscript.stopped(job.sh(jobscript.stop(JID, str(job.tmp), 30)))
        assert json.loads(answer) == {"failed": True, "code": "interrupted"}
        assert not job.file.exists()
    finally:
        wrapper.kill()
        wrapper.wait()


@pytest.mark.subprocess
def test_a_job_without_a_process_is_dead_and_one_with_a_result_is_done(job: Job) -> None:
    job.begin()
    job.file.write_text(RUNNING)
    assert job.look().state == "dead"
    job.file.write_text(json.dumps({"changed": True, "msg": '{"started": true}'}))
    assert job.look().state == "done"


@pytest.mark.subprocess
def test_an_earlier_runs_log_is_passed_over_and_the_new_one_is_read_from_where_it_was_left(job: Job) -> None:
    job.log.write_text("old\n")
    passed = job.begin()
    assert passed == str(job.log.stat().st_ino)
    assert job.look(passed).data == ""
    fresh = job.log.with_name("fresh")
    fresh.write_text("    0.10 one\n    0.20 t")
    fresh.rename(job.log)
    first = job.look(passed)
    assert (first.data, first.inode) == ("    0.10 one\n    0.20 t", str(job.log.stat().st_ino))
    assert job.look(passed, len(first.data) - 1).data == "t"


@pytest.mark.subprocess
def test_what_ended_jobs_of_lost_callers_left_goes_and_a_running_one_stays(job: Job) -> None:
    job.begin()
    job.file.write_text(RUNNING)
    (job.jobs / "j9.9").write_text(json.dumps({"changed": False}))
    job.begin()
    assert [path.name for path in job.jobs.iterdir()] == [JID]
    assert job.jobs.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "output", ["", "sudo: a password is required", "gpu-prebake-look", "gpu-prebake-look \n", "gpu-prebake-look sleeping 1.\n"]
)
def test_an_answer_that_is_none_is_not_taken_for_one(output: str) -> None:
    assert jobscript.looked(output) is None


def test_lines_wait_for_their_end_and_empty_ones_are_left_out() -> None:
    lines = Lines()
    assert lines.take("    1.00 one\n    1.50 \n\n    2.00 tw") == ["    1.00 one"]
    assert lines.take("o\n    3.00 three") == ["    2.00 two"]
    assert lines.rest() == ["    3.00 three"]
    assert lines.rest() == []


def test_a_line_without_an_end_and_an_answer_of_any_size_are_not_kept() -> None:
    lines = Lines()
    for _ in range(100):
        assert lines.take("x" * 10_000) == []
    assert len(lines._pending) <= LONGEST + 1
    seen = jobscript.looked("gpu-prebake-look running 7.\n" + "x" * 1_000_000)
    assert seen
    assert len(seen.data) == jobscript.MOST_BYTES


@pytest.mark.parametrize("text", ["", "[1]", "x", "[" * 100_000, '{"msg": "\\u001b[31mred\\ud800"}'])
def test_an_interrupted_modules_answer_is_an_object_and_clean_or_nothing(text: str) -> None:
    assert followed._answer_of(text) in ({}, {"msg": "red?"})


TRACES = ["   12.34 + cp -a /opt/gpu/. /mnt/gpu/", "    0.01 ++ uname -r", "    3.00 + 2026-06-01T12:00:00 dkms status"]
SAID = ["    1.00 pull-image: ok in 1.00 s", "    2.00 nvidia.c:1:2: error: x + y", "unreachable, its work continues", "    2.00 1 + 1"]


@pytest.mark.parametrize(("verbosity", "shown"), [(0, SAID), (1, [*TRACES, *SAID])])
def test_traces_are_shown_only_with_v(verbosity: int, shown: list[str]) -> None:
    assert followed.to_show([*TRACES, *SAID], verbosity) == shown
