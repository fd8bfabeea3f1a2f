"""What is left of an answer that tries to command the controller; its types; its limits of size and of time."""

from __future__ import annotations

import importlib
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import MODULES
from ansible_collections.gpu.prebake.plugins.plugin_utils import nodeaction
from ansible_collections.gpu.prebake.plugins.plugin_utils.hostfile import file_name
from ansible_collections.gpu.prebake.plugins.plugin_utils.nodeaction import NodeAction, limited, sanitised, wrong_types
from hypothesis import given
from hypothesis import strategies as st

PLUGINS = Path(__file__).parents[3] / "plugins"


def test_every_module_has_an_action_of_the_one_base() -> None:
    assert (
        {path.stem for path in (PLUGINS / "action").glob("*.py")}
        == {path.stem for path in (PLUGINS / "modules").glob("*.py")}
        == set(MODULES)
    )
    for name in MODULES:
        module = importlib.import_module(f"ansible_collections.gpu.prebake.plugins.action.{name}")
        if name == "check_variables":  # it asks no node anything
            assert not module.ActionModule._requires_connection
            continue
        assert issubclass(module.ActionModule, NodeAction)
        assert module.ActionModule.limit_s is not NodeAction.limit_s
        assert "run" not in vars(module.ActionModule)


def test_what_would_command_the_controller_goes_and_the_rest_is_clean() -> None:
    commands = {"ansible_facts": {"x": 1}, "ansible_stats": {}, "add_host": {}, "add_group": "g", "deprecations": [{"removed": True}]}
    internal = {"_ansible_no_log": True, "_ansible_verbose_always": True, "_ansible_notify": ["x"]}
    answer = {**commands, **internal, "changed": True, "msg": "a\x1b[2Jb", "report": {"\x1bc": ["\u202e", 1, None]}, "warnings": ["w\r", 3]}
    assert sanitised(answer) == {"changed": True, "msg": "ab", "report": {"?c": ["?", 1, None]}, "warnings": ["w"]}


@pytest.mark.parametrize(
    ("module", "answer", "wrong"),
    [
        pytest.param("gpu_boot", {"changed": True, "refused": [{"code": "x"}], "containers": 1, "msg": "m"}, [], id="right"),
        pytest.param("gpu_boot", {"refused": [1]}, ["refused is not a list of dict"], id="elements"),
        pytest.param("gpu_boot", {"containers": True}, ["containers is not int"], id="a truth value is no number"),
        pytest.param("image_seal", {"report": True}, ["report is not dict"], id="report"),
        pytest.param("prebake_info", {"changed": "yes"}, ["changed is not bool"], id="what every answer has"),
        pytest.param("prebake_info", {"diff": "x"}, ["diff is not diff"], id="diff"),
    ],
)
def test_an_answer_has_the_types_that_its_module_documents(module: str, answer: dict[str, Any], wrong: list[str]) -> None:
    assert wrong_types(module, answer) == wrong


@pytest.mark.parametrize("module", MODULES)
def test_the_samples_of_the_documentation_are_right(module: str) -> None:
    returned = yaml.safe_load(importlib.import_module(f"ansible_collections.gpu.prebake.plugins.modules.{module}").RETURN)
    assert wrong_types(module, {name: facts["sample"] for name, facts in returned.items()}) == []


def test_a_call_that_is_never_answered_ends() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(AnsibleConnectionFailure, match="no answer"), limited(0.05, "no answer"):
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_limit_that_is_in_force_stays() -> None:
    with limited(60, "outer"):
        with limited(0.01, "inner"):
            time.sleep(0.05)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 1


def test_what_is_printed_around_an_answer_is_clean_and_the_answer_is_not_changed() -> None:
    answer = '{"msg": "' + "x" * 100_000 + '", "path": "C:\\\\u001b"}'
    assert nodeaction.clean_json(f"hello \x1b[31mred\r\n{answer}\r\n") == f"hello red\n{answer}\n"


@given(st.text(min_size=0, max_size=300))
def test_a_hosts_file_is_one_name_in_its_folder(host: str) -> None:
    name = f"{file_name(host)}.json"
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 255


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gpu-node-1.example", "gpu-node-1.example"),
        ("fe80::1", "fe80::1"),
        ("../x", "%2E.%2Fx"),
        ("..", "%2E."),
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("node 1", "node%201"),
    ],
)
def test_a_hosts_file_has_the_hosts_own_name_if_that_is_one(host: str, name: str) -> None:
    assert file_name(host) == name


def test_hosts_with_long_names_have_files_of_their_own() -> None:
    assert file_name("x" * 300) != file_name("x" * 301)
    assert file_name("") != file_name("%")
