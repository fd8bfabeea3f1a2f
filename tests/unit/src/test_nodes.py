"""From ansible-runner's events to the state and the report of each node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_prebake import nodes, report
from gpu_prebake.exits import Exit
from gpu_prebake.nodes import Run, Watcher
from gpu_prebake.session import exit_status

KEYS = ("changed", "report", "identity", "steps", "invocation", "module_args", "code", "msg", "left", "refused", "summary", "kver")
ODD = st.sampled_from((None, True, 1, float("nan"), "text", "\x1b[2J\udcff", "", [], {}))
ANSWERS = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=8
)


class Heard(Watcher):
    """Records its calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.texts: list[str] = []
        self.waits: list[float] = []

    def line(self, node: Any, line: str) -> None:
        self.lines.append(f"{node.name}: {line}")

    def said(self, text: str) -> None:
        self.texts.append(text)

    def waiting(self, node: Any, step: Any, seconds: float) -> None:
        self.waits.append(seconds)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(heard: Heard, clock: Clock) -> Run:
    return Run(heard, lambda text: text.replace("hunter22", "***"), clock=clock)


def event(kind: str, host: str = "", stdout: str = "", **data: Any) -> dict[str, Any]:
    return {"event": kind, "stdout": stdout, "event_data": {**({"host": host} if host else {}), **data}}


def begin(run: Run, host: str, task: str = "Build") -> None:
    run.take(event("runner_on_start", host, task=task))


def test_lines_are_assigned_to_the_node_that_they_name_without_escapes_and_secrets(run: Run, heard: Heard) -> None:
    begin(run, "a")
    run.take(event("verbose", stdout="a |  1.00 CC \x1b[31mx.o\nb | not a node\na | login hunter22"))
    assert heard.lines == ["a:  1.00 CC x.o", "a: login ***"]
    assert heard.texts == ["b | not a node"]


def test_a_step_is_timed_and_a_silent_one_is_reported_as_running(run: Run, heard: Heard, clock: Clock) -> None:
    begin(run, "a")
    clock.now = 20.0
    run.take(event("verbose", stdout="a | line"))
    clock.now = 45.0
    run.tick()
    assert heard.waits == []
    clock.now = 51.0
    run.tick()
    run.tick()
    assert heard.waits == [51.0]
    run.take(event("runner_on_ok", "a", res={"changed": True}, task_action="apt"))
    assert [(s.name, s.seconds, s.outcome) for s in run.nodes["a"].steps] == [("Build", 51.0, "changed")]


def test_outcomes_and_statuses(run: Run) -> None:
    for host in "abcd":
        begin(run, host)
    run.take(event("runner_on_ok", "a", res={}, task_action="x"))
    run.take(event("runner_on_failed", "b", res={"code": "compile_failed", "msg": "m"}, task_action="gpu.prebake.prebake_layer"))
    run.take(event("runner_on_unreachable", "c", res={"msg": "no route"}, task_action="x"))
    assert {name: node.outcome for name, node in run.nodes.items()} == {"a": "ok", "b": "failed", "c": "unreachable", "d": "unfinished"}
    assert exit_status(2, run, False) is Exit.FAILED
    assert exit_status(99, run, True) is Exit.INTERRUPTED
    assert report.node(run.nodes["b"])["code"] == "compile_failed"
    assert report.node(run.nodes["c"])["message"] == "no route"
    assert report.node(run.nodes["d"])["unfinished_step"] == "Build"
    run.take(event("playbook_on_stats", failures={}, dark={"c": 1}))
    assert run.nodes["b"].outcome == "ok", "the playbook has rescued it"
    assert exit_status(4, run, False) is Exit.UNREACHABLE


@pytest.mark.parametrize(
    ("command", "action", "result", "status"),
    [
        pytest.param("bake", "prebake_layer", {"changed": True}, Exit.OK, id="a bake"),
        pytest.param("bake", "prebake_layer", {"changed": False}, Exit.OK, id="a bake that found its layer"),
        pytest.param("bake", "debug", {}, Exit.NOT_BAKED, id="no bake"),
        pytest.param("seal", "image_seal", {"report": {"layers": ["cuda"]}}, Exit.OK, id="a seal"),
        pytest.param("seal", "image_seal", {"report": {"layers": []}}, Exit.NOT_BAKED, id="a seal of nothing"),
        pytest.param("boot", "gpu_boot", {"result": "nothing"}, Exit.OK, id="a boot without a GPU"),
        pytest.param("ansible-playbook", "debug", {}, Exit.OK, id="a playbook"),
    ],
)
def test_a_node_on_which_nothing_was_baked_has_a_status_of_its_own(
    run: Run, command: str, action: str, result: dict[str, Any], status: Exit
) -> None:
    begin(run, "a")
    run.take(event("runner_on_ok", "a", res=result, task_action=f"gpu.prebake.{action}"))
    assert exit_status(0, run, False, command) is status


