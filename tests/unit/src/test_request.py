"""Reading the command line of ansible-playbook."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_prebake import request, session
from gpu_prebake.cli import is_playbook_call
from gpu_prebake.collection import Collection
from gpu_prebake.request import from_playbook_arguments, last_playbook, vault_prompts

# The arguments that Packer 1.6.6 and packer-plugin-ansible 1.1 give, for a null builder over ssh.
PACKER = [
    *("-e", 'packer_build_name="machine"', "-e", "packer_builder_type=null", "--ssh-extra-args", "'-o IdentitiesOnly=yes'"),
    *("--extra-vars", "@/vars.json", "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"),
    *("-e", "ansible_ssh_private_key_file=/key", "-i", "/tmp/packer-provisioner-ansible1", "/x/playbooks/prebake.yml"),
]


def test_packers_arguments_are_understood_and_passed_on_unchanged() -> None:
    found = from_playbook_arguments(PACKER, None)
    assert found.arguments == tuple(PACKER)
    assert found.inventory == ("/tmp/packer-provisioner-ansible1",)
    assert "@/vars.json" in found.extra_vars
    assert (found.is_own, found.check, found.verbosity, found.report) == (False, False, 0, None)


@pytest.mark.parametrize("words", [["--report", "/r.json"], ["--report=/r.json"]])
def test_report_is_our_option_and_is_not_passed_on(words: list[str]) -> None:
    found = from_playbook_arguments([*words, *PACKER], Path("/other"))
    assert (found.report, found.arguments) == (Path("/r.json"), tuple(PACKER))


def test_combined_short_options_are_read() -> None:
    found = from_playbook_arguments(["-bKvvC", "-i", "h,", "play.yml"], None)
    assert (found.ask_become_pass, found.verbosity, found.check) == (True, 2, True)


def test_arguments_that_ansible_refuses_are_passed_on() -> None:
    assert from_playbook_arguments(["play.yml", "-i"], None).arguments == ("play.yml", "-i")


def test_finds_the_vaults_whose_passwords_are_prompted_for() -> None:
    assert vault_prompts(True, ["prod@prompt", "dev@/file", "x"]) == ("prod", "")


@pytest.mark.parametrize(
    ("words", "is_playbook"),
    [
        pytest.param(["-e", "a=b", "play.yml"], True, id="options first"),
        pytest.param([__file__, "-i", "h,"], True, id="a file first"),
        pytest.param(["bake", "-i", "h,"], False, id="a command"),
        pytest.param(["bkae", "-i", "h,"], False, id="a misspelled command"),
        pytest.param(["missing.yml", "-i", "h,"], True, id="a playbook that is not there, which Ansible then says"),
        pytest.param(["gpu.prebake.boot", "-i", "h,"], True, id="a playbook of a collection"),
        pytest.param(["--version"], False, id="version"),
        pytest.param(["--help"], False, id="help"),
    ],
)
def test_distinguishes_playbook_calls_from_commands(words: list[str], is_playbook: bool) -> None:
    assert is_playbook_call(words) is is_playbook


@pytest.mark.parametrize(
    ("command", "words", "is_ours"),
    [
        pytest.param("boot", ("-i", "x", "/c/playbooks/boot.yml"), True, id="a command"),
        pytest.param("ansible-playbook", ("-i", "x", "/c/playbooks/boot.yml"), True, id="our playbook"),
        pytest.param("ansible-playbook", ("gpu.prebake.boot",), True, id="our playbook by its name"),
        pytest.param("ansible-playbook", ("-i", "x", "/mine/boot.yml"), False, id="another playbook"),
    ],
)
def test_our_playbooks_run_without_facts_as_variables_and_without_questions_about_host_keys(
    command: str, words: tuple[str, ...], is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANSIBLE_SSH_EXTRA_ARGS", raising=False)
    monkeypatch.setattr(session.constants, "CONFIG_FILE", None)
    wanted = {"ANSIBLE_INJECT_FACT_VARS": "False", "ANSIBLE_SSH_EXTRA_ARGS": "-o StrictHostKeyChecking=yes"} if is_ours else {}
    asked = request.Request(command, words)
    assert session.protection(asked, Collection(Path("/c"), "1", {}, True)) == wanted
    monkeypatch.setenv("ANSIBLE_SSH_EXTRA_ARGS", "-o ProxyJump=x")
    assert "ANSIBLE_SSH_EXTRA_ARGS" not in session.protection(asked, None)


@pytest.mark.parametrize("words", [("--extra-vars", "x_password=y"), ("--extra", "x_password=y"), ("-ex_password=y",)])
def test_variables_are_found_by_each_spelling_that_ansible_takes(words: tuple[str, ...]) -> None:
    assert request.from_playbook_arguments([*words, "play.yml"], None).extra_vars == ("x_password=y",)


@pytest.mark.parametrize("name", ["bake", "seal", "boot", "remove"])
def test_a_command_is_one_even_if_a_file_has_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert not is_playbook_call([name, "-i", "h,"])
    assert is_playbook_call([f"./{name}", "-i", "h,"])


@pytest.mark.parametrize(
    ("words", "playbook"),
    [
        (["-i", "h,", "boot"], "boot"),
        (PACKER, "/x/playbooks/prebake.yml"),
        (["play.yml", "-i", "boot"], ""),
        (["play.yml", "--start-at-task", "boot"], ""),
        (["-b", "--become-user=root", "boot"], "boot"),
        (["play.yml", "--report", "boot"], ""),
    ],
)
def test_finds_the_last_playbook(words: list[str], playbook: str) -> None:
    assert last_playbook(words) == playbook
