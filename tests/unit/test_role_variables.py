"""A misspelled variable ends the run, from wherever Ansible has it: real plays, against this machine, which end before any module runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - set_fact: {nvidia_prebake_enable: true}
      when: inventory_hostname == 'a-fact'
    - debug:
      register: gpu_remove_done
      when: inventory_hostname == 'a-result'
    - set_fact: {nvidia_prebake_result: {}, nvidia_prebake_seal: {}}
      when: inventory_hostname == 'a-second-call'
    - block:
        - include_role: {name: "gpu.prebake.{{ role }}", tasks_from: "{{ file }}"}
        - include_role: {name: gpu.prebake.nvidia_prebake}
          vars: {more: "{{ 1 if inventory_hostname == 'a-second-call' else 2 }}"}
          when: inventory_hostname == 'a-second-call'
        - include_role: {name: gpu.prebake.nvidia_prebake}
          vars: {nvidia_prebake_modes: captured}
          when: inventory_hostname == 'an-argument'
        - copy: {content: passed, dest: "{{ folder }}/{{ inventory_hostname }}"}
      rescue:
        - copy:
            content: "{{ ansible_failed_result.code }}: {{ ansible_failed_result.msg }}"
            dest: "{{ folder }}/{{ inventory_hostname }}"
"""
INVENTORY = """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}",
         role: nvidia_prebake, file: main, gpu_boot_image: x}
  hosts:
    a-host-variable: {nvidia_prebake_enable: true}
    a-fact:
    a-result: {role: gpu_remove}
    an-argument:
    a-boot: {role: gpu_boot, gpu_boot_imag: y}
    a-seal: {file: seal, nvidia_prebake_uncoverd: fail}
    a-report: {nvidia_prebake_report_path: "{{ folder }}/hosts.yml/report.json"}
    a-report-of-the-seal: {nvidia_prebake_seal_report_path: "{{ folder }}/hosts.yml/report.json"}
    a-second-call:
    a-stranger: {nvidia_prebake_wave: 1, nvidia_prebake_ignored_variables: [nvidia_prebake_wave]}
    another-role: {gpu_boot_imag: y}
    a-misspelled-role: {nvida_prebake_enabled: true}
"""
REFUSED = {
    "a-host-variable": "nvidia_prebake_enable (did you mean nvidia_prebake_enabled?)",
    "a-fact": "nvidia_prebake_enable (did you mean nvidia_prebake_enabled?)",
    "a-result": "gpu_remove_done",
    "an-argument": "nvidia_prebake_modes (did you mean nvidia_prebake_mode?)",
    "a-boot": "gpu_boot_imag (did you mean gpu_boot_image?)",
    "a-seal": "nvidia_prebake_uncoverd (did you mean nvidia_prebake_uncovered?)",
}
UNWRITABLE = {"a-report": "nvidia_prebake_report_path", "a-report-of-the-seal": "nvidia_prebake_seal_report_path"}
PASSED = ("a-second-call", "a-stranger", "another-role", "a-misspelled-role")


def ran(folder: Path, play: str, *words: str) -> str:
    """What ansible-playbook printed."""
    (folder / "hosts.yml").write_text(INVENTORY)
    (folder / "play.yml").write_text(PLAY)
    (folder / "static.yml").write_text("- {hosts: all, gather_facts: false, roles: [gpu.prebake.nvidia_prebake]}")
    env = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "HOME": str(folder), "ANSIBLE_NOCOLOR": "1"}
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    argv = [program, "-i", str(folder / "hosts.yml"), "-e", f"folder={folder}", *words, str(folder / play)]
    done = subprocess.run(argv, cwd=TOP, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300)
    return done.stdout


@pytest.mark.subprocess
def test_a_role_refuses_a_variable_that_it_does_not_have_wherever_it_comes_from(tmp_path: Path) -> None:
    out = ran(tmp_path, "play.yml")
    said = {host: (tmp_path / host).read_text() for host in (*REFUSED, *UNWRITABLE, *PASSED) if (tmp_path / host).exists()}
    wrong = {host: said.pop(host, "") for host in UNWRITABLE}
    assert {host: text.partition(": /")[0] for host, text in wrong.items()} == {h: f"report_unwritable: {n}" for h, n in UNWRITABLE.items()}
    assert {host: text for host, text in said.items() if not text.startswith("unknown_variable: ")} == dict.fromkeys(PASSED, "passed"), out
    assert [host for host, text in REFUSED.items() if text not in said[host]] == [], said
    assert "nvida_prebake_enabled: no role of this collection reads this variable: did you mean nvidia_prebake_enabled?" in " ".join(
        out.split()
    )


@pytest.mark.subprocess
def test_a_boots_result_that_cannot_be_written_is_found_before_the_boot(tmp_path: Path) -> None:
    play = TOP / "playbooks/boot.yml"
    out = ran(tmp_path, str(play), "--limit", "a-boot", "-e", f"gpu_boot_report_folder={tmp_path}/hosts.yml")
    assert "code: report_unwritable" in out
    assert f"gpu_boot_report_folder: {tmp_path}/hosts.yml/a-boot.json cannot be written on the controller" in " ".join(out.split())
    assert "Bring up the driver" not in out


@pytest.mark.subprocess
def test_neither_check_mode_nor_tags_pass_a_misspelled_extra_variable(tmp_path: Path) -> None:
    out = ran(
        tmp_path, "static.yml", "--limit", "a-second-call", "--check", "--tags", "nvidia_prebake_build", "-e", "nvidia_prebake_enable=true"
    )
    assert "nvidia_prebake_enable (did you mean nvidia_prebake_enabled?)" in " ".join(out.split()), out
