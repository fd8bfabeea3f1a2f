"""Secrets are hidden in every output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpu_prebake.redact import HIDDEN, Redactor, extra_vars


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
        pytest.param("gpu_boot_bypass", "yes-please", False, id="pass inside another word"),
    ],
)
def test_secrets_are_recognised_by_name_and_hidden_by_value_everywhere(name: str, value: Any, is_hidden: bool) -> None:
    redactor = Redactor()
    redactor.learn("", {name: value})
    text = str(value if isinstance(value, str) else "hunter22")
    assert (HIDDEN in redactor.text(f"msg: {text}!")) is is_hidden
    assert (HIDDEN in str(redactor.data({name: value}))) is is_hidden
    assert (text in str(redactor.data({"message": f"cannot use {text}"}))) is not is_hidden


def test_each_line_of_a_long_secret_is_hidden_and_very_short_ones_are_not() -> None:
    redactor = Redactor(["-----BEGIN KEY-----\nMIIabcdef\n", "ab"])
    assert redactor.text("line MIIabcdef, about") == f"line {HIDDEN}, about"


def test_extra_vars_are_read_from_each_form(tmp_path: Path) -> None:
    (tmp_path / "vars.yml").write_text("a: {b_password: one}\n")
    (tmp_path / "vaulted.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    given = [f"@{tmp_path}/vars.yml", f"@{tmp_path}/vaulted.yml", "@/no/such/file", '{"c": 2}', "d='e f' g=h"]
    assert extra_vars(given) == {"a": {"b_password": "one"}, "c": 2, "d": "e f", "g": "h"}
