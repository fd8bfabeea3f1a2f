"""Which events of ansible-runner count: a node's text reaches its output too, and must not pass for an event."""

from __future__ import annotations

import base64
import json
import os
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_runner.utils import OutputEventFilter

from gpu_prebake.driver import Driver, Events
from gpu_prebake.nodes import Run, Watcher


class Ansible:
    """What Ansible's callback does: writes events to files, and their names, between control sequences, to the output."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(Watcher(), str)
        self.events = folder / "job_events"
        self.events.mkdir()
        runner = Events(config=SimpleNamespace(artifact_dir=str(folder)), event_handler=self.run.take)
        self.output = OutputEventFilter(None, runner.event_callback, True)

    def event(self, kind: str, text: str = "", **data: Any) -> None:
        name = str(uuid.uuid4())
        (self.events / f"{name}-partial.json").write_text(json.dumps({"event": kind, "pid": os.getpid(), "event_data": data}))
        self.output.write(f"{token({'uuid': name})}{text}\n{token({})}")


def token(data: dict[str, Any]) -> str:
    text = base64.b64encode(json.dumps(data).encode()).decode()
    return f"\x1b[K{text}\x1b[{len(text)}D\x1b[K"


def forged(kind: str, host: str, **more: Any) -> str:
    data = {"host": host, "res": {"changed": True, "code": "forged", "msg": "forged"}, "failures": {}, "dark": {}, "task": "forged"}
    return token({"uuid": str(uuid.uuid4()), "event": kind, "event_data": data, "pid": -1, **more}) + "\n" + token({})


@pytest.fixture
def ansible(tmp_path: Path) -> Ansible:
    found = Ansible(tmp_path)
    for host in ("good", "bad"):
        found.event("runner_on_start", host=host, task="Bake")
    return found


@pytest.mark.parametrize(
    "kind", ["runner_on_failed", "runner_on_unreachable", "runner_on_ok", "playbook_on_stats", "runner_on_start", "verbose"]
)
@pytest.mark.parametrize("more", [{}, {"uuid": "../x"}, {"uuid": 7}, {"stdout": 3}])
def test_an_event_that_a_node_forges_in_a_warning_does_not_count(ansible: Ansible, kind: str, more: dict[str, Any]) -> None:
    ansible.event("runner_on_failed", host="bad", res={"code": "no_space", "msg": "m"})
    ansible.event("warning", f"[WARNING]: {forged(kind, 'good', **more)}{forged(kind, 'bad', **more)}")
    ansible.event("runner_on_ok", host="good", res={"changed": False})
    ansible.event("playbook_on_stats", failures={"bad": 1}, dark={}, changed={})
    nodes = ansible.run.nodes
    assert {name: node.outcome for name, node in nodes.items()} == {"good": "ok", "bad": "failed"}
    assert [step.name for node in nodes.values() for step in node.steps] == ["Bake", "Bake"]
    assert (nodes["bad"].failed or {})["code"] == "no_space"
    assert list(ansible.events.iterdir()) == []


def test_a_file_outside_the_folder_of_events_is_no_event(ansible: Ansible) -> None:
    (ansible.events.parent / "x-partial.json").write_text(
        json.dumps({"event": "runner_on_failed", "event_data": {"host": "good", "res": {}}})
    )
    ansible.event("warning", forged("runner_on_failed", "good", uuid="../x"))
    assert ansible.run.nodes["good"].failed is None
    assert (ansible.events.parent / "x-partial.json").exists()


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, ""])
def test_an_event_that_cannot_be_read_is_output(ansible: Ansible, text: str) -> None:
    name = str(uuid.uuid4())
    (ansible.events / f"{name}-partial.json").write_text(text)
    ansible.output.write(f"{token({'uuid': name})}hello\n{token({})}")
    assert ansible.run.said == ["hello"]


def test_an_interrupt_goes_to_the_process_that_was_started_and_to_no_other(ansible: Ansible, tmp_path: Path) -> None:
    driver = Driver(ansible.run, [], {}, {})
    assert driver._pid() == 0
    driver._pid_file = tmp_path / "pid"
    assert driver._pid() == 0
    driver._pid_file.write_text("")
    assert driver._pid() == 0
    driver._pid_file.write_text("4194304\n")  # a number that no process has
    driver._interrupt(2, None)
    assert driver.interrupts == 1
