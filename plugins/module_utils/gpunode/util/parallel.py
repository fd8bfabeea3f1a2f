"""The same work for many items on every core. Hashing and reading files let other threads run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Returns ``work`` of each of ``items``, in their order. Begins them in that order; raises what the first that fails raises."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - it imports a lot, and many runs hash nothing

    results: dict[int, _Result] = {}
    errors: dict[int, Exception] = {}
    numbers = iter(range(len(todo)))

    def take() -> None:  # a task for each item would take longer than to hash a small file
        for number in numbers:
            try:
                results[number] = work(todo[number])
            except Exception as error:
                errors[number] = error
                return

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for _worker in range(workers):
            pool.submit(take)
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(todo))]
