"""What a module answers: one that Ansible can read, whatever the names on the node are."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils import answer
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import LayerError

ODD = "lib\udcff.so \ud800 ü"
SHOWN = "lib\\udcff.so \\ud800 ü"


@pytest.fixture(autouse=True)
def no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer.signal, "signal", lambda *_: None)


class EndedError(Exception):
    pass


class Module:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.answer: dict[str, Any] = {}

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def exit_json(self, **answer: Any) -> None:
        self.answer = answer
        raise EndedError

    fail_json = exit_json


def run(body: Any) -> Module:
    module = Module()
    with pytest.raises(EndedError):
        answer.run_module(module, body)  # type: ignore[arg-type]
    return module


def test_a_result_with_a_name_that_is_not_utf_8() -> None:
    found = run(lambda _: {"notes": [ODD], "report": {"warnings": [ODD], ODD: (ODD,)}})
    assert found.warnings == [SHOWN, SHOWN]
    assert found.answer == {"notes": [SHOWN], "report": {"warnings": [SHOWN], SHOWN: [SHOWN]}}


def raising(error: Exception) -> Any:
    def body(_module: object) -> None:
        raise error

    return body


def test_a_failure_with_a_name_that_is_not_utf_8() -> None:
    found = run(raising(LayerError(ODD, code="layer_damaged", details={"problems": [ODD]})))
    assert found.answer == {"msg": SHOWN, "code": "layer_damaged", "problems": [SHOWN]}
    found = run(raising(OSError(5, "Input/output error", ODD)))
    assert found.answer["msg"].startswith(f"{SHOWN}: Input/output error")
    assert found.answer["code"] == "os_error"
