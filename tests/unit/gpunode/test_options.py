"""The table of options: its own rules, and that a default stands nowhere else."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import options
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import request as bake_request
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import control, gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import MODULES, PLAYBOOKS, ROLES, Option, Table
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import DRIVER, EVERYTHING
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal import request as seal_request

TOP = Path(__file__).parents[3]
PLUGINS = TOP / "plugins"
TABLE = PLUGINS / "module_utils/gpunode/options.py"
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "raw": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (float,),
    "list": (tuple,),
    "dict": (dict,),
}
# Fields that hold an option's default in a form of their own.
CONVERTED = {"Policy.expected_gpus": {"auto": None}, "SealRequest.kernels": {"newest": ("newest",)}}
MARKUP = re.compile(r"([A-Z])\(([^()=]+)(?:=[^()]*)?\)")


def tables() -> Iterator[Table]:
    seen = []
    for groups in (*MODULES.values(), *(groups for role in ROLES.values() for groups in role.values()), PLAYBOOKS.values()):
        for table in groups:
            if not any(table is other for other in seen):
                seen.append(table)
                yield table


ROWS = [pytest.param(table, option, id=f"{n}-{option.name}") for n, table in enumerate(tables()) for option in table.values()]
ALL: list[Option] = [option for table in tables() for option in table.values()]
FIELDS = sorted({(field, option.name) for option in ALL for field in option.fields})
VARIABLES = {variable: option for option in ALL for variable in option.variables}


# --- the table's own rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_each_option_once(module: str) -> None:
    names = [option.name for table in MODULES[module] for option in table.values()]
    assert sorted(names) == sorted(options.of_module(module))


def test_every_module_is_there() -> None:
    assert sorted(MODULES) == sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))


@pytest.mark.parametrize("option", [pytest.param(row.values[1], id=row.id) for row in ROWS])
def test_type_default_and_choices_fit(option: Option) -> None:
    assert option.type in TYPES
    if option.default is not None:
        assert type(option.default) in TYPES[option.type]
    if option.choices:
        assert option.default in (None, *option.choices)
    assert bool(option.elements) is (option.type == "list")


@pytest.mark.parametrize(("table", "option"), ROWS)
def test_the_description_is_one(table: Table, option: Option) -> None:
    assert option.says
    for text in option.says:
        assert text.endswith("."), text
        assert text == " ".join(text.split()), text
    marked = [(match[1], match[2]) for text in option.says for match in MARKUP.finditer(text)]
    assert {kind for kind, _ in marked} <= set("VCOE")
    assert {name for kind, name in marked if kind == "O"} <= set(table), "a description names options of its own table"
    assert set(option.choices) <= {value for kind, value in marked if kind == "V"}, "each choice is explained"


@pytest.mark.parametrize("option", [pytest.param(row.values[1], id=row.id) for row in ROWS])
def test_a_unit_is_in_the_name_and_in_the_description(option: Option) -> None:
    assert (option.type == "float") is option.name.endswith("_s")
    if option.name.endswith("_s"):
        assert option.says[0].startswith("Seconds ")
    if option.name.endswith("_mb"):
        assert option.says[0].startswith("Space in MB ")


def test_what_must_not_become_text_is_raw() -> None:
    raw = {name for name, option in VARIABLES.items() if option.type == "raw"}
    assert raw == {name for name in VARIABLES if name.endswith(("_image", "_version", "_kernels", "_feature_flags", "_expected_gpus"))}


def test_a_password_or_pin_is_logged_nowhere() -> None:
    assert {option.name for option in ALL if option.secret} == {o.name for o in ALL if o.name.endswith(("password", "_pin"))}


def test_a_variable_is_the_same_wherever_it_stands() -> None:
    for option in ALL:
        for variable in option.variables:
            same = VARIABLES[variable]
            assert (option.type, option.default, option.choices) == (same.type, same.default, same.choices), variable


def test_each_variable_is_used_by_its_role_or_playbook() -> None:
    unused = []
    for role in ROLES:
        used = "".join(path.read_text() for folder in ("tasks", "vars") for path in (TOP / "roles" / role / folder).glob("*.yml"))
        groups = [group for tables in ROLES[role].values() for group in tables]
        mine = {v for table in groups for option in table.values() for v in option.variables if v.startswith(f"{role}_")}
        unused += [variable for variable in sorted(mine) if not re.search(rf"\b{variable}\b", used)]
    for playbook, table in PLAYBOOKS.items():
        text = (TOP / f"playbooks/{playbook}.yml").read_text()
        unused += [variable for option in table.values() for variable in option.variables if variable not in text]
    assert unused == []


def test_each_variable_belongs_to_a_role_or_playbook() -> None:
    roles = [table for role in ROLES.values() for groups in role.values() for table in groups]
    known = {v for table in (*roles, *PLAYBOOKS.values()) for option in table.values() for v in option.variables}
    assert set(VARIABLES) == known


CHOICES = [
    pytest.param("CHECK", "role", tuple(ROLES), id="role"),
    pytest.param("BAKE", "mode", (bake_request.CAPTURED, bake_request.IN_PLACE), id="mode"),
    pytest.param("BAKE", "flavour", ("any", gpus.OPEN, gpus.PROPRIETARY), id="flavour"),
    pytest.param("SEAL", "uncovered", (seal_request.REPORTED, seal_request.FAIL), id="uncovered"),
    pytest.param("REMOVE", "scope", (EVERYTHING, DRIVER), id="scope"),
    pytest.param("REMOVE", "in_use", (control.REFUSE, control.UNTIL_REBOOT), id="in_use"),
    pytest.param("LAYER", "state", (flow.ACTIVE, flow.INACTIVE, flow.ABSENT), id="state"),
]


@pytest.mark.parametrize(("table", "name", "known"), CHOICES)
def test_the_library_knows_the_choices(table: str, name: str, known: tuple[str, ...]) -> None:
    assert getattr(options, table)[name].choices == known


# --- the library's requests -------------------------------------------------------------------------------------------


def source_of(name: str) -> Path:
    """The file of the library that defines a request."""
    found = [path for path in PLUGINS.rglob("gpunode/**/*.py") if re.search(rf"^class {name}\b", path.read_text(), re.MULTILINE)]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


@pytest.mark.parametrize(("field", "name"), FIELDS)
def test_a_request_has_the_fields_and_their_defaults(field: str, name: str) -> None:
    request, _, attribute = field.partition(".")
    dotted = ".".join(source_of(request).relative_to(TOP).with_suffix("").parts)
    found = getattr(importlib.import_module(f"ansible_collections.gpu.prebake.{dotted}"), request)
    default = {f.name: f.default for f in dataclasses.fields(found)}[attribute]
    wanted = {option.default for option in ALL if option.name == name and field in option.fields}
    assert len(wanted) == 1
    value: Any = wanted.pop()
    if default is not dataclasses.MISSING:
        assert default == CONVERTED.get(field, {}).get(value, value)


# --- and nowhere else -------------------------------------------------------------------------------------------------


def default_in_source(field: str) -> str:
    """What the source gives a request's field for a default; "" where it gives none."""
    request, _, attribute = field.partition(".")
    classes = [node for node in ast.walk(ast.parse(source_of(request).read_text())) if isinstance(node, ast.ClassDef)]
    body = next(node.body for node in classes if node.name == request)
    assigned = [node.value for node in body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == attribute]
    return "".join(ast.unparse(value) for value in assigned if value)


