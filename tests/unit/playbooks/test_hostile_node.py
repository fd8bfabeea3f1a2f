"""Our playbooks against a node that answers like an attacker: each module call gets an answer that tries to command the controller.

The node is this machine, over a local connection, with a shell of the attacker's. It is asked by the real ansible-playbook.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[3]
SECRET = "-----BEGIN PRIVATE KEY----- the operator's"
SHELL = """#!/bin/sh
cp -r {folder}/remote/. {folder}/stolen/ 2>/dev/null
case "$2" in
  *"/bin/sh"*) cat >>{folder}/stolen/input ;;
  *python3*) cat >>{folder}/stolen/input; cat {folder}/answer.json ;;
  *) exec /bin/sh "$@" ;;
esac
"""
FORGED = "\x1b[K\x1b[31mforged\u202e"


@dataclass
class Attack:
    """A controller with an operator's files, a node that is not his any more, and what came of a run."""

    folder: Path
    rc: int = 0
    out: str = ""

    @property
    def operator(self) -> Path:
        return self.folder / "operator"

    def facts(self) -> dict[str, Any]:
        secret, shell = str(self.operator / "id_ed25519"), str(self.operator / "bashrc")
        return {
            "nvidia_prebake_image_archive": secret,
            "nvidia_prebake_image_archive_remote_src": False,
            "nvidia_prebake_signing_key": secret,
            "nvidia_prebake_signing_certificate": secret,
            "nvidia_prebake_signing_remote_src": False,
            "nvidia_prebake_report_path": shell,
            "nvidia_prebake_seal_report_path": shell,
            "gpu_boot_image_archive": secret,
            "gpu_boot_image_archive_remote_src": False,
            "gpu_boot_report_folder": str(self.operator / "folder"),
            "inventory_hostname": "../operator/bashrc",
            "__nvidia_prebake_report_path": shell,
            "__nvidia_prebake_seal_report_path": shell,
            "__gpu_boot_report_folder": str(self.operator / "folder"),
        }

    def answer(self, **more: Any) -> None:
        given = {
            "changed": True,
            "missing_packages": ["gcc"],
            "image_wanted": True,
            "report": {"written": "by the node"},
            "release_note": FORGED,
            "summary": FORGED,
            "action": "install",
            "reason_code": "never_baked",
            "reason": FORGED,
            "warnings": [FORGED],
            "ansible_facts": self.facts(),
            "ansible_stats": {"data": {"x": 1}, "per_host": True, "aggregate": False},
            **more,
        }
        (self.folder / "answer.json").write_text(json.dumps(given))

    def play(self, *playbooks: str, **variables: Any) -> None:
        hosts = json.loads((self.folder / "hosts.json").read_text())
        hosts["all"]["vars"] = variables  # and not by -e, which wins over everything
        (self.folder / "hosts.json").write_text(json.dumps(hosts))
        image = {f"{role}_image": "reg.example/aks/aks-gpu-cuda:580.126.09-20260430040408" for role in ("nvidia_prebake", "gpu_boot")}
        argv = [sys.executable, "-m", "ansible", "playbook", "-i", str(self.folder / "hosts.json")]
        argv += ["-e", json.dumps({"nvidia_prebake_enabled": True, **image})]
        argv += [str(TOP / f"playbooks/{name}.yml") for name in playbooks]
        # As an operator's own configuration may have it: only what the playbooks do by themselves protects.
        env = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_INJECT_FACT_VARS": "True", "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL)
        self.rc, self.out = done.returncode, done.stdout + done.stderr

    def is_untouched(self) -> bool:
        """Whether the operator's files are as they were, and the node has got none of them."""
        files = {path.name: path.read_text() for path in self.operator.rglob("*") if path.is_file()}
        stolen = "".join(path.read_text(errors="replace") for path in (self.folder / "stolen").rglob("*") if path.is_file())
        return files == {"id_ed25519": SECRET, "bashrc": ""} and SECRET not in stolen


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    for name in ("operator", "remote", "stolen"):
        (tmp_path / name).mkdir()
    (tmp_path / "operator/id_ed25519").write_text(SECRET)
    (tmp_path / "operator/bashrc").write_text("")
    shell = tmp_path / "shell"
    shell.write_text(SHELL.format(folder=tmp_path))
    shell.chmod(0o755)
    node = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_shell_executable": str(shell),
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_remote_tmp": str(tmp_path / "remote"),
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"node-1": node}}}))
    found = Attack(tmp_path)
    found.answer()
    return found


def test_a_bake_reads_and_writes_only_what_the_operator_named(attack: Attack) -> None:
    report = attack.folder / "wanted/bake.json"
    attack.play("prebake", nvidia_prebake_report_path=str(report))
    assert attack.rc == 0, attack.out
    assert json.loads(report.read_text()) == {"written": "by the node"}
    assert attack.is_untouched()


def test_a_seal_writes_its_report_where_the_operator_said(attack: Attack) -> None:
    report = attack.folder / "wanted/seal.json"
    attack.play("seal", nvidia_prebake_seal_report_path=str(report))
    assert attack.rc == 0, attack.out
    assert json.loads(report.read_text()) == {"written": "by the node"}
    assert attack.is_untouched()
    assert "forged" in attack.out
    assert not {"\x1b", "\u202e"} & set(attack.out)


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_boots_result_goes_into_the_folder_that_the_operator_named_or_nowhere(attack: Attack, is_asked: bool) -> None:
    folder = attack.folder / "wanted"
    attack.play("boot", **({"gpu_boot_report_folder": str(folder)} if is_asked else {}))
    assert attack.rc == 0, attack.out
    assert attack.is_untouched()
    assert [path.name for path in folder.glob("*")] == (["node-1.json"] if is_asked else [])
    assert not {"\x1b", "\u202e"} & set(attack.out)


def test_an_answer_of_other_types_fails_that_node_with_a_code(attack: Attack) -> None:
    attack.answer(reason=True)
    attack.play("boot")
    assert attack.rc == 2, attack.out
    assert "code: bad_answer" in attack.out
    assert attack.is_untouched()


def test_variables_that_an_earlier_task_let_in_are_refused(attack: Attack) -> None:
    """The bake's own apt task is one: it is Ansible's, so its answer sets variables, and the seal of the same run would use them."""
    attack.play("prebake", "seal", nvidia_prebake_seal_report_path=str(attack.folder / "wanted/seal.json"))
    assert attack.rc == 2, attack.out
    assert "as facts, which override the inventory" in " ".join(attack.out.split())
    assert attack.is_untouched()
