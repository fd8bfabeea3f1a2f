"""What the table of options does not make equal by itself: what roles pass on, and what Ansible reads in modules and argument_specs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import BOOT_PLAYBOOK, MODULES, RESULTS, ROLES, of_module
from ansible_collections.gpu.prebake.plugins.module_utils.options import argument_spec

TOP = Path(__file__).parents[2]
COLLECTION = "gpu.prebake."


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def module_calls(role: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and arguments of each of our modules that the role's tasks call."""
    pending = [task for path in sorted((TOP / "roles" / role / "tasks").glob("*.yml")) for task in load(path)]
    while pending:
        task = pending.pop(0)
        pending = [*task.get("block", []), *task.get("rescue", []), *task.get("always", []), *pending]
        yield from ((key[len(COLLECTION) :], arguments) for key, arguments in task.items() if key.startswith(COLLECTION))


ENTRIES = [TOP / "roles" / role / f"tasks/{entry}.yml" for role, entries in ROLES.items() for entry in entries]
CALLS = [pytest.param(role, name, given, id=f"{role}-{name}") for role in ROLES for name, given in module_calls(role)]


@pytest.mark.parametrize(("role", "name", "given"), CALLS)
def test_a_role_passes_each_option_of_a_module_its_variable(role: str, name: str, given: dict[str, str]) -> None:
    variables = {option.name: [v for v in option.variables if v.startswith(f"{role}_")] for option in of_module(name).values()}
    assert set(variables) - set(given) <= {"report_files", "signer"}, "what a role without a report, and an action, set themselves"
    assert set(given) <= set(variables)
    table = of_module(name)
    taken = {option: f"__{names[0]}" if table[option].controller else names[0] for option, names in variables.items() if names}
    wanted = {option: f"{{{{ {variable} }}}}" for option, variable in taken.items()}
    assert {option: template for option, template in given.items() if option in wanted} == wanted


@pytest.mark.parametrize("role", ROLES)
def test_a_role_takes_what_names_a_file_on_the_controller_once_before_it_asks_the_node(role: str) -> None:
    """A node's answer can set variables. So each entry begins with set_fact, and no later task uses the public name."""
    tables = [table for groups in ROLES[role].values() for table in groups]
    named = {v for t in tables for o in t.values() if o.controller for v in o.variables if v.startswith(role)}
    files = {path.stem: path.read_text(encoding="utf-8") for path in sorted((TOP / "roles" / role / "tasks").glob("*.yml"))}
    taken: dict[str, dict[str, str]] = {}
    for entry in ROLES[role] if named else ():
        first = yaml.safe_load(files[entry])[0]
        taken[entry] = first["ansible.builtin.set_fact"]
        assert first["tags"] == "always"
        assert taken[entry] == {private: f"{{{{ {private[2:]} }}}}" for private in taken[entry]}
    assert {private[2:] for one in taken.values() for private in one} == named
    for name, text in files.items():
        values = re.sub(r"^\s*[a-z_]+:", "", text, flags=re.MULTILINE)
        used = [word for word in re.findall(r"\b[a-z_]+\b", values) if word in named]
        assert sorted(used) == sorted(private[2:] for private in taken.get(name, {})), "only the first tasks use them"


def test_the_boot_playbook_takes_its_folder_and_its_hosts_name_once_before_it_asks_the_node() -> None:
    text = (TOP / "playbooks/boot.yml").read_text(encoding="utf-8")
    (play,) = yaml.safe_load(text)
    taken = play["pre_tasks"][0]["ansible.builtin.set_fact"]
    assert [name for name, option in BOOT_PLAYBOOK.items() if option.controller] == ["report_folder"]
    assert taken == {
        "__gpu_boot_report_folder": "{{ gpu_boot_report_folder | default('') }}",
        "__gpu_boot_report_name": "{{ inventory_hostname | gpu.prebake.file_name }}.json",
    }
    assert not re.search(r"\b(gpu_boot_report_folder|inventory_hostname)\b", yaml.safe_dump(play["tasks"]))


def test_roles_call_our_modules() -> None:
    assert [(role, name) for role in ROLES for name, _ in module_calls(role)] == [
        ("nvidia_prebake", "prebake_info"),
        ("nvidia_prebake", "driver_image"),
        ("nvidia_prebake", "prebake_layer"),
        ("nvidia_prebake", "check_variables"),
        ("nvidia_prebake", "check_variables"),
        ("nvidia_prebake", "image_seal"),
        ("gpu_boot", "check_variables"),
        ("gpu_boot", "gpu_boot"),
        ("gpu_remove", "check_variables"),
        ("gpu_remove", "gpu_remove"),
    ]


@pytest.mark.parametrize("role", ROLES)
def test_the_results_of_a_role_are_known_and_documented(role: str) -> None:
    tasks = "".join(path.read_text() for path in (TOP / "roles" / role / "tasks").glob("*.yml"))
    assert set(RESULTS[role]) == set(re.findall(rf"register: ({role}_\w+)", tasks))
    readme = (TOP / "roles" / role / "README.md").read_text()
    assert [name for name in RESULTS[role] if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_of_a_role_checks_its_variables_whatever_tags_are_asked_for(entry: Path) -> None:
    checks = [task for task in load(entry) if f"{COLLECTION}check_variables" in task]
    assert [task["tags"] for task in checks] == ["always"]
    assert checks[0][f"{COLLECTION}check_variables"]["role"] == entry.parts[-3]


@pytest.mark.parametrize("role", ROLES)
def test_ansible_reads_the_same_defaults_in_argument_specs_and_defaults(role: str) -> None:
    specified = load(TOP / "roles" / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = {name: option["default"] for name, option in specified.items() if "default" in option}
    assert [name for name, option in specified.items() if option.get("required") and name in defaults] == []
    assert defaults == load(TOP / "roles" / role / "defaults/main.yml")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_takes_what_it_documents(name: str) -> None:
    module = importlib.import_module(f"ansible_collections.gpu.prebake.plugins.modules.{name}")
    documented = {
        option: {key: value for key, value in facts.items() if key in ("type", "default", "choices", "required", "elements")}
        for option, facts in yaml.safe_load(module.DOCUMENTATION)["options"].items()
    }
    taken = argument_spec(name)
    assert {n: {k: v for k, v in spec.items() if k != "no_log"} for n, spec in taken.items()} == documented
    assert getattr(module, "ARGUMENTS", taken) == taken, "a module that is only documentation has none: its action reads the same table"


def test_what_a_role_cannot_do_without_is_marked_required() -> None:
    specified = load(TOP / "roles/gpu_boot/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert [name for name, option in specified.items() if option.get("required")] == ["gpu_boot_image"]
    for variable, says in (("gpu_boot_image", "required"), ("nvidia_prebake_image", "required for a bake")):
        readme = TOP / "roles" / variable.removesuffix("_image") / "README.md"
        assert f"| `{variable}` | {says} |" in readme.read_text()
