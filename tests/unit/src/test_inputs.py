"""Slips in the values of options, found before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_prebake import inputs
from gpu_prebake.request import Request

FILES = {
    "good.json": '{\n\t"a": 1}',
    "good.yml": "a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  00\nb: !unsafe x\n",
    "vault.yml": "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
    "list.json": "[1, 2]",
    "empty.yml": "",
    "bad.yml": "secret: hunter22: [\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(value: str) -> str:
    try:
        inputs.check(Request("bake", (), extra_vars=("x=1", value)))
    except inputs.SlipError as error:
        return error.format_message()
    return ""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "value", ["@good.json", "@good.yml", "@vault.yml", "a=1 b='two words'", 'packer="x"', "{a: 1}", '{"a": "}"}', "a=", ""]
)
def test_what_ansible_takes_is_taken(value: str) -> None:
    assert refused(value) == ""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param("@none.json", "variables file none.json: no such file", id="no file"),
        pytest.param("@.", "variables file .: it is a folder", id="a folder"),
        pytest.param("@list.json", "variables file list.json: it holds no variables", id="a list"),
        pytest.param("@empty.yml", "variables file empty.yml: it holds no variables", id="an empty file"),
        pytest.param(
            "@bad.yml", "variables file bad.yml: it is neither JSON nor YAML: mapping values are not allowed here in line 1", id="bad"
        ),
        pytest.param("@latin.yml", "variables file latin.yml: it cannot be read: it is not UTF-8", id="another encoding"),
        pytest.param("good.json", "good.json is a file: give @good.json", id="a file without its @"),
        pytest.param("a_password hunter22", "a word in it is no variable: give NAME=VALUE", id="no ="),
        pytest.param("a=1 hunter22", "a word in it is no variable: give NAME=VALUE", id="a word too many"),
        pytest.param("{a: hunter22", "it is neither JSON nor YAML", id="no end"),
        pytest.param("a='hunter22", "", id="a quote too few"),
    ],
)
def test_what_ansible_would_drop_or_find_late_is_one_line_without_the_value(value: str, said: str) -> None:
    found = refused(value)
    assert found.startswith(f"-e number 2: {said}")
    assert "hunter22" not in found
    assert "\n" not in found


def test_a_report_leaves_only_its_folder_before_the_run(tmp_path: Path) -> None:
    inputs.check(Request("bake", (), report=tmp_path / "new/r.json"))
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]
