"""Finds slips in a command line before anything runs: files and variables that are not there, a report that cannot be written.

Ansible would find most of them too, but late, in many lines, or by going on without. No message shows the value of a variable.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.splitter import parse_kv

from gpu_prebake.exits import Exit
from gpu_prebake.request import Request

_VAULT = "$ANSIBLE_VAULT"


class SlipError(click.ClickException):
    """A slip in the command line. It is shown as one line, without the lines about usage that click puts before a UsageError."""

    exit_code = int(Exit.USAGE)


class _AnyTag(yaml.SafeLoader):
    """Reads YAML whose tags only Ansible knows, such as ``!vault``. What they tag becomes None."""


_AnyTag.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


def check(request: Request) -> None:
    """Raises SlipError for the first slip."""
    check_inventories(request.inventory)
    for number, value in enumerate(request.extra_vars, 1):
        wrong = _variables_problem(value)
        if wrong:
            raise SlipError(f"-e number {number}: {wrong}")
    if request.limit:
        for part in request.limit.split(","):
            if part.startswith("@"):
                check_file("--limit", part[1:])
    if request.report:
        check_report(request.report)


def check_inventories(given: Sequence[str]) -> None:
    """Raises SlipError for an inventory that is not there."""
    for one in given:
        if "," not in one and not Path(one).expanduser().exists():
            raise SlipError(f"inventory {one}: no such file or folder; host names need a comma at the end ({one},)")


def check_file(option: str, path: str) -> None:
    """Raises SlipError if there is no file at the path that an option names, or it may not be read."""
    wrong = _file_problem(path)
    if wrong:
        raise SlipError(f"{option} {path}: {wrong}")


def check_vault_id(value: str) -> None:
    """Raises SlipError if a vault identity names a file that is not there."""
    source = value.rpartition("@")[2]
    if source not in ("prompt", "prompt_ask_vault_pass"):
        check_file("--vault-id", source)


def check_report(path: Path) -> None:
    """Makes the report's folder. Raises SlipError if no file can be written there."""
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise SlipError(f"report {path}: it cannot be written: {error.strerror}: name another file by --report") from error


def _file_problem(path: str) -> str:
    file = Path(path).expanduser()
    if file.is_dir():
        return "it is a folder; a file is needed"
    if not file.exists():
        return "no such file"
    return "" if os.access(file, os.R_OK) else "this user may not read it"


def _variables_problem(value: str) -> str:
    """What is wrong with the value of an option ``-e``; "" if nothing is."""
    if value.startswith("@"):
        return _variables_file_problem(value[1:])
    if value[:1] in ("{", "["):
        return _mapping_problem(value)
    try:
        words = parse_kv(value)
    except AnsibleError as error:
        return str(error).splitlines()[0].partition(": ")[0]
    if "_raw_params" not in words:
        return ""
    if Path(value).expanduser().is_file():
        return f"{value} is a file: give @{value}"
    return "a word in it is no variable: give NAME=VALUE, @FILE, or JSON or YAML in braces"


def _variables_file_problem(path: str) -> str:
    wrong = _file_problem(path)
    if not wrong:
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            wrong = f"it cannot be read: {getattr(error, 'strerror', '') or 'it is not UTF-8'}"
        else:
            wrong = "" if text.startswith(_VAULT) else _mapping_problem(text)
    return f"variables file {path}: {wrong}" if wrong else ""


def _mapping_problem(text: str) -> str:
    try:
        data = _parsed(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return f"it is neither JSON nor YAML: {error.problem}{f' in line {mark.line + 1}' if mark else ''}"
    except yaml.YAMLError:
        return "it is neither JSON nor YAML"
    return "" if isinstance(data, dict) else "it holds no variables: names with values are needed, as in {name: value}"


def _parsed(text: str) -> Any:
    """Data from JSON or YAML. JSON first, since YAML refuses the tabs in it."""
    try:
        return json.loads(text)
    except ValueError:
        return yaml.load(text, _AnyTag)
