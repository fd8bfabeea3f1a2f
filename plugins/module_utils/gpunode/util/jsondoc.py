"""Our own JSON documents: a layout version, strict reading, no duplicate keys (R8); anything invalid is a DataError."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any, TypeVar

from ..errors import DataError

T = TypeVar("T")
_ELSEWHERE = frozenset(("", ".", ".."))
_NAME_MAX, _PATH_MAX = 255, 4096  # bytes, limits.h(0p)


def load(text: str, schema: int, where: str, code: str, older: Collection[int] = ()) -> dict[str, Any]:
    """Parses a document of layout version ``schema``, or of one of ``older``. Raises DataError with ``code``; a newer layout is never
    guessed at (D13)."""
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); it is not used", code=code) from error
    if not isinstance(document, dict):
        raise DataError(f"{where}: not a JSON object; it is not used", code=code)
    found = document.get("schema")
    if found not in (schema, *older) or isinstance(found, bool):
        newer = ": use the program that wrote it, or a later one" if isinstance(found, int) and found > schema else ""
        message = f"{where}: layout version {found!r}, this program reads {schema}; it is not used{newer}"
        raise DataError(message, code=code, details={"schema": found})
    return document


def is_newer(error: DataError, schema: int) -> bool:
    """Whether ``load`` refused a document because its layout version is newer than ``schema``."""
    found = error.details.get("schema")
    return isinstance(found, int) and not isinstance(found, bool) and found > schema


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _value in pairs]
    if len(keys) != len(set(keys)):
        raise ValueError("duplicate key")
    return dict(pairs)


def get(document: dict[str, Any], key: str, kind: type[T], where: str, code: str) -> T:
    """The value at ``key``, of exactly type ``kind``. Raises DataError."""
    value = document.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):  # in Python a bool is an int
        raise DataError(f"{where}: {key} is {value!r}, not of type {kind.__name__}; it is not used", code=code)
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
