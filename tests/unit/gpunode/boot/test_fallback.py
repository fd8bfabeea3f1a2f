"""The fast path fails because of the modules or libraries: the layer is removed, once, and the full install follows."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import deactivate as activation_deactivate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import verify
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    NODE_RECORD,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree

from tests.kit.boot import INSTALL, SKIP, boot, failed, fails, flow_boot, loads, refuses
from tests.kit.layer import LIBRARY, LayerNode
from tests.kit.node import FakeNode, behave
from tests.kit.reply import KILLED, Reply
from tests.kit.values import DROPIN, LIBRARIES, VERSION, policy


def test_evidence_against_the_modules_removes_the_layer_and_installs_once(baked: FakeNode) -> None:
    def spoils(node: FakeNode) -> None:
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    baked.scripts = [fails(before=spoils), behave]
    outcome = boot(baked)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert baked.driver_runs == [SKIP, INSTALL]
    assert ["modprobe", "-r", "nvidia"] in baked.calls
    assert list((baked.root / "var/lib/gpu-prebake/layers").glob("*")) == []


def test_a_marker_alone_goes_down_the_ladder_too(node: FakeNode) -> None:
    """A driver that another tool baked has a marker and no manifest."""
    node.add_gpu()
    node.build()

    def refuses(made: FakeNode) -> None:
        made.insert_error = "Invalid module format"

    def installs(made: FakeNode, action: str) -> Reply:
        assert not (made.root / f"{LIBRARIES}/libcuda.so.{VERSION}").exists(), "what was judged bad is still here"
        made.insert_error = ""
        return behave(made, action)

    node.scripts = [fails(before=refuses), installs]
    outcome = boot(node, policy(require_digest=False))
    assert node.driver_runs == [SKIP, INSTALL]
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")


def test_after_the_fallback_failed_there_is_no_other_way(baked: FakeNode) -> None:
    bad = fails(before=lambda node: (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink(missing_ok=True), out="nothing to say\n")
    baked.insert_error = "Invalid module format"
    baked.scripts = [bad]
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP, *[INSTALL] * 4]


def test_a_removed_layer_is_always_followed_by_an_install(baked: FakeNode) -> None:
    def spoils(node: FakeNode) -> None:
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    baked.scripts = [fails(before=spoils), behave]
    assert boot(baked, policy(tries=1)).result == "compiled"
    assert baked.driver_runs == [SKIP, INSTALL]


def test_the_ladder_is_gone_down_once(baked: FakeNode) -> None:
    """If device initialisation fails after the fallback, what was compiled is kept and is not compared with the layer."""

    def spoils(node: FakeNode) -> None:
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    def compiles_and_fails(node: FakeNode, action: str) -> Reply:
        node.build()
        loads(node)
        return Reply(1, "device initialisation failed\n")

    baked.scripts = [fails(before=spoils), compiles_and_fails, fails(before=loads)]
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP, INSTALL, SKIP, SKIP, SKIP]


def test_the_outcome_names_the_action_that_was_last_asked_for(baked: FakeNode) -> None:
    baked.scripts = [fails(before=lambda node: (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()), behave]
    assert boot(baked).action.value == INSTALL


def test_time_for_the_fallback_is_kept(baked: FakeNode) -> None:
    baked.scripts = [lambda node, action: Reply(seconds=KILLED), behave]
    baked.insert_error = "Invalid module format"

    def mends(node: FakeNode, action: str) -> Reply:
        node.insert_error = ""
        return behave(node, action)

    baked.scripts[1] = mends
    outcome = boot(baked)
    assert baked.driver_runs == [SKIP, INSTALL]
    first, second = baked.run_limits()
    assert first == pytest.approx(policy().deadline_s - policy().fallback_s)
    assert policy().fallback_s - 40 < second <= policy().fallback_s
    assert outcome.result == "compiled"


def test_a_fast_path_that_uses_up_its_time_says_why_it_failed(baked: FakeNode) -> None:
    baked.scripts = [fails(seconds=300, before=loads, out="dpkg is unwell\n")]
    error = failed(baked, policy(deadline_s=700, fallback_s=240))
    assert error.code == "container_failed"
    assert "dpkg is unwell" in str(error)


def test_containerd_is_restarted_also_where_a_failed_fast_path_changed_its_configuration(baked: FakeNode) -> None:
    def changes_then_fails(node: FakeNode) -> None:
        node.put(DROPIN, "runtime")
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    baked.scripts = [fails(before=changes_then_fails), behave]
    outcome = boot(baked)
    assert outcome.code == "fast_path_failed"
    assert outcome.containerd_restarted


# --- a captured layer ------------------------------------------------------------------------------------------------


def record_machine(node: LayerNode) -> str:
    done = node_record.read(node.root)
    assert done
    return done.machine_id


def test_an_object_that_is_damaged_after_the_decision_is_found_before_the_record(layered: LayerNode, layer: Manifest) -> None:
    library = next(entry for entry in layer.files if entry.path == LIBRARY)
    file = Path(Store(layered.root).file(library))
    good = file.read_bytes()
    file.write_bytes(b"x" * len(good))
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert layered.driver_runs == [SKIP, INSTALL]
    assert layers.why_judged_bad(layered.root, layer, record_machine(layered))
    assert activation_record.read(layered.root) is None


def test_damaged_firmware_is_not_taken_for_faulty_hardware(layered: LayerNode, layer: Manifest) -> None:
    """A GPU with such firmware does not start, and logs the same lines as a faulty one."""
    firmware = next(entry for entry in layer.files if entry.path == "usr/lib/firmware/nvidia/gsp.bin")
    file = Path(Store(layered.root).file(firmware))
    file.write_bytes(b"x" * file.stat().st_size)

    def does_not_start(n: LayerNode, action: str) -> Reply:
        if action == INSTALL:
            return behave(n, action)
        n.insert("nvidia", VERSION)
        n.dmesg = "NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:1924)\n"
        return Reply(1, out="nvidia-smi failed\n", seconds=5.0)

    layered.scripts = [does_not_start]  # type: ignore[list-item]
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert "gsp.bin" in outcome.reason
    assert layers.why_judged_bad(layered.root, layer, record_machine(layered))


def test_verification_beside_a_failed_try_leaves_no_activation_record(layered: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contents are hashed while the container runs. If that ends after the layer was deactivated, no record of it may come back."""
    gone = threading.Event()
    real_deactivate, real_problems = activation_deactivate.deactivate, tree.problems

    def deactivate(*args: Any) -> Any:
        done = real_deactivate(*args)
        gone.set()
        return done

    def problems(root: Path, entries: Any) -> Any:
        found = real_problems(root, entries)
        assert gone.wait(60)
        return found

    layered.scripts = [refuses]  # type: ignore[list-item]
    monkeypatch.setattr(activation_deactivate, "deactivate", deactivate)
    monkeypatch.setattr(verify, "tree", SimpleNamespace(problems=problems))
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert activation_record.read(layered.root) is None


