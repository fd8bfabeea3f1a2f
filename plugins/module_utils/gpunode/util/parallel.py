"""The same work for many items on every core. Hashing and reading files let other threads run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Returns ``work`` of each of ``items``, in their order. Raises what the first that fails raises."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - it imports a lot, and many runs hash nothing

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(work, todo))
