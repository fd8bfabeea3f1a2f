"""Work for many items on every core."""

from __future__ import annotations

import os
import threading

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import parallel


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("cores", [None, 1, 4])
def test_results_come_in_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch, count: int, cores: int | None) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert parallel.each(lambda n: n * n, range(count)) == [n * n for n in range(count)]


def test_every_core_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    together = threading.Barrier(3, timeout=10)
    assert len(parallel.each(lambda _n: together.wait(), range(3))) == 3


def test_the_first_item_that_fails_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    later_has_failed = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            assert later_has_failed.wait(10)
            raise OSError("the first")
        if number == 5:
            later_has_failed.set()
            raise OSError("a later one")
        return number

    with pytest.raises(OSError, match="the first"):
        parallel.each(work, range(8))
