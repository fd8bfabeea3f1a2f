"""``make docs`` writes what documents say about options; ``--check`` sees each change by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tools.docs import __main__ as tool
from tools.docs import render
from tools.docs.pages import pages

TOP = Path(__file__).parents[3]
WRITTEN = sorted(pages(TOP))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that are written, and the pages that may have regions, in a folder of their own."""
    for name in {*WRITTEN, "README.md", *(str(page.relative_to(TOP)) for page in (TOP / "docs").glob("*.md"))}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, tmp_path / name)
    return tmp_path


def test_every_document_is_as_make_docs_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--check"]) == 0, capsys.readouterr().out


def test_a_second_run_writes_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "roles/gpu_boot/defaults/main.yml").unlink()
    assert tool.main([], copy) == 0
    assert capsys.readouterr().out == "written: roles/gpu_boot/defaults/main.yml\n"
    assert tool.main([], copy) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", WRITTEN)
def test_a_change_by_hand_is_seen(name: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copy / name).read_text()
    lines = before.splitlines(keepends=True)
    marks = ("BEGIN options", "# Written by make docs", "<!-- default of ")
    begin = next(number for number, line in enumerate(lines) if any(mark in line for mark in marks))
    number = begin if "<!-- default of " in lines[begin] else begin + 2
    changed = lines[number].replace("<!-- end", "9<!-- end") if number == begin else f"{lines[number].rstrip()} 9\n"
    (copy / name).write_text("".join([*lines[:number], changed, *lines[number + 1 :]]))

    assert tool.main(["--check"], copy) == 1
    said = capsys.readouterr().out
    assert f"--- {name}\n" in said
    assert f"-{changed}" in said
    assert f"+{lines[number]}" in said
    assert said.endswith("run make docs.\n")

    assert tool.main([], copy) == 0
    assert (copy / name).read_text() == before


def test_a_region_that_is_gone_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = copy / "roles/gpu_boot/README.md"
    page.write_text(page.read_text().replace("BEGIN options of role gpu_boot main", "BEGIN options"))
    assert tool.main(["--check"], copy) == 1
    assert "roles/gpu_boot/README.md: a comment 'BEGIN options of role gpu_boot main'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "<!-- default of gpu_boot_x -->1<!-- end -->\n",
        "<!-- BEGIN options of variables gpu_boot_x -->\n<!-- END options of variables gpu_boot_x -->\n",
    ],
)
def test_a_variable_that_is_in_no_table_is_named(text: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "docs/cli.md").write_text(text)
    assert tool.main(["--check"], copy) == 1
    assert capsys.readouterr().out == "docs/cli.md: gpu_boot_x is asked for, and is in no table of options\n"


@pytest.mark.parametrize("value", [True, False, 3, 780.0, 0.5, "", "/", "auto", "yes", "1.0", "{{ x }}", "a: b", ("a", "b"), ()])
def test_yaml_reads_a_scalar_as_the_value_that_it_was(value: object) -> None:
    assert yaml.safe_load(render.scalar(value)) == (list(value) if isinstance(value, tuple) else value)
