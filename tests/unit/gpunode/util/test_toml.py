"""TOML that others wrote, by Python's own parser and by the copy for older Pythons."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import toml, tomli
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.files import sha256

COPY = Path(tomli.__file__).parent
# SHA-256 of the files in tomli-2.3.0.tar.gz.
RELEASED = {
    "LICENSE": "b80816b0d530b8accb4c2211783790984a6e3b61922c2b5ee92f3372ab2742fe",
    "__init__.py": "ab310697c40786a8103c2b8bcdf2b23c8b87dca28fb297fe5153db674a69043e",
    "_parser.py": "6cef2d5189a7c80d8aea6e139db41b7d4aa6205703bfb986d4ab82f60a915660",
    "_re.py": "9fcf88a3c64ad54f85ea3ce583b3da6dce3484b149b1ac04dae34b287f70ee25",
    "_types.py": "f864c6d9552a929c7032ace654ee05ef26ca75d21b027b801d77e65907138b74",
}


@pytest.fixture(params=["of this Python", "of older Pythons"])
def parse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    if request.param == "of older Pythons":
        monkeypatch.setattr(sys, "version_info", (3, 9))
    return toml.parse


def test_the_copy_is_the_release() -> None:
    assert {path.name: sha256(path) for path in COPY.iterdir() if path.is_file() and path.name != "README.md"} == RELEASED


def test_an_older_python_uses_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9))
    monkeypatch.setattr(tomli, "loads", lambda text: {"read": text})
    assert toml.parse("x") == {"read": "x"}


def test_a_document_is_read(parse: Callable[[str], dict[str, Any]]) -> None:
    text = 'version = 2\r\n  imports = [ "a", # one\n "b" ]\n[plugins."io.containerd.grpc.v1.cri"]\n\tx = {y = true}\n[[z]]\n'
    assert parse(text) == {
        "version": 2,
        "imports": ["a", "b"],
        "plugins": {"io.containerd.grpc.v1.cri": {"x": {"y": True}}},
        "z": [{}],
    }


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a = 1\na = 2\n", id="a key twice"),
        pytest.param("a = \n", id="no value"),
        pytest.param("a = {b = 1,}\n", id="TOML 1.1"),
        pytest.param("a = " + "[" * 100_000, id="open arrays"),
        pytest.param("a = " + "{a = " * 40_000, id="open tables"),
        pytest.param("a = " + "[" * 100 + "]" * 100, id="deep"),
        pytest.param("[" + "a." * 40 + "a]", id="deep tables"),
        pytest.param("\n".join(f"[{'.'.join('a' * 500)}]" for _ in range(250)), id="keys of many parts"),
        pytest.param("a = 0x" + "f" * 200_000, id="a number of many digits"),
        pytest.param("a = " + "9" * 200_000, id="a decimal number of many digits"),
        pytest.param("#" * (toml.LARGEST + 1), id="large"),
        pytest.param("\0", id="NUL"),
        pytest.param("a = 2020-99-99\n", id="no date"),
    ],
)
def test_what_is_no_toml_or_more_than_we_need_is_an_error(parse: Callable[[str], dict[str, Any]], text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)
    assert type(caught.value).__name__ in ("ValueError", "TOMLDecodeError")
