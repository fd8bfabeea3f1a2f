"""DKMS's tree, read as files."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import dkms
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.dkms import DkmsEntry

from tests.kit.node import FakeNode
from tests.kit.values import KVER, VERSION


def test_no_tree_is_nothing_registered(node: FakeNode) -> None:
    assert dkms.entries(node.root) == ()
    assert dkms.build_log(node.root, VERSION) is None


def test_added_built_and_installed_are_told_apart(node: FakeNode) -> None:
    node.build()
    node.put(f"var/lib/dkms/nvidia/570.1/{KVER}/x86_64/module/nvidia.ko")
    node.put("var/lib/dkms/nvidia/535.1/source/dkms.conf")
    assert dkms.entries(node.root) == (
        DkmsEntry("535.1"),
        DkmsEntry("570.1", KVER, "x86_64", "built"),
        DkmsEntry(VERSION, KVER, "x86_64", "installed"),
    )


def test_a_link_to_another_version_installs_only_that(node: FakeNode) -> None:
    node.build()
    node.link(f"var/lib/dkms/nvidia/kernel-{KVER}-x86_64", f"570.1/{KVER}/x86_64")
    assert [e.state for e in dkms.entries(node.root)] == ["built"]


def test_other_names_of_the_driver_are_known(node: FakeNode) -> None:
    for name in ("nvidia", "nvidia-current", "zfs", "nvidia-fs"):
        node.put(f"var/lib/dkms/{name}/1.0/x")
    assert dkms.registered_names(node.root) == ("nvidia", "nvidia-current")


def test_a_failed_build_leaves_its_log(node: FakeNode) -> None:
    node.put(f"var/lib/dkms/nvidia/{VERSION}/build/make.log", "error: x")
    assert dkms.build_log(node.root, VERSION) == "error: x"
