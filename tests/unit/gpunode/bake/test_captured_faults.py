"""A captured bake on a filesystem that becomes full or read-only at any of the bake's changes in the store."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.layers import read_all

from tests.kit.bake import bake, builds_newest, in_store, outside
from tests.kit.faults import CHANGES, GROWING, MOST_EFFECTS, Broken, opens, watched
from tests.kit.node import FakeNode
from tests.kit.values import NEWER

# The fake node writes these itself, for its overlays. A real watcher removes files in a process of its own.
NOT_OURS = re.compile(r".*/captures/[^/]+/(merged|upper/\d+)(/.*)?")
BY_WATCHER = ("unlink", "rmdir")


class BrokenStore(Broken):
    """Fails at effect number ``first`` in the store of ``root``, and at every later one."""

    def __init__(self, root: Path, first: int, number: int, names: tuple[str, ...]) -> None:
        super().__init__(first, number, names)
        self.store = str(root / STORE)

    def __call__(self, name: str, args: tuple[Any, ...]) -> None:
        path = str(Path(f"/proc/self/fd/{args[0]}").readlink() if isinstance(args[0], int) else args[0])
        is_watchers = "/captures/" in path and name in BY_WATCHER
        if path.startswith(self.store) and not is_watchers and not NOT_OURS.fullmatch(path):
            try:
                super().__call__(name, args)
            except OSError as error:
                # The kernel's error for a call with a file descriptor has no file name.
                error.filename = None if isinstance(args[0], int) else error.filename
                raise


@contextlib.contextmanager
def broken(at: BrokenStore) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(opens(at))
        for patch in watched(at):
            stack.enter_context(patch)
        yield


@pytest.mark.parametrize("step", [pytest.param(17, id="some"), pytest.param(1, id="all", marks=pytest.mark.faults)])
@pytest.mark.parametrize(
    ("number", "names", "code"),
    [
        pytest.param(errno.ENOSPC, (*GROWING, "open"), "no_space", id="full"),
        pytest.param(errno.EROFS, (*CHANGES, "open"), "read_only", id="read-only"),
    ],
)
def test_a_store_that_breaks_is_named_and_nothing_is_half_done(
    node: FakeNode, step: int, number: int, names: tuple[str, ...], code: str
) -> None:
    node.add_kernel(NEWER)
    node.scripts = [builds_newest()]
    before = outside(node)
    bake(node, mode="captured", kernels="all")
    wanted = in_store(node)
    failed = 0
    for first in range(1, MOST_EFFECTS, step):
        shutil.rmtree(node.root / STORE)
        error = fails(node, BrokenStore(node.root, first, number, names))
        if error is None:
            break
        failed += 1
        assert error.code == code, error
        assert f"{node.root}/{STORE}" in str(error)
        assert re.search(r"larger disk|mount its filesystem writable", str(error))
        assert outside(node) == before
        layers, problems = read_all(node.root)
        # On a read-only filesystem nothing can be undone either; each recorded layer is complete by itself.
        allowed = (0, 1, 2) if code == "read_only" else (0, 2)
        assert (len(layers) in allowed, problems) == (True, ()), "both kernels, or none"
        bake(node, mode="captured", kernels="all")
        assert in_store(node) == wanted
    assert failed > 3
    assert outside(node) == before


def fails(node: FakeNode, at: BrokenStore) -> BuildError | None:
    try:
        with broken(at):
            bake(node, mode="captured", kernels="all")
    except BuildError as error:
        return error
    return None
