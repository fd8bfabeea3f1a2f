"""A boot as one call: check mode, lock, late GPUs, and errors before the decision."""

from __future__ import annotations

import os

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.flow import boot
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import expected_gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError, BusyError, InputError, PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

from tests.kit.node import FakeNode, bake_layer
from tests.kit.values import policy

READ_ONLY = ("modinfo", "containerd")


@pytest.mark.parametrize("is_baked", [True, False], ids=["baked", "never baked"])
def test_check_mode_returns_the_plan_and_changes_nothing(node: FakeNode, is_baked: bool) -> None:
    node.add_gpu()
    if is_baked:
        bake_layer(node)
    before = node.tree()
    _, outcome = boot(node, policy(), check=True, root=node.root)
    assert node.tree() == before
    assert (outcome.result, outcome.changed) == ("planned", True)
    assert outcome.code == ("baked_layer_matches" if is_baked else "never_baked")
    asked = [tuple(argv[3:5]) for argv in node.calls if argv[0] not in READ_ONLY]
    assert asked == [("images", "ls"), ("content", "get"), ("content", "get")], "the image, its index, its manifest; nothing twice"
    assert not paths.LOCK.exists()


def test_boots_once_and_then_changes_nothing(node: FakeNode) -> None:
    node.add_gpu()
    bake_layer(node)
    _, first = boot(node, policy(), root=node.root)
    _, second = boot(node, policy(), root=node.root)
    assert (first.result, first.changed, second.result, second.changed) == ("fast", True, "ready", False)
    assert first.steps[0]["name"] == "probe-and-decide"


def test_on_a_node_without_a_gpu_nothing_baked_is_read(node: FakeNode) -> None:
    bake_layer(node)
    before = node.tree()
    _, outcome = boot(node, policy(), root=node.root)
    assert (outcome.code, outcome.changed, node.calls) == ("no_gpu", False, [])
    assert node.tree() == before


def test_a_corrupt_store_is_never_fatal(node: FakeNode) -> None:
    node.add_gpu()
    for path in ("layers/x/manifest.json", "node-record.json"):
        node.put(f"var/lib/gpu-prebake/{path}", '{"schema": 1, "libraries": []')
    node.put("opt/azure/aks-gpu/dkms-marker", "driver_version=../x\n")
    _, outcome = boot(node, policy(), root=node.root)
    assert (outcome.result, outcome.code) == ("compiled", "manifest_invalid")


def test_two_boots_at_once_are_refused(node: FakeNode) -> None:
    with files.locked(paths.LOCK, "gpu_boot"), pytest.raises(BusyError, match=str(os.getpid())):
        boot(node, policy(), root=node.root)


def test_a_run_that_is_not_root_is_refused_first(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PreflightError, match="become: true"):
        boot(node, policy(), root=node.root)


def test_gpus_that_do_not_appear_are_an_error_of_their_own(node: FakeNode) -> None:
    with pytest.raises(BootError) as caught:
        boot(node, policy(expected_gpus=1), root=node.root)
    assert caught.value.code == "gpu_missing"


@pytest.mark.parametrize(("value", "number"), [("auto", None), (None, None), ("", None), (0, 0), ("8", 8), (8, 8)])
def test_the_expected_number_of_gpus(value: object, number: int | None) -> None:
    assert expected_gpus(value) == number


@pytest.mark.parametrize("value", [True, "-1", "two", 1.5, "²", [1]], ids=repr)
def test_invalid_numbers_of_gpus(value: object) -> None:
    with pytest.raises(InputError):
        expected_gpus(value)
