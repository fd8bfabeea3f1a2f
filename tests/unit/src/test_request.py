"""Reading ansible-playbook's own command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_prebake.cli import is_playbook_call
from gpu_prebake.request import from_playbook_arguments, vault_prompts

# As Packer 1.6.6 and packer-plugin-ansible 1.1 put it together, for a null builder over ssh.
PACKER = [
    *("-e", 'packer_build_name="machine"', "-e", "packer_builder_type=null", "--ssh-extra-args", "'-o IdentitiesOnly=yes'"),
    *("--extra-vars", "@/vars.json", "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"),
    *("-e", "ansible_ssh_private_key_file=/key", "-i", "/tmp/packer-provisioner-ansible1", "/x/playbooks/prebake.yml"),
]


def test_packers_arguments_are_handed_on_as_they_are_and_understood() -> None:
    found = from_playbook_arguments(PACKER, None)
    assert found.arguments == tuple(PACKER)
    assert found.inventory == ("/tmp/packer-provisioner-ansible1",)
    assert "@/vars.json" in found.extra_vars
    assert (found.is_own, found.check, found.verbosity, found.report) == (False, False, 0, None)


@pytest.mark.parametrize("words", [["--report", "/r.json"], ["--report=/r.json"]])
def test_report_among_them_is_ours_and_not_ansibles(words: list[str]) -> None:
    found = from_playbook_arguments([*words, *PACKER], Path("/other"))
    assert (found.report, found.arguments) == (Path("/r.json"), tuple(PACKER))


def test_short_options_in_one_word_are_seen() -> None:
    found = from_playbook_arguments(["-bKvvC", "-i", "h,", "play.yml"], None)
    assert (found.ask_become_pass, found.verbosity, found.check) == (True, 2, True)


def test_what_ansible_will_refuse_is_left_to_ansible() -> None:
    assert from_playbook_arguments(["play.yml", "-i"], None).arguments == ("play.yml", "-i")


def test_prompts_for_vaults() -> None:
    assert vault_prompts(True, ["prod@prompt", "dev@/file", "x"]) == ("prod", "")


@pytest.mark.parametrize(
    ("words", "is_playbook"),
    [
        pytest.param(["-e", "a=b", "play.yml"], True, id="options first"),
        pytest.param([__file__, "-i", "h,"], True, id="a file first"),
        pytest.param(["bake", "-i", "h,"], False, id="a command"),
        pytest.param(["bkae", "-i", "h,"], False, id="a misspelled command"),
        pytest.param(["--version"], False, id="version"),
        pytest.param(["--help"], False, id="help"),
    ],
)
def test_whose_arguments_they_are(words: list[str], is_playbook: bool) -> None:
    assert is_playbook_call(words) is is_playbook
