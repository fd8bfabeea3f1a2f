"""What ``make docs`` writes: whole files, and regions of files that are otherwise written by hand.

A region stands between two comments, ``BEGIN options of …`` and ``END options of …``. What stands after "of" says what is in it:
``module NAME``, ``role NAME ENTRY_POINT``, ``playbook NAME`` or ``variables NAME NAME …``. A module, an argument_specs.yml and a page (.md)
each show options in their own way. In a page, ``<!-- default of VARIABLE -->…<!-- end -->`` holds a default alone, within a sentence.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from plugins.module_utils.gpunode.options import MODULES, PLAYBOOKS, ROLES, Table, of_module

from . import render
from .render import Variable

BY = "written by make docs from plugins/module_utils/gpunode/options.py, do not edit"
_BEGIN = r"(?P<begin>(?P<indent> *)(?P<comment># |<!-- )BEGIN options of (?P<what>[\w.]+(?: [\w.]+)*))"
_END = r"(?P=indent)(?P=comment)END options of (?P=what)(?: -->)?$"
_REGION = re.compile(rf"^{_BEGIN}.*?^{_END}", re.MULTILINE | re.DOTALL)
_DEFAULT = re.compile(r"(<!-- default of (\w+) -->).*?(<!-- end -->)")


class PageError(Exception):
    """A file lacks the two comments between which its options are written, or names something that is in no table."""


def pages(top: Path) -> dict[str, str]:
    """Each file that is written, whole or in part, by its path below ``top``, and the text that it must have. Raises PageError."""
    found = {f"roles/{role}/defaults/main.yml": defaults(role) for role in ROLES}
    needed = _needed()
    by_hand = {str(page.relative_to(top)) for page in (top / "README.md", *(top / "docs").glob("*.md"))}
    for name in sorted({*needed, *by_hand}):
        text = (top / name).read_text(encoding="utf-8")
        regions = {match["what"] for match in _REGION.finditer(text)}
        for what in needed.get(name, ()):
            if what not in regions:
                raise PageError(f"{name}: a comment 'BEGIN options of {what}' and one 'END options of {what}' must be there")
        if regions or _DEFAULT.search(text):
            try:
                found[name] = _REGION.sub(partial(_region, name), _DEFAULT.sub(_default, text))
            except KeyError as error:
                raise PageError(f"{name}: {error.args[0]} is asked for, and is in no table of options") from error
    return found


def defaults(role: str) -> str:
    """The text of a role's defaults/main.yml."""
    return "\n".join(["---", f"# {BY[0].upper()}{BY[1:]}. README.md describes each variable.", *render.defaults(_groups(role, "main")), ""])


def _needed() -> dict[str, list[str]]:
    """The regions that each file must have."""
    found = {f"plugins/modules/{module}.py": [f"module {module}"] for module in MODULES}
    for role, entry_points in ROLES.items():
        found[f"roles/{role}/meta/argument_specs.yml"] = [f"role {role} {entry_point}" for entry_point in entry_points]
        playbooks = [playbook for playbook, table in PLAYBOOKS.items() if _variables(table, f"{role}_")]
        found[f"roles/{role}/README.md"] = [f"role {role} main", *(f"playbook {playbook}" for playbook in playbooks)]
    return found


def _region(name: str, match: re.Match[str]) -> str:
    indent, comment = match["indent"], match["comment"]
    close = " -->" if comment == "<!-- " else ""
    body = _body(match["what"], name, indent)
    return "\n".join([f"{match['begin']}: {BY}{close}", *body, f"{indent}{comment}END options of {match['what']}{close}"])


def _default(match: re.Match[str]) -> str:
    return f"{match[1]}{render.scalar(_known()[match[2]].option.default)}{match[3]}"


def _body(what: str, name: str, indent: str) -> list[str]:
    """The lines of a region of the file ``name``. Raises KeyError for what is in no table."""
    kind, *words = what.split()
    if kind == "module":
        return render.module_options(of_module(words[0]))
    if kind == "role":
        variables = [variable for group in _groups(*words) for variable in group]
    elif kind == "playbook":
        variables = _variables(PLAYBOOKS[words[0]], "")
    else:
        known = _known()
        variables = [known[word] for word in words]
    return render.role_options(variables, indent) if name.endswith(".yml") else render.markdown_table(variables)


def _known() -> dict[str, Variable]:
    """Every variable of a role, by its name."""
    return {variable.name: variable for role in ROLES for group in _groups(role, "main") for variable in group}


def _groups(role: str, entry_point: str) -> list[list[Variable]]:
    """A role's variables, each once."""
    found: list[list[Variable]] = []
    for table in ROLES[role][entry_point]:
        seen = {variable.name for group in found for variable in group}
        found.append([variable for variable in _variables(table, f"{role}_") if variable.name not in seen])
    return [group for group in found if group]


def _variables(table: Table, prefix: str) -> list[Variable]:
    """The variables of a table's options that begin with ``prefix``."""
    named = {option.name: name for option in table.values() for name in option.variables if name.startswith(prefix)}
    return [Variable(name, table[option], named) for option, name in named.items()]
