"""JSON: our own documents, with a layout version and strict reading, and what others wrote. No duplicate keys in either (R8).

Whatever is wrong with a document of ours is a DataError; whatever is wrong with others' JSON is a ValueError.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Collection, Iterable
from typing import Any, NoReturn, TypeVar

from ..errors import DataError
from .bounded import cut

T = TypeVar("T")
_ELSEWHERE = frozenset(("", ".", ".."))
_NAME_MAX, _PATH_MAX = 255, 4096  # bytes, limits.h(0p)
MAX_OTHERS = 4 << 20  # bytes; the limit of registries for a manifest
_MAX_DEPTH = 32  # of others' JSON; an image's manifest has five levels
HIGHEST = 2**63 - 1  # what the kernel takes as a size or a time
_MAX_DIGITS = 20
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 80


def parse(text: str | bytes, limit: int = MAX_OTHERS) -> Any:
    """The value of JSON that others wrote, at most ``limit`` long and not nested deeper than any that we need. Raises ValueError."""
    if len(text) > limit:
        raise ValueError(f"it is longer than {limit}")
    value = _parsed(text, parse_int=_short)
    level = [value]
    for _depth in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _parsed(text: str | bytes, parse_int: Callable[[str], int] | None = None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=parse_int)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _short(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def shown(value: Any) -> str:
    """A value of a document, for a message: short, however long or deeply nested the value is."""
    return _SHOWN.repr(value)


def load(text: str, schema: int, where: str, code: str, older: Collection[int] = ()) -> dict[str, Any]:
    """Parses a document of layout version ``schema``, or of one of ``older``. Raises DataError with ``code``; a newer layout is never
    guessed at (D13)."""
    try:
        document = _parsed(text)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); it is not used", code=code) from error
    if not isinstance(document, dict):
        raise DataError(f"{where}: not a JSON object; it is not used", code=code)
    found = document.get("schema")
    if found not in (schema, *older) or isinstance(found, (bool, float)):  # 1.0 and True equal 1
        newer = ": use the program that wrote it, or a later one" if isinstance(found, int) and found > schema else ""
        message = f"{where}: layout version {shown(found)}, this program reads {schema}; it is not used{newer}"
        raise DataError(message, code=code, details={"schema": found if isinstance(found, int) else None})
    return document


def is_newer(error: DataError, schema: int) -> bool:
    """Whether ``load`` refused a document because its layout version is newer than ``schema``."""
    found = error.details.get("schema")
    return isinstance(found, int) and not isinstance(found, bool) and found > schema


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _value in pairs]
        raise ValueError(f"the key {shown(next(key for key in found if keys.count(key) > 1))} is there twice")
    return found


def get(document: dict[str, Any], key: str, kind: type[T], where: str, code: str) -> T:
    """The value at ``key``, of exactly type ``kind``. Raises DataError."""
    value = document.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):  # in Python a bool is an int
        raise DataError(f"{where}: {cut(key, 200)} is {shown(value)}, not of type {kind.__name__}; it is not used", code=code)
    return value


def whole(document: dict[str, Any], key: str, where: str, code: str, low: int = 0, high: int = HIGHEST) -> int:
    """The whole number at ``key``, from ``low`` to ``high``. Raises DataError."""
    value = get(document, key, int, where, code)
    if not low <= value <= high:
        raise DataError(f"{where}: {key} is {shown(value)}, not from {low} to {high}; it is not used", code=code)
    return value


def texts(document: dict[str, Any], key: str, where: str, code: str) -> dict[str, str]:
    """The mapping of text to text at ``key``. Raises DataError."""
    value = get(document, key, dict, where, code)
    for inner in value:
        get(value, inner, str, f"{where}: {key}", code)
    return dict(value)


def check_path(path: str, roots: Collection[str], where: str, code: str) -> str:
    """Returns ``path`` if it is relative, below one of ``roots``, and has no empty part, ``.`` or ``..``. Raises DataError otherwise."""
    if not is_possible(path):
        raise DataError(f"{where}: {path[:80]!r} is not a valid path; it is not used", code=code)
    parts = path.split("/")
    is_below = (parts[0] in roots and len(parts) > 1) or any(path.startswith(f"{root}/") for root in roots)
    if not _ELSEWHERE.isdisjoint(parts) or not is_below:
        raise DataError(f"{where}: the path {path!r} leads outside the folders of a driver; it is not used", code=code)
    return path


def is_possible(path: str) -> bool:
    """Whether the kernel accepts a path: short enough, no NUL byte, and text that can be encoded as bytes."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and len(encoded) < _PATH_MAX and max(map(len, encoded.split(b"/"))) <= _NAME_MAX


def dump(document: dict[str, Any]) -> str:
    """The document as text, in a stable and readable form."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def dump_compact(document: dict[str, Any]) -> str:
    """The document as text, in a stable form that is fast to write: a node writes thousands of entries at boot."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n"