@pytest.mark.parametrize(("field", "name"), [pair for pair in FIELDS if pair[0] != "Policy.expected_gpus"])
def test_a_requests_default_is_read_from_the_table(field: str, name: str) -> None:
    found = default_in_source(field)
    is_empty = found in ("", "''", "field(default='', repr=False)")
    assert is_empty or f"['{name}'].default" in found, "read it from gpunode/options.py"


def test_no_plugin_repeats_a_path_or_an_option() -> None:
    paths = {option.default for option in ALL if isinstance(option.default, str) and len(option.default) > 1 and option.default[0] == "/"}
    found = []
    for path in sorted(set(PLUGINS.rglob("*.py")) - {TABLE}):
        for node in ast.walk(ast.parse(path.read_text())):
            repeats = isinstance(node, ast.Constant) and node.value in paths
            specifies = isinstance(node, ast.Dict) and any(isinstance(key, ast.Constant) and key.value == "default" for key in node.keys)
            asks = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "argument_s"
            if repeats or specifies or (asks and isinstance(node.args[-1], ast.Constant)):  # type: ignore[attr-defined]
                found.append(f"{path.relative_to(TOP)}:{node.lineno}")  # type: ignore[attr-defined]
    assert found == []


GENERATED = re.compile(r"^ *(?:# |<!-- )BEGIN options of .*?END options of |<!-- default of .*?<!-- end -->", re.MULTILINE | re.DOTALL)
TEXTS = [path for folder in ("docs", "molecule", "packer", "playbooks", "roles", "inventory") for path in (TOP / folder).rglob("*.*")]
TEXTS = sorted(path for path in [*TEXTS, TOP / "README.md"] if path.suffix in (".md", ".yml", ".hcl", ".j2", ".json"))


def repeated(text: str) -> list[str]:
    """Where a text that is written by hand repeats the default of a variable: beside its name, in its row, or as Jinja's default."""
    found = re.findall(rf"\b(?:{'|'.join(VARIABLES)})\b *\| *default\((?!'')[^)]+\)", text)
    for variable, option in VARIABLES.items():
        if isinstance(option.default, (int, float)) and not isinstance(option.default, bool) and option.default > 10:
            found += re.findall(rf"\b{variable}\b[`:= ]+{option.default:g}\b(?!\.)", text)
            found += re.findall(rf"^\|.*\b{variable}\b.*\| {option.default:g} \|", text, re.MULTILINE)
    return found


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(TOP))) for path in TEXTS])
def test_no_text_repeats_a_default(path: Path) -> None:
    if path.parts[-2:] != ("defaults", "main.yml"):
        assert repeated(GENERATED.sub("", path.read_text(encoding="utf-8"))) == [], "name the variable and leave its default out"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu_boot_deadline_s | default(780) + 10", 1),
        ("| `gpu_boot_deadline_s: 780` | one budget |", 1),
        ("| `gpu_boot_deadline_s` | one budget | 780 |", 1),
        ("gpu_boot_deadline_s: 90", 0),
        ("gpu_boot_deadline_s of 780 s", 0),
    ],
)
def test_a_repeated_default_is_seen(text: str, found: int) -> None:
    assert len(repeated(text)) == found
