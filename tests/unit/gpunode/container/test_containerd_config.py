"""What containerd's configuration imports, and which dumps of it are of the same configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import containerd_config
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd_config import fingerprint, imports_dropin
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import CommandError, ImageError

from tests.kit.node import FakeNode
from tests.kit.reply import Reply

A, B = '"/etc/containerd/config.toml"', '"/etc/containerd/config.d/10-nvidia-runtime.toml"'
DUMP = f'version = 2\nimports = [{A}, {B}]\n[plugins]\n  [plugins."io.containerd.grpc.v1.cri"]\n    bins = ["a", "b"]\n    x = 1\n'
ALL = '"/etc/containerd/config.d/*.toml"'


@pytest.mark.parametrize(
    ("text", "imports"),
    [
        pytest.param(f"imports = [{ALL}]\n", True, id="all"),
        pytest.param(f"version = 2\n    imports=[{ALL}]\n[plugins]\n", True, id="indented"),
        pytest.param(f'imports = [\n  "/x/y.toml", # one ]\n  {ALL},\n]\n', True, id="several lines, a bracket in a comment"),
        pytest.param(f'"imports" = [{ALL}]\n', True, id="a key in quotes"),
        pytest.param(f'"\\u0069mports" = [{ALL}]\n', True, id="a key with an escape"),
        pytest.param(f"imports = [{B}]\n", True, id="by its name"),
        pytest.param('imports = ["/etc/containerd/*/10-*.toml"]\n', True, id="another pattern"),
        pytest.param('imports = ["config.d/*.toml"]\n', True, id="relative to the main file"),
        pytest.param(f"# imports = [{ALL}]\n", False, id="a comment"),
        pytest.param(f"x = '''\nimports = [{ALL}]\n'''\n", False, id="inside a text"),
        pytest.param(f"[plugins]\nimports = [{ALL}]\n", False, id="a key of a table"),
        pytest.param("imports = []\n", False, id="nothing"),
        pytest.param('imports = ["/etc/other.d/*.toml"]\n', False, id="another folder"),
        pytest.param('imports = ["/etc/containerd/config.d/other.toml"]\n', False, id="one other file"),
        pytest.param('imports = ["/etc/containerd/*.toml"]\n', False, id="a star is no slash"),
        pytest.param("imports = 7\n", False, id="a number"),
        pytest.param("imports = [7]\n", False, id="a list of numbers"),
        pytest.param("", False, id="an empty file"),
        pytest.param("[plugins]\n", False, id="no imports"),
        pytest.param("imports = [", None, id="not TOML"),
        pytest.param(f"imports = [{ALL}]\nimports = []\n", None, id="a key twice"),
        pytest.param(None, None, id="not readable"),
    ],
)
def test_sees_whether_the_dropin_is_imported(text: str | None, imports: bool | None) -> None:
    assert imports_dropin(text) is imports
    assert bool(containerd_config.why_no_runtime(text)) is not bool(imports)


def test_a_file_that_is_missing_imports_nothing_and_one_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert containerd_config.read_main(tmp_path) == ""
    (tmp_path / containerd_config.MAIN).mkdir(parents=True)
    assert containerd_config.read_main(tmp_path) is None


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param(DUMP.replace(f"{A}, {B}", f"{B}, {A}"), True, id="imports in another order"),
        pytest.param(DUMP.replace(f"{A}, {B}", A), True, id="an import that changes nothing"),
        pytest.param(DUMP.replace('"a", "b"', '"b", "a"'), False, id="another list in another order"),
        pytest.param(DUMP.replace("x = 1", "x = 2"), False, id="a value"),
        pytest.param(DUMP.replace("x = 1", "x = true"), False, id="a type"),
        pytest.param(DUMP.replace("x = 1", 'x = "1"'), False, id="a text for a number"),
        pytest.param(DUMP.replace("x = 1", 'imports = ["a"]'), False, id="imports of a table"),
        pytest.param(DUMP + "[", False, id="what cannot be parsed"),
    ],
)
def test_only_the_order_of_the_imports_does_not_count(other: str, same: bool) -> None:
    assert (fingerprint(other) == fingerprint(DUMP)) is same


def test_what_cannot_be_parsed_is_compared_as_text() -> None:
    assert fingerprint("[\n") == fingerprint("[\n") != fingerprint("[ \n")


def test_a_hash_of_version_0_1_0_tells_nothing() -> None:
    assert not containerd_config.is_comparable(hashlib.sha256(DUMP.encode()).hexdigest())
    assert containerd_config.is_comparable(fingerprint(DUMP))
    assert containerd_config.is_comparable(fingerprint("["))


INVALID = Reply(1, err="time=x level=warning\ncontainerd: expected containerd config version 2, got 3\n")


def test_a_configuration_that_containerd_refuses_is_an_error_of_its_own(node: FakeNode) -> None:
    node.programs["containerd"] = lambda node, words: INVALID
    with pytest.raises(ImageError, match=r"got 3\. Correct /etc/containerd/config\.toml") as caught:
        Containerd(node).config_in_force()
    assert caught.value.code == "containerd_config"


def test_a_containerd_that_is_missing_says_nothing_about_its_configuration(node: FakeNode) -> None:
    node.missing_programs.add("containerd")
    with pytest.raises(CommandError):
        Containerd(node).config_in_force()