def test_a_layer_whose_second_module_cannot_be_loaded_is_removed_and_a_full_install_follows(layered: LayerNode, layer: Manifest) -> None:
    def loads_one(node: FakeNode, action: str) -> Reply:
        if action == "install":
            node.insert_error = ""
            return behave(node, action)
        node.insert("nvidia", VERSION)
        node.insert_error = "Unknown symbol in module, or unknown parameter"
        return Reply(1, "nvidia-modprobe failed\n")

    layered.scripts = [loads_one]  # type: ignore[list-item]
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code, layered.driver_runs) == ("compiled", "fast_path_failed", [SKIP, INSTALL])
    assert "could not insert 'nvidia-uvm': Unknown symbol" in str(layers.why_judged_bad(layered.root, layer, record_machine(layered)))


def test_a_layer_that_was_judged_bad_is_not_tried_again(layered: LayerNode, layer: Manifest) -> None:
    layered.scripts = [refuses]  # type: ignore[list-item]
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert activation_record.read(layered.root) is None
    (layered.root / NODE_RECORD).unlink()
    plan = flow_boot(layered, check=True).plan
    (refusal,) = [r for r in plan.refused if r.code == "layer_judged_bad"]
    assert "could not insert 'nvidia'" in refusal.reason, "why it was judged so"
    assert layers.why_judged_bad(layered.root, layer, "another machine") is None
