"""How an option is shown: in YAML in a module's DOCUMENTATION and a role's argument_specs, in Markdown as a row, in defaults/main.yml."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import yaml

from plugins.module_utils.gpunode.options import Option, Table

WIDTH = 140
_MARKUP = re.compile(r"([VCOE])\(([^()]+)\)")


class Variable(NamedTuple):
    """A variable of a role or a playbook. ``names`` are the variables of the options that its description may name."""

    name: str
    option: Option
    names: Mapping[str, str]


def module_options(table: Table) -> list[str]:
    """The key ``options`` of a module's DOCUMENTATION."""
    lines = ["options:"]
    for option in table.values():
        lines += [f"  {option.name}:", *_described(option.says, "    "), *_facts(option, "    ")]
    return lines


def role_options(variables: Iterable[Variable], indent: str) -> list[str]:
    """What stands below ``options`` of an entry point in argument_specs.yml."""
    lines = []
    for name, option, names in variables:
        says = [_MARKUP.sub(partial(_by_variable, names), text) for text in option.says]
        lines += [f"{indent}{name}:", *_facts(option, f"{indent}  ", name), *_described(says, f"{indent}  ")]
    return lines


def markdown_table(variables: Iterable[Variable]) -> list[str]:
    """The table of variables in a README or a page."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, option, names in variables:
        default = _default(name, option)
        says = _MARKUP.sub(partial(_as_code, names), " ".join(option.says))
        lines.append(f"| `{name}` | {default} | {says} |")
    return lines


def defaults(groups: Iterable[Iterable[Variable]]) -> list[str]:
    """What stands in a role's defaults/main.yml: an empty line before each group, and above each variable what it is for."""
    lines = []
    for group in groups:
        lines.append("")
        for name, option, names in group:
            says = _MARKUP.sub(partial(_as_code, names), option.says[0])
            default = option.default_of(name)
            lines += [
                *_wrapped("# ", "# ", says),
                f"# {name}: {_default(name, option)}" if default is None else f"{name}: {scalar(default)}",
            ]
    return lines


def scalar(value: Any) -> str:
    """A value as YAML has it in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(scalar, value))}]"
    return value if _is_plain(value) else json.dumps(value, ensure_ascii=False)


def _by_variable(names: Mapping[str, str], match: re.Match[str]) -> str:
    """A markup, with the variable for an option. Raises KeyError for an option that has none."""
    option, equals, value = match[2].partition("=")
    return f"O({names[option]}{equals}{value})" if match[1] == "O" else match[0]


def _as_code(names: Mapping[str, str], match: re.Match[str]) -> str:
    """What a markup marks, between backticks; an option as a reader of the role knows it: ``variable: value``."""
    text = _by_variable(names, match)[2:-1]
    return f"`{text.replace('=', ': ') if match[1] == 'O' else text}`"


def _default(name: str, option: Option) -> str:
    """What a table says of a variable's default."""
    if name in option.needed:
        return f"required {option.needed[name]}".strip()
    return "not set" if option.default is None else f"`{scalar(option.default)}`"


def _facts(option: Option, indent: str, variable: str = "") -> list[str]:
    """Everything but the description, by Ansible's keys: of the module's option, or of a role's variable."""
    is_required = option.needed.get(variable) == "" if variable else option.required
    found = {
        "type": option.type,
        "elements": option.elements,
        "choices": f"[{', '.join(option.choices)}]" if option.choices else "",
        "required": "true" if is_required else "",
        "default": "" if option.default is None or is_required else scalar(option.default),
        "no_log": "true" if option.secret and variable else "",
        "version_added": option.since,
    }
    return [f"{indent}{key}: {value}" for key, value in found.items() if value]


def _described(says: Iterable[str], indent: str) -> list[str]:
    one, *more = says
    if not more:
        return _scalar_lines(f"{indent}description: ", f"{indent}  ", one)
    return [f"{indent}description:", *(line for text in (one, *more) for line in _scalar_lines(f"{indent}  - ", f"{indent}    ", text))]


def _scalar_lines(begin: str, indent: str, text: str) -> list[str]:
    """A paragraph as a YAML scalar, folded where YAML would read it otherwise."""
    return _wrapped(begin, indent, text) if _is_plain(text) else [f"{begin}>-", *_wrapped(indent, indent, text)]


def _wrapped(begin: str, indent: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _is_plain(text: str) -> bool:
    """Whether YAML reads the text, without quotes, as it is."""
    try:
        return bool(yaml.safe_load(f"key: {text}") == {"key": text})
    except yaml.YAMLError:
        return False
