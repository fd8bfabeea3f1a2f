"""Which files of modprobe.d(5) blacklist nouveau. What a bake then writes is tested in bake/test_nouveau.py."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import nouveau_blacklist

from tests.kit.node import FakeNode
from tests.kit.values import KVER


def is_needed(node: FakeNode) -> bool:
    """Whether our file would be written, as no other one blacklists nouveau."""
    node.put(f"usr/lib/modules/{KVER}/kernel/drivers/gpu/drm/nouveau/nouveau.ko")
    found = nouveau_blacklist.look(node.root, ())
    assert found.kernels == (KVER,)
    return nouveau_blacklist.decide(found, True).write and not found.others


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param(
            "etc/modprobe.d/mine.conf", "#blacklist nouveau\noptions nouveau modeset=0\ninstall nouveau /sbin/modprobe x\n", id="not"
        ),
        pytest.param("etc/modprobe.d/mine.conf.bak", "blacklist nouveau\n", id="no conf"),
        pytest.param("etc/modprobe.d/mine.conf", "blacklist nouveaux\nblacklist\n", id="another word"),
    ],
)
def test_what_is_no_blacklist_is_not_taken_for_one(node: FakeNode, path: str, text: str) -> None:
    node.put(path, text)
    assert is_needed(node)


def test_a_masked_file_does_not_count(node: FakeNode) -> None:
    node.put("usr/lib/modprobe.d/mine.conf", "blacklist nouveau\n")
    assert not is_needed(node)
    node.put("etc/modprobe.d/mine.conf", "")
    assert is_needed(node)
