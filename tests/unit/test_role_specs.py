"""The four places of a role's variables agree: defaults, argument_specs, README, and what is passed on to the modules."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
ROLES = ("nvidia_prebake", "gpu_boot", "gpu_remove")
COLLECTION = "gpu.prebake."


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def defaults(role: str) -> dict[str, Any]:
    return load(TOP / "roles" / role / "defaults/main.yml")


def options(role: str) -> dict[str, Any]:
    return load(TOP / "roles" / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]


def module_calls(role: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and arguments of each of our modules that the role's tasks call."""
    for path in sorted((TOP / "roles" / role / "tasks").glob("*.yml")):
        for task in load(path):
            for key, arguments in task.items():
                if key.startswith(COLLECTION):
                    yield key[len(COLLECTION) :], arguments


def module(name: str) -> ModuleType:
    return importlib.import_module(f"ansible_collections.gpu.prebake.plugins.modules.{name}")


def module_options(name: str) -> dict[str, dict[str, Any]]:
    """The options that a module documents, including those of its fragments."""
    document = yaml.safe_load(module(name).DOCUMENTATION)
    found = dict(document.get("options", {}))
    for fragment in document.get("extends_documentation_fragment", []):
        file, _, section = fragment.removeprefix(COLLECTION).partition(".")
        fragments = importlib.import_module(f"ansible_collections.gpu.prebake.plugins.doc_fragments.{file}").ModuleDocFragment
        found |= yaml.safe_load(getattr(fragments, section.upper()))["options"]
    return found


def readme_table(role: str) -> list[tuple[str, str]]:
    """Variable and default as the README's table shows them, in its order."""
    text = (TOP / "roles" / role / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^\| `({role}_\w+)` \| (.+?) \|", text, re.MULTILINE)


def shown(default: Any) -> str:
    """A default as the README shows it; empty for a computed one, which the README describes in words."""
    if isinstance(default, str) and "{{" in default:
        return ""
    return f"`{yaml.safe_dump(default, default_flow_style=True, default_style='').splitlines()[0]}`" if default != "" else '`""`'


CALLS = [pytest.param(role, name, given, id=f"{role}-{name}") for role in ROLES for name, given in module_calls(role)]

MODULES = sorted(path.stem for path in (TOP / "plugins/modules").glob("*.py"))


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_have_the_names_of_the_defaults_in_their_order(role: str) -> None:
    assert list(options(role)) == list(defaults(role))


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_have_the_defaults(role: str) -> None:
    assert {name: option["default"] for name, option in options(role).items()} == defaults(role)


@pytest.mark.parametrize("role", ROLES)
def test_each_argument_has_a_type_and_a_description(role: str) -> None:
    assert [name for name, option in options(role).items() if not option.get("type") or not option.get("description")] == []


@pytest.mark.parametrize("role", ROLES)
def test_variables_that_must_not_become_text_are_raw(role: str) -> None:
    needs_raw = {n for n in options(role) if n.endswith(("_image", "_version", "_kernels", "_feature_flags", "_expected_gpus"))}
    assert {name for name in needs_raw if options(role)[name]["type"] != "raw"} == set()


@pytest.mark.parametrize("role", ROLES)
def test_readme_shows_every_variable_in_the_order_of_the_defaults(role: str) -> None:
    assert [name for name, _ in readme_table(role)] == list(defaults(role))


@pytest.mark.parametrize("role", ROLES)
def test_readme_shows_the_defaults(role: str) -> None:
    wanted = {name: shown(value) for name, value in defaults(role).items() if shown(value)}
    assert {name: cell for name, cell in readme_table(role) if name in wanted} == wanted


@pytest.mark.parametrize(("role", "name", "given"), CALLS)
def test_role_passes_every_option_of_a_module_that_it_calls(role: str, name: str, given: dict[str, str]) -> None:
    assert set(given) == set(module_options(name))


@pytest.mark.parametrize(("role", "name", "given"), CALLS)
def test_module_has_the_defaults_and_choices_of_the_role(role: str, name: str, given: dict[str, str]) -> None:
    for option, template in given.items():
        variable = template.strip("{} ")
        found = module_options(name)[option]
        if "default" in found:
            assert found["default"] == defaults(role)[variable], option
        assert found.get("choices") == options(role)[variable].get("choices"), option


@pytest.mark.parametrize("name", MODULES)
def test_a_module_accepts_exactly_what_it_documents(name: str) -> None:
    documented = {
        option: {key: value for key, value in facts.items() if key in ("type", "default", "choices", "required", "elements")}
        for option, facts in module_options(name).items()
    }
    assert {n: {k: v for k, v in spec.items() if k != "no_log"} for n, spec in module(name).ARGUMENTS.items()} == documented


def test_a_password_or_pin_is_logged_nowhere() -> None:
    for found in (*(module(name).ARGUMENTS for name in MODULES), *(options(role) for role in ROLES)):
        for option, spec in found.items():
            assert bool(spec.get("no_log")) is option.endswith(("password", "_pin")), option


def test_roles_call_our_modules() -> None:
    assert [(role, name) for role in ROLES for name, _ in module_calls(role)] == [
        ("nvidia_prebake", "prebake_info"),
        ("nvidia_prebake", "driver_image"),
        ("nvidia_prebake", "prebake_layer"),
        ("gpu_boot", "gpu_boot"),
        ("gpu_remove", "gpu_remove"),
    ]
