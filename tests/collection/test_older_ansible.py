"""The oldest ansible-core that a controller may have: the tests of the actions and of whole playbooks, run with it."""

from __future__ import annotations

import re

from lab.machine import host, paths
from tests.collection.environments import environment

TESTS = ("tests/unit/plugin_utils", "tests/unit/playbooks")
TIMEOUT_S = 900.0


def test_actions_and_playbooks_work_with_the_oldest_ansible_core() -> None:
    python = environment("older-ansible") / "bin/python"
    version = host.run([str(python), "-m", "ansible", "adhoc", "--version"], timeout_s=60).stdout.splitlines()[0]
    assert re.search(r"\[core 2\.17\.", version), version
    argv = ["env", f"PATH={python.parent}:/usr/bin:/bin", f"--chdir={paths.TOP}", str(python), "-m", "pytest", *TESTS]
    ran = host.run(argv, timeout_s=TIMEOUT_S, check=False, env={"ANSIBLE_CONFIG": str(paths.TOP / "ansible.cfg"), "PYTHONPATH": ""})
    assert ran.rc == 0, host.tail(ran.stdout + ran.stderr)
    assert int(re.findall(r"(\d+) passed", ran.stdout)[-1]) > 50
