"""Secrets are hidden in every output."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import ROLES

from gpu_prebake.extravars import ExtraVars
from gpu_prebake.redact import HIDDEN, Redactor


@pytest.mark.parametrize(
    ("name", "value", "is_hidden"),
    [
        pytest.param("gpu_boot_registry_password", "hunter22", True, id="password"),
        pytest.param("registry_token", "abcd1234", True, id="token"),
        pytest.param("nvidia_prebake_signing_key", "/keys/one.pem", True, id="key"),
        pytest.param("nvidia_prebake_signing_pin", "12345678", True, id="pin"),
        pytest.param("registries", [{"user": "me", "password": "hunter22"}], True, id="inside a list"),
        pytest.param("credentials", {"anything": "hunter22"}, True, id="below a secret name"),
        pytest.param("nvidia_prebake_image", "reg/x:1", False, id="image"),
        pytest.param("gpu_boot_pull_image", "reg/x:1", False, id="no word of a secret"),
        pytest.param("deploy_key", "abcd1234", True, id="a key for something else"),
        pytest.param("registry_pw", "abcd1234", True, id="pw"),
        pytest.param("bearer", "abcd1234", True, id="bearer"),
        pytest.param("registryAuth", "abcd1234", True, id="camel case"),
        pytest.param("gpu_boot_bypass", "yes-please", False, id="pass inside another word"),
    ],
)
def test_secrets_are_recognised_by_name_and_hidden_by_value_everywhere(name: str, value: Any, is_hidden: bool) -> None:
    redactor = Redactor()
    redactor.learn({name: value})
    text = str(value if isinstance(value, str) else "hunter22")
    assert (HIDDEN in redactor.text(f"msg: {text}!")) is is_hidden
    assert (HIDDEN in str(redactor.data({name: value}))) is is_hidden
    assert (text in str(redactor.data({"message": f"cannot use {text}"}))) is not is_hidden


def test_each_line_of_a_long_secret_is_hidden_and_very_short_ones_are_not() -> None:
    redactor = Redactor(["-----BEGIN KEY-----\nMIIabcdef\n", "ab"])
    assert redactor.text("line MIIabcdef, about") == f"line {HIDDEN}, about"


def test_extra_vars_are_read_from_each_form(tmp_path: Path) -> None:
    (tmp_path / "vars.yml").write_text("a: {b_password: one}\nday: 2026-01-02\n")
    given = [f"@{tmp_path}/vars.yml", '{"c": 2}', "d='e f' g=h", "{x_password: y}", "n='a\\nb'", ""]
    wanted = {"a": {"b_password": "one"}, "day": "2026-01-02", "c": 2, "d": "e f", "g": "h", "x_password": "y", "n": "a\nb"}
    assert ExtraVars().read(given) == wanted


@pytest.fixture(scope="module")
def vaulted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vault's password, a file that is encrypted, and one with an encrypted value."""
    folder = tmp_path_factory.mktemp("vault")
    (folder / "password").write_text("vault-word")
    vault = VaultLib([("default", VaultSecret(b"vault-word"))])
    (folder / "whole.yml").write_bytes(vault.encrypt("plain_name: from the whole\n"))
    value = vault.encrypt("from the value").decode().replace("\n", "\n  ")
    (folder / "value.yml").write_text(f"nvidia_prebake_image: reg/x:1\nother: !vault |\n  {value}\nx_password: hunter22\n")
    return folder


@pytest.mark.parametrize("is_typed", [True, False])
def test_what_a_vault_holds_is_secret_whatever_its_name(vaulted: Path, is_typed: bool) -> None:
    passwords, files = (["vault-word"], []) if is_typed else ([], [f"{vaulted}/password"])
    found = ExtraVars(passwords, files).read([f"@{vaulted}/whole.yml", f"@{vaulted}/value.yml"])
    assert (found["plain_name"], found["other"]) == ("from the whole", "from the value")
    redactor = Redactor()
    redactor.learn(found)
    assert redactor.text("x from the whole from the value hunter22") == f"x {HIDDEN} {HIDDEN} {HIDDEN}"
    shown = {"plain_name": HIDDEN, "nvidia_prebake_image": "reg/x:1", "other": HIDDEN, "x_password": HIDDEN}
    assert redactor.variables(found) == shown


def test_one_vaulted_value_that_cannot_be_read_hides_nothing_of_the_rest(vaulted: Path) -> None:
    found = ExtraVars().read([f"@{vaulted}/value.yml", f"@{vaulted}/whole.yml", "@/no/such/file", "{a: [", "/x"])
    assert (found["nvidia_prebake_image"], found["x_password"]) == ("reg/x:1", "hunter22")
    shown = Redactor().variables(found)
    assert {name: value for name, value in shown.items() if value != HIDDEN} == {"nvidia_prebake_image": "reg/x:1"}
    assert {f"@{vaulted}/whole.yml", "@/no/such/file", "-e"} < set(shown)


@pytest.mark.subprocess
def test_a_pipe_is_left_to_ansible(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert list(ExtraVars().read([f"@{tmp_path}/pipe"])) == [f"@{tmp_path}/pipe"]


@pytest.mark.parametrize("secret", ['quo"te\\d', "line\tone", "schl\u00fcssel", "it's 1 & 2"])
def test_a_secret_is_found_in_each_form_that_programs_print(secret: str) -> None:
    redactor = Redactor([secret])
    for text in (
        json.dumps({"a": secret}),
        json.dumps(json.dumps(secret)),
        json.dumps(secret, ensure_ascii=False),
        repr(secret),
        quote(secret),
    ):
        assert HIDDEN in redactor.text(text), text
        assert secret not in redactor.text(text)


def test_the_value_of_a_variable_that_nobody_knows_is_hidden_as_a_whole_word() -> None:
    redactor = Redactor()
    redactor.learn({"stage": "prod", "count": 5, "flag": True, "nvidia_prebake_kernels": ["6.1.0"], "packer_build_name": "image"})
    assert redactor.text("on prod: prod, gpu-prod-1, image 6.1.0, 5") == f"on {HIDDEN}: {HIDDEN}, gpu-prod-1, image 6.1.0, 5"
    assert redactor.variables({"stage": "prod", "gpu_boot_tries": 5, "ansible_user": "me"}) == {
        "stage": HIDDEN,
        "gpu_boot_tries": 5,
        "ansible_user": "me",
    }


def test_the_roles_secret_variables_are_secret_by_their_names() -> None:
    tables = [table for groups in ROLES.values() for tables in groups.values() for table in tables]
    secret = {name for table in tables for option in table.values() if option.secret for name in option.variables}
    assert secret
    assert set(Redactor().variables(dict.fromkeys(secret, "value")).values()) == {HIDDEN}