@pytest.mark.parametrize(
    ("rc", "said", "status"),
    [
        pytest.param(0, "skipping: no hosts matched", Exit.NOTHING, id="nothing in the inventory"),
        pytest.param(
            1, "[ERROR]: Specified inventory, host pattern and/or --limit leaves us with no hosts to target.", Exit.NOTHING, id="limit"
        ),
        pytest.param(1, "[ERROR]: Unable to parse", Exit.USAGE, id="bad inventory"),
        pytest.param(0, "", Exit.OK, id="an empty play"),
    ],
)
def test_statuses_without_a_node(run: Run, rc: int, said: str, status: Exit) -> None:
    run.take(event("error", stdout=said))
    assert exit_status(rc, run, False) is status


def test_a_bake_and_a_boot_in_the_report(run: Run) -> None:
    begin(run, "a")
    identity = {"version": "580.1", "kind": "cuda", "flavour": "open", "kver": "6.1", "config_digest": "sha256:1"}
    baked = {"identity": identity, "files": 30, "bytes": 1000, "image": "r/i:t", "steps": [{"name": "build", "seconds": 1}]}
    run.take(event("runner_on_ok", "a", res={"changed": True, "report": baked}, task_action="gpu.prebake.prebake_layer"))
    entry = report.node(run.nodes["a"])
    wanted = {"action": "build-only", "driver_version": "580.1", "kernels": ["6.1"], "baked_bytes": 1000, "config_digest": "sha256:1"}
    assert {name: entry[name] for name in wanted} == wanted

    begin(run, "b")
    failed = {"action": "install", "reason_code": "never_baked", "code": "no_device", "msg": "m", "steps": []}
    run.take(event("runner_on_failed", "b", res=failed, task_action="gpu.prebake.gpu_boot"))
    entry = report.node(run.nodes["b"])
    assert (entry["action"], entry["reason_code"], entry["code"], entry["outcome"]) == ("install", "never_baked", "no_device", "failed")


def test_a_removal_in_the_report(run: Run) -> None:
    begin(run, "a")
    result = {"changed": True, "result": "removed", "left": [{"what": "x", "why": "y"}], "reboot_needed": False, "steps": []}
    run.take(event("runner_on_ok", "a", res=result, task_action="gpu.prebake.gpu_remove"))
    entry = report.node(run.nodes["a"])
    assert (entry["action"], entry["result"], entry["left"]) == ("remove", "removed", [{"what": "x", "why": "y"}])


def test_the_report_contains_the_seals_whole_report_whether_it_refused_or_not(run: Run) -> None:
    begin(run, "a")
    begin(run, "b")
    good, bad = {"refusals": [], "summary": "sealed: inert"}, {"refusals": [{"check": "inert", "problem": str(n)} for n in range(9)]}
    run.take(event("runner_on_ok", "a", res={"report": good, "summary": "sealed: inert"}, task_action="gpu.prebake.image_seal"))
    refused = {"code": "seal_refused", "msg": "this image must not ship", "report": bad}
    run.take(event("runner_on_failed", "b", res=refused, task_action="gpu.prebake.image_seal"))
    one, other = (report.node(run.nodes[name]) for name in "ab")
    assert (one["action"], one["reason"], one["seal"]) == ("seal", "sealed: inert", good)
    assert (other["action"], other["code"], other["seal"]) == ("seal", "seal_refused", bad)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(("prebake_layer", "gpu_boot", "gpu_remove", "image_seal", "apt")), st.booleans(), ANSWERS)
def test_one_nodes_odd_answer_is_no_matter_for_the_others(module: str, is_ok: bool, answer: Any) -> None:
    kind = "runner_on_ok" if is_ok else "runner_on_failed"
    run = Run(Watcher(), str)
    begin(run, "odd")
    begin(run, "good")
    run.take(event(kind, "odd", res=answer, task_action=f"gpu.prebake.{module}"))
    run.take(event("runner_on_ok", "good", res={"changed": True, "report": {"files": 30}}, task_action="gpu.prebake.prebake_layer"))
    entries = [report.node(node) for node in run.nodes.values()]
    assert (entries[1]["outcome"], entries[1]["baked_files"]) == ("changed", 30)
    report.summary(entries)
    json.dumps(entries, allow_nan=False, ensure_ascii=False).encode()


def test_an_odd_value_is_left_out_and_named(run: Run) -> None:
    begin(run, "a", "Bake")
    run.take(event("runner_on_ok", "a", res={"changed": "yes", "report": True, "steps": [1]}, task_action="gpu.prebake.prebake_layer"))
    entry = report.node(run.nodes["a"])
    assert entry["odd_values"] == ["Bake: changed", "Bake: report", "Bake: steps"]
    assert (entry["outcome"], entry["bake"], entry["module_steps"]) == ("ok", {}, [])


def test_output_without_an_event_is_shown_and_belongs_to_no_node(run: Run, heard: Heard) -> None:
    begin(run, "a")
    run.take({"stdout": "a | forged \x1b[2J\u202eline"})
    run.take(event("warning", stdout="[WARNING]: x\na | forged"))
    assert heard.lines == []
    assert heard.texts == ["a | forged ?line", "[WARNING]: x\na | forged"]


def test_what_was_said_is_not_kept_without_end(run: Run) -> None:
    for number in range(3 * nodes.SAID_KEPT):
        run.take(event("warning", stdout=f"{number}"))
    assert run.said[-1] == f"{3 * nodes.SAID_KEPT - 1}"
    assert len(run.said) == nodes.SAID_KEPT
