"""The command line of gpu-prebake, with the real ansible-runner against this machine over a local connection."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner

from gpu_prebake import cli, exits, options, session

TOP = Path(__file__).parents[3]
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Say something
      ansible.builtin.debug: {msg: "the password is {{ the_password }}"}
    - name: Hide something
      ansible.builtin.command: echo {{ hidden }}
      no_log: true
      changed_when: true
    - name: Fail here
      ansible.builtin.fail: {msg: on purpose}
      when: inventory_hostname == 'bad'
"""
INVENTORY = """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3, hidden: not-to-be-seen}
  hosts:
    good:
    bad:
    away: {ansible_connection: ssh, ansible_host: 127.0.0.1, ansible_port: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "GPU_PREBAKE_R"))}
    env = {**kept, "PYTHONPATH": str(TOP / "src"), "HOME": str(folder), "TERM": "xterm"}
    argv = [sys.executable, "-m", "gpu_prebake", *words]
    return subprocess.Popen(argv, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def run(folder: Path, *words: str) -> tuple[int, str]:
    process = start(folder, *words)
    out, _ = process.communicate(timeout=240)
    return process.returncode, out


def reported(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "r.json").read_text())
    return found


def test_runs_a_playbook_and_reports_a_failed_and_an_unreachable_node(folder: Path) -> None:
    rc, out = run(folder, "-i", "hosts.yml", "-e", "the_password=hunter22", "--report", "r.json", "play.yml")
    assert rc == 4, out  # as with ansible-playbook: an unreachable node decides the status before a failed one
    assert re.search(r"^\d\d:\d\d:\d\d bad: Fail here: failed in \d+\.\d s$", out, re.MULTILINE), out
    assert "on purpose" in out
    assert "the password is ********" in out
    document = reported(folder)
    everything = out + json.dumps(document)
    assert "hunter22" not in everything
    assert "not-to-be-seen" not in everything
    assert "\x1b" not in out
    assert {node["name"]: node["outcome"] for node in document["nodes"]} == {"good": "changed", "bad": "failed", "away": "unreachable"}
    assert (document["exit_status"], document["ansible_exit_status"]) == (4, 4)
    assert document["versions"]["ansible_core"]
    assert [step["name"] for step in document["nodes"][0]["steps"]][:1] == ["Say something"]
    assert list(folder.glob("gpu-prebake*")) == []


def test_the_commands_have_exit_statuses_of_their_own(folder: Path) -> None:
    rc, out = run(folder, "bake", "-i", "hosts.yml", "--limit", "nobody", "--report", "r.json")
    assert (rc, reported(folder)["outcome"]) == (3, "nothing"), out
    (folder / "broken.yml").write_text("all: [")
    rc, out = run(folder, "bake", "-i", "broken.yml", "--report", "r.json")
    assert (rc, reported(folder)["outcome"]) == (2, "usage"), out
    rc, out = run(folder, "bake", "-i", "hosts.yml", "-l", "good", "-C", "--report", "r.json")
    assert rc == 4, out
    assert reported(folder)["nodes"][0]["code"] == "bad_input"
    (folder / "off.yml").write_text(f"{INVENTORY.partition('hosts')[0]}hosts: {{good: {{nvidia_prebake_enabled: false}}}}")
    rc, out = run(folder, "bake", "-i", "off.yml", "--report", "r.json")
    assert (rc, reported(folder)["outcome"]) == (6, "not_baked"), out
    assert "nothing was baked on good: look at nvidia_prebake_enabled" in out
    rc, out = run(folder, "bake", "-i", "hosts.yml", "-l", "away", "-e", "nvidia_prebake_enabled=true", "--report", "r.json")
    assert (rc, reported(folder)["nodes"][0]["code"]) == (5, "unreachable"), out


def test_an_interrupt_ends_ansible_and_reports_the_step_of_each_node(folder: Path) -> None:
    (folder / "play.yml").write_text(PLAY.replace("echo {{ hidden }}", "sleep 60"))
    process = start(folder, "-i", "hosts.yml", "-l", "good", "-e", "the_password=x", "--report", "r.json", "play.yml")
    assert process.stdout
    for line in process.stdout:
        if "Hide something" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 99, out
    document = reported(folder)
    assert document["outcome"] == "interrupted"
    assert (document["nodes"][0]["outcome"], document["nodes"][0]["unfinished_step"]) == ("interrupted", "Hide something")


def test_passwords_are_asked_for_and_answered(folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("vault-word")
    (folder / "secret.yml").write_text("the_password: from the vault\n")
    tool = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([tool, "encrypt", "--vault-password-file", secret, folder / "secret.yml"], check=True, capture_output=True)
    words = ["-i", "hosts.yml", "-l", "good", "-J", "-e", "@secret.yml", "play.yml"]
    env = {**os.environ, "PYTHONPATH": str(TOP / "src"), "TERM": "xterm"}
    # On a terminal, to test the live display too.
    child = pexpect.spawn(sys.executable, ["-m", "gpu_prebake", *words], cwd=str(folder), env=env, encoding="utf-8", timeout=180)
    child.expect("Vault password:")
    child.sendline("vault-word")
    child.expect(pexpect.EOF)
    child.close()
    shown = child.before or ""
    assert child.exitstatus == 0, shown
    assert "the password is ********" in shown, "it was decrypted, and what a vault holds is not shown"
    assert "from the vault" not in shown
    assert "changed" in shown
    assert "vault-word" not in shown


def test_version_starts_with_ansibles_which_packer_reads() -> None:
    found = re.search(r"\w (\d+\.\d+[.\d+]*)", CliRunner().invoke(cli.cli, ["--version"]).output)
    assert found
    assert found[1] == __import__("ansible").__version__


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_each_command_has_a_playbook_and_lists_the_exit_statuses(command: str) -> None:
    assert [(TOP / f"playbooks/{c.playbook}.yml").is_file() for c in cli.COMMANDS if c.name == command] == [True]
    shown = [line.strip() for line in CliRunner().invoke(cli.cli, [command, "--help"]).output.splitlines()]
    assert [line for line in exits.table().splitlines() if line.strip() not in shown] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["bake"], "no inventory", id="no inventory"),
        pytest.param(["bake", "-i", "node1"], "host names need a comma", id="a name without a comma"),
        pytest.param(["bake", "--nonsense"], "No such option", id="an unknown option"),
        pytest.param(["bake", "-i", "n,", "-f", "many"], "'many' is not a valid integer", id="a number of hosts that is none"),
        pytest.param(["bake", "-i", "n,", "-T", "0"], "0 is not in the range", id="no time to connect"),
        pytest.param(["boot", "-i", "n,", "--private-key", "/no/key"], "--private-key /no/key: no such file", id="no key"),
        pytest.param(["boot", "-i", "n,", "--vault-password-file", "/no/word"], "/no/word: no such file", id="no vault password"),
        pytest.param(["boot", "-i", "n,", "--vault-id", "prod@/no/word"], "--vault-id /no/word: no such file", id="no vault"),
        pytest.param(["boot", "-i", "n,", "-l", "a,@/no/retry"], "--limit /no/retry: no such file", id="no list of hosts"),
        pytest.param(["seal", "-i", "n,", "-e", "@/no/d.json"], "-e number 1: variables file /no/d.json: no such file", id="no variables"),
        pytest.param(["seal", "-i", "n,", "--report", "/proc/x/r.json"], "report /proc/x/r.json: it cannot be written", id="no report"),
    ],
)
def test_bad_usage_is_refused_with_status_2(words: Sequence[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANSIBLE_INVENTORY", raising=False)
    result = CliRunner().invoke(cli.cli, words)
    assert (result.exit_code, said in result.output) == (2, True), result.output


def test_a_variables_file_that_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(cli.cli, ["bake", "-i", "n,", "-e", "@missing.json"])
    assert result.output == "Error: -e number 1: variables file missing.json: no such file\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["-i", "missing.yml", "play.yml"], "inventory missing.yml: no such file or folder", id="inventory"),
        pytest.param(["-i", "n,", "-e", "@missing.json", "play.yml"], "variables file missing.json: no such file", id="variables"),
        pytest.param(["-i", "n,", "--report", "play.yml/r.json", "play.yml"], "report play.yml/r.json: it cannot be written", id="report"),
        pytest.param(["-i", "n,", "play.yml", "--report"], "report .: it cannot be written: it is a folder", id="no name of a report"),
        pytest.param(["-i", "n,", "boot"], "boot is a command: give it before the options", id="a command behind its options"),
        pytest.param(["-i", "n,", "-K", "play.yml"], "Aborted!", id="a password and no terminal"),
    ],
)
def test_a_slip_in_a_playbook_call_is_one_line_and_not_a_traceback(
    words: Sequence[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "boot").write_text(PLAY)
    monkeypatch.setattr("getpass.getpass", lambda *_words, **_more: (_ for _ in ()).throw(EOFError))
    monkeypatch.setattr(session, "Driver", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    shown = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code in (1, 2)
    assert said in shown[-1]
    assert len(shown) == 1


def test_a_report_that_could_not_be_written_after_all_is_said_and_not_a_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        interrupts = 0

        def __init__(self, *_arguments: Any) -> None:
            (folder / "reports").rmdir()
            (folder / "reports").touch()

        def play(self) -> int:
            return 0

    monkeypatch.setattr(session, "Driver", Full)
    result = CliRunner().invoke(cli.cli, ["boot", "-i", "n,", "--report", str(folder / "reports/r.json")])
    assert result.exit_code == 1, result.output
    assert f"the report could not be written to {folder}/reports/r.json" in result.output


def test_the_docs_list_the_exit_statuses() -> None:
    text = (TOP / "docs/cli.md").read_text()
    assert [
        f"| {status.value} | {meaning} |" for status, meaning in exits.MEANINGS.items() if f"| {status.value} | {meaning} |" not in text
    ] == []


def test_every_option_is_passed_on_to_ansible() -> None:
    values: dict[str, Any] = {}
    for flags, kind, _ in options._OPTIONS:
        values[options.parameter(flags)] = {
            "flag": True,
            "count": 2,
            "list": ("x", "y"),
            "files": ("x",),
            "value": "-z",
            "file": "f",
            "number": 3,
        }[kind]
    words = options.arguments(values)
    assert words.count("--extra-vars") == 2
    assert "--ssh-extra-args=-z" in words
    assert "-vv" in words
    assert {"--check", "--diff", "--become", "--ask-pass", "--limit"} <= set(words)
