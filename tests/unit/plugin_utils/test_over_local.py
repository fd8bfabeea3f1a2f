"""A followed module over connections other than ssh, run by the real ansible-playbook: its lines, its result, its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
ACTION = """
from ansible_collections.gpu.prebake.plugins.plugin_utils import followed, jobscript
from ansible_collections.gpu.prebake.plugins.plugin_utils.followed import FollowedAction

jobscript.JOBS = {jobs!r}
followed.POLL_S = 0.1
followed.BESIDE_MODULE_S = {beside_s}


class ActionModule(FollowedAction):
    log = {log!r}

    def limit_s(self):
        return {limit_s}

    def is_followed(self):
        return True

    def _checked(self, answer):  # the module of this test documents nothing
        return dict(answer)

    def run_module(self, arguments, task_vars):
        if self._task.args.get("without_pipelining"):
            self._connection.has_pipelining = False
        return super().run_module(arguments, task_vars)
"""
MODULE = """#!/usr/bin/python3
import pathlib, signal, sys, time
from ansible.module_utils.basic import AnsibleModule

def main():
    module = AnsibleModule(argument_spec=dict(seconds=dict(type="float"), without_pipelining=dict(type="bool")))
    signal.signal(signal.SIGTERM, lambda *_: module.fail_json(msg="stopped"))
    fresh = pathlib.Path({log!r} + ".new")
    fresh.write_text("    0.10 one \\x1b[31mline\\n    0.20 f\\u00fcnf\\n")
    fresh.rename({log!r})
    time.sleep(module.params["seconds"])
    module.exit_json(changed=True, said="done")

main()
"""
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - slow_thing:
        seconds: "{{ seconds }}"
        without_pipelining: "{{ without_pipelining }}"
"""


def play(folder: Path, seconds: float, without_pipelining: bool = False, beside_s: float = 60) -> tuple[int, str]:
    """Ansible's exit status and output, of a play whose module takes so many seconds."""
    given = {"jobs": str(folder / "jobs"), "log": str(folder / "slow.log"), "limit_s": 60, "beside_s": beside_s}
    for name, text in (("action_plugins", ACTION), ("library", MODULE)):
        (folder / name).mkdir()
        (folder / name / "slow_thing.py").write_text(text.format(**given))
    (folder / "play.yml").write_text(PLAY)
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_remote_tmp": str(folder / "tmp")}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"node-1": host}}}))
    variables = json.dumps({"seconds": seconds, "without_pipelining": without_pipelining})
    argv = [sys.executable, "-m", "ansible", "playbook", "-v", "-i", str(folder / "hosts.json"), "-e", variables, str(folder / "play.yml")]
    env = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(TOP / "collections")}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("without_pipelining", [False, True])
def test_its_lines_and_its_result_arrive_and_nothing_is_left(tmp_path: Path, without_pipelining: bool) -> None:
    rc, out = play(tmp_path, 0.5, without_pipelining)
    assert rc == 0, out
    assert "node-1 |     0.10 one line\nnode-1 |     0.20 fünf\n" in out
    assert "said: done" in out
    assert list((tmp_path / "jobs").iterdir()) == []
    end = time.monotonic() + 30
    while list((tmp_path / "tmp").iterdir()):  # Ansible's wrapper removes its folder after the job has ended
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_node_that_says_running_for_ever_is_waited_for_as_long_as_its_module_may_take(tmp_path: Path) -> None:
    rc, out = play(tmp_path, 600, beside_s=-59)
    assert rc == 2, out
    assert "code: overdue" in out
    assert list((tmp_path / "jobs").iterdir()) == []
