"""docs/codes.md against the source: every code that the library can return is documented, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FOLDERS = ("module_utils", "modules", "plugin_utils", "action")
SOURCES = sorted(path for folder in FOLDERS for path in (TOP / "plugins" / folder).rglob("*.py"))
WORD = re.compile(r"[a-z]+(_[a-z]+)*")
# Calls with a reason code, and its position in their arguments.
REASONED = {"Refusal": 1, "Plan": 1, "_left_alone": 1, "_failure": 0}
# A plan that fails ends the run; its code becomes the error code.
FAILING = "_failure"

Collector = Callable[[ast.Module], set[str]]


def text_of(node: ast.expr | None) -> set[str]:
    """The texts that an expression can have as its value: a constant, or either side of a conditional expression or of ``or``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.IfExp):
        return text_of(node.body) | text_of(node.orelse)
    if isinstance(node, ast.BoolOp):
        return {text for value in node.values for text in text_of(value)}
    return set()


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""


def codes_of_assigned(scope: ast.AST, name: str) -> set[str]:
    """The values of a variable that is passed as ``code``. If it is taken from a table: all words with an underscore in that scope."""
    found: set[str] = set()
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                found |= text_of(node.value)
            elif isinstance(target, ast.Tuple) and any(isinstance(t, ast.Name) and t.id == name for t in target.elts):
                words = {c.value for c in ast.walk(scope) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
                found |= {word for word in words if "_" in word and WORD.fullmatch(word)}
    return found


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def error_codes(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for scope in (tree, *functions(tree)):
        for call in (node for node in ast.walk(scope) if isinstance(node, ast.Call)):
            for keyword in call.keywords:
                if keyword.arg == "code":
                    found |= text_of(keyword.value)
                    if isinstance(keyword.value, ast.Name) and scope is not tree:
                        found |= codes_of_assigned(scope, keyword.value.id)
            if called(call) == FAILING and call.args:
                found |= text_of(call.args[0])
    for node in tree.body:
        # One code for everything that can be wrong with one file, which is passed to the reader of documents.
        if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ["_CODE"]:
            found |= text_of(node.value)
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and [t.id for t in line.targets if isinstance(t, ast.Name)] == ["code"]:
                    found |= text_of(line.value)
    return found


def reason_codes(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in REASONED and len(node.args) > REASONED[called(node)]:
            found |= text_of(node.args[REASONED[called(node)]])
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_code"):
            for line in ast.walk(node):
                if isinstance(line, ast.Return):
                    found |= text_of(line.value)
        if isinstance(node, ast.Assign):
            found |= assigned_reasons(node)
    return found


def assigned_reasons(node: ast.Assign) -> set[str]:
    """The codes of assignments ``outcome.code = …``, alone or in a tuple, and of tables ``…_CODES``."""
    found: set[str] = set()
    for target in node.targets:
        if isinstance(target, ast.Name) and target.id.endswith("_CODES") and isinstance(node.value, ast.Dict):
            found |= {text for value in node.value.values for text in text_of(value)}
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        if len(targets) == len(values):
            for one, value in zip(targets, values):
                if isinstance(one, ast.Attribute) and one.attr == "code":
                    found |= text_of(value)
    return found


def in_source(collect: Collector) -> set[str]:
    found: set[str] = set()
    for path in SOURCES:
        found |= collect(ast.parse(path.read_text(encoding="utf-8")))
    return found


def documented(section: str) -> list[str]:
    """The first cells of the tables in one section of docs/codes.md."""
    text = (TOP / "docs/codes.md").read_text(encoding="utf-8")
    body = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert body, f"docs/codes.md has no section {section}"
    return re.findall(r"^\| `(\w+)` \|", body[1], re.MULTILINE)


TABLES = [pytest.param("Reason codes", reason_codes, id="reasons"), pytest.param("Error codes", error_codes, id="errors")]


@pytest.mark.parametrize(("section", "collect"), TABLES)
def test_every_code_of_the_source_is_documented(section: str, collect: Collector) -> None:
    assert sorted(in_source(collect) - set(documented(section))) == []


@pytest.mark.parametrize(("section", "collect"), TABLES)
def test_every_documented_code_exists(section: str, collect: Collector) -> None:
    assert sorted(set(documented(section)) - in_source(collect)) == []


@pytest.mark.parametrize(("section", "collect"), TABLES)
def test_no_code_is_documented_twice(section: str, collect: Collector) -> None:
    assert len(documented(section)) == len(set(documented(section)))


def test_the_page_for_people_on_call_names_every_code() -> None:
    page = (TOP / "docs/on-call.md").read_text(encoding="utf-8")
    known = {*documented("Reason codes"), *documented("Error codes")}
    assert sorted(known - set(re.findall(r"`(\w+)`", page))) == [], "add a code to the row of docs/on-call.md that says what to do"


def test_the_collectors_find_every_form_in_which_code_gives_a_code() -> None:
    reasons, errors = in_source(reason_codes), in_source(error_codes)
    assert {"not_managed", "kernel_mismatch", "digest_unknown", "marker_matches", "fast_path_failed", "skip_refused"} <= reasons
    assert {"bad_input", "gpu_missing", "hardware", "library_mismatch", "no_answer", "record_invalid", "no_space"} <= errors
    assert all(WORD.fullmatch(code) for code in reasons | errors)
