"""Which files of modprobe.d(5) blacklist nouveau. What a bake then writes is tested in bake/test_nouveau.py."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import nouveau_blacklist

from tests.kit.node import FakeNode
from tests.kit.values import KVER

NOVA = nouveau_blacklist.NOVA


def has_nova(node: FakeNode, name: str = "nova-core.ko.zst") -> None:
    node.put(f"usr/lib/modules/{KVER}/kernel/drivers/gpu/nova-core/{name}")


@pytest.mark.parametrize("name", ["nova_core.ko", "nova-core.ko", "nova-core.ko.xz", "nova_core.ko.zst"])
def test_a_kernel_with_nova_gets_a_file_of_its_own(node: FakeNode, name: str) -> None:
    has_nova(node, name)
    change = nouveau_blacklist.decide(nouveau_blacklist.look(node.root, ()), True)
    assert (change.write, change.files) == ((NOVA,), (NOVA.path,))
    assert change.says == f"nova_core is blacklisted by /{NOVA.path}, also in every initramfs"
    assert "blacklist nova_core\n" in NOVA.text


@pytest.mark.parametrize("name", ["nova-core.ko.bak", "nova-core-x.ko", "nova_core", "nova.ko"])
def test_other_files_are_not_novas_module(node: FakeNode, name: str) -> None:
    has_nova(node, name)
    assert not nouveau_blacklist.decide(nouveau_blacklist.look(node.root, ()), True).is_needed


def test_a_file_about_one_driver_does_not_blacklist_the_other(node: FakeNode) -> None:
    has_nova(node)
    node.put("etc/modprobe.d/mine.conf", "blacklist nouveau\n")
    assert is_needed(node) is False, "nouveau's own"
    assert nouveau_blacklist.decide(nouveau_blacklist.look(node.root, ()), True).write == (NOVA,)


@pytest.mark.parametrize("line", ["blacklist nova-core", "blacklist nova_core", "alias nova-core off", "install nova_core /bin/false"])
def test_an_owners_file_is_enough_for_nova_with_dashes_too(node: FakeNode, line: str) -> None:
    has_nova(node)
    node.put("etc/modprobe.d/mine.conf", f"{line}\n")
    assert not nouveau_blacklist.decide(nouveau_blacklist.look(node.root, ()), True).is_needed


def is_needed(node: FakeNode) -> bool:
    """Whether our file would be written, as no other one blacklists nouveau."""
    node.put(f"usr/lib/modules/{KVER}/kernel/drivers/gpu/drm/nouveau/nouveau.ko")
    found = nouveau_blacklist.look(node.root, ())
    assert found[0].kernels == (KVER,)
    return nouveau_blacklist.NOUVEAU in nouveau_blacklist.decide(found, True).write and not found[0].others


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
