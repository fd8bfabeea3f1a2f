"""A driver container's runtime drop-in with which containerd does not start again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import apply, runtime_dropin
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.context import BootRun
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd_config import is_comparable
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import GpuNodeError, ImageError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import node_record

from tests.kit import containerd as fake
from tests.kit.boot import boot, failed, fails, flow_boot, restarts
from tests.kit.layer import LayerNode
from tests.kit.node import FakeNode, behave
from tests.kit.reply import Reply
from tests.kit.values import DROPIN, policy

NEWER = "version = 3\n"
REFUSED = Reply(1, err="containerd: failed to load TOML: unsupported config version `3`\n")


def writes(text: str) -> object:
    """A driver container that ends well and writes this drop-in."""

    def script(node: FakeNode, action: str) -> Reply:
        reply = behave(node, action)
        node.put(DROPIN, text)
        return reply

    return script


def refusing(node: FakeNode, words: list[str]) -> Reply:
    """containerd, whose main file has version 2."""
    file = node.root / DROPIN
    return REFUSED if file.exists() and file.read_text().startswith("version = 3") else fake.containerd(node, words)


@pytest.fixture
def refused(baked: FakeNode) -> FakeNode:
    baked.programs["containerd"] = refusing
    baked.scripts = [writes(NEWER)]  # type: ignore[list-item]
    return baked


def test_the_containers_dropin_is_named_and_taken_back(refused: FakeNode) -> None:
    error = failed(refused)
    assert error.code == "containerd_dropin"
    assert f"/{DROPIN}" in str(error)
    assert "unsupported config version" in str(error)
    assert not (refused.root / DROPIN).exists()
    assert restarts(refused) == 0


def test_with_another_image_the_next_run_is_complete(refused: FakeNode) -> None:
    failed(refused)
    refused.scripts = [behave]
    assert boot(refused).result == "fast"
    assert (refused.root / DROPIN).exists()


def test_it_is_taken_back_also_where_the_container_fails(refused: FakeNode) -> None:
    refused.scripts = [fails(before=lambda node: node.put(DROPIN, NEWER))]
    assert failed(refused).code == "container_failed"
    assert not (refused.root / DROPIN).exists()


def test_a_dropin_of_somebody_else_stays(refused: FakeNode) -> None:
    refused.put(DROPIN, NEWER + "# mine\n")
    error = failed(refused, error=ImageError)
    assert error.code == "containerd_config"
    assert (refused.root / DROPIN).read_text() == NEWER + "# mine\n"
    assert refused.driver_runs == []


def test_a_dropin_that_is_not_the_cause_stays(refused: FakeNode) -> None:
    def broken_meanwhile(node: FakeNode, action: str) -> Reply:
        node.programs["containerd"] = lambda node, words: REFUSED
        return behave(node, action)

    refused.scripts = [broken_meanwhile]
    assert failed(refused, error=ImageError).code == "containerd_config"
    assert (refused.root / DROPIN).read_text() == "runtime"


def killed_before_the_restart(monkeypatch: pytest.MonkeyPatch, boots: Callable[[], object]) -> None:
    def killed(_: BootRun) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(apply, "restart_containerd", killed)
        with pytest.raises(KeyboardInterrupt):
            boots()


def test_after_a_power_cut_containerd_is_started_again_without_it(
    layered: LayerNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layered.programs["containerd"] = refusing
    layered.scripts = [writes(NEWER)]  # type: ignore[list-item]
    killed_before_the_restart(monkeypatch, lambda: flow_boot(layered))
    assert (layered.root / DROPIN).exists()
    layered.daemon_ready = False  # as after the boot that follows
    systemctl = layered.programs["systemctl"]

    def starts(node: FakeNode, words: list[str]) -> Reply:
        if words == ["restart", "containerd"]:
            node.daemon_ready = refusing(node, ["config", "dump"]).rc == 0
        return systemctl(node, words)

    layered.programs["systemctl"] = starts
    layered.scripts = [behave]
    assert flow_boot(layered).result == "fast"
    assert (layered.root / DROPIN).read_text() == "runtime"


def test_a_containerd_that_is_down_for_another_reason_is_left_as_it_is(layered: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_before_the_restart(monkeypatch, lambda: flow_boot(layered))
    layered.daemon_ready = False
    with pytest.raises(GpuNodeError) as caught:
        flow_boot(layered)
    assert caught.value.code == "containerd_unavailable"
    assert (layered.root / DROPIN).exists()
    assert restarts(layered) == 0


def test_a_hash_that_0_1_0_recorded_counts_as_unchanged(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_before_the_restart(monkeypatch, lambda: boot(baked))
    found = node_record.read(baked.root)
    assert found is not None
    assert is_comparable(found.containerd_config)
    node_record.write(baked.root, replace(found, containerd_config=hashlib.sha256(b"base\n").hexdigest()))
    seen: list[str] = []

    def keep(run: BootRun) -> None:
        record = node_record.read(baked.root)
        assert record is not None
        seen.append(record.containerd_config)
        restart(run)

    restart = apply.restart_containerd
    monkeypatch.setattr(apply, "restart_containerd", keep)
    assert not boot(baked).containerd_restarted
    assert seen == [Containerd(baked).config_in_force()]
    assert restarts(baked) == 0


def test_a_restart_is_not_made_for_imports_in_another_order(baked: FakeNode) -> None:
    """containerd 1.6 lists them in another order in a quarter of all calls."""
    answers = iter(['imports = ["a", "b"]\nx = 1\n', 'imports = ["b", "a"]\nx = 1\n'])
    baked.programs["containerd"] = lambda node, words: Reply(out=next(answers))
    assert not boot(baked).containerd_restarted


def test_the_look_for_an_interrupted_dropin_needs_a_record(baked: FakeNode) -> None:
    baked.daemon_ready = False
    baked.put(DROPIN, NEWER)
    facts = probe(baked.root, baked, Containerd(baked), policy().wanted)
    assert not runtime_dropin.keeps_containerd_down(baked.root, facts)
