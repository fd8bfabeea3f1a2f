"""Carrying one plan out on a fake node: files, node record, services, checks and the driver image."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import preconditions
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.apply import carry_out
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.context import BootRun
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, driver_images, layers, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, objects_of
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import Events

from tests.kit import systemd
from tests.kit.boot import INSTALL, SKIP, boot, failed, fails, flow_boot, lose_gpu, placed, restarts
from tests.kit.facts import GRID
from tests.kit.layer import LIBRARY, MODULE, LayerNode, snapshot
from tests.kit.node import FakeNode, bake_layer, behave
from tests.kit.reply import KILLED, Reply
from tests.kit.values import DROPIN, IMAGE, KVER, LIBRARIES, MARKER, NEWER, SIGNER, VERSION, digest, policy

# --- the fast path and the full install ------------------------------------------------------------------------------


def test_the_fast_path_skips_the_build_and_says_so(baked: FakeNode) -> None:
    outcome = boot(baked)
    assert (outcome.result, outcome.code, outcome.module_version) == ("fast", "baked_layer_matches", VERSION)
    assert (outcome.changed, outcome.containers, outcome.device_check) == (True, 1, "answered")
    assert baked.driver_runs == [SKIP]
    assert baked.loaded_names()[:2] == ["nvidia-uvm", "nvidia"]


def test_the_node_record_names_machine_driver_and_files(baked: FakeNode) -> None:
    boot(baked)
    found = node_record.read(baked.root)
    assert found is not None
    assert (found.state, found.built_here, found.action, found.identity.flavour) == ("initialised", False, SKIP, "open")
    assert set(found.modules[KVER]) == {f"usr/lib/modules/{KVER}/updates/dkms/{name}.ko" for name in ("nvidia", "nvidia-uvm")}
    assert f"{LIBRARIES}/libcuda.so.{VERSION}" in found.libraries
    assert found.containerd_restarts == 1


def test_a_second_run_changes_nothing_and_runs_nothing(baked: FakeNode) -> None:
    boot(baked)
    before, baked.calls[:] = baked.tree(), []
    outcome = boot(baked)
    assert (outcome.result, outcome.code, outcome.changed, outcome.containers) == ("ready", "already_initialised", False, 0)
    assert baked.tree() == before
    assert baked.driver_runs == []
    assert baked.called("systemctl") == []


def test_after_a_reboot_modules_are_loaded_and_device_nodes_made_without_a_container(
    baked: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(baked)
    (baked.root / "proc/modules").write_text("")
    (baked.root / "dev/nvidiactl").unlink()
    baked.calls.clear()
    monkeypatch.setattr("ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.host.boot_id", lambda: "next")
    outcome = boot(baked)
    assert (outcome.result, outcome.containerd_restarted) == ("ready", False)
    assert baked.loaded_names() == ["nvidia-uvm", "nvidia"]
    assert baked.called("nvidia-modprobe") == [["nvidia-modprobe", "-u", "-c0"]]
    assert baked.driver_runs == []


def test_a_never_baked_node_compiles_and_records_that(fresh: FakeNode) -> None:
    outcome = boot(fresh)
    assert (outcome.result, outcome.code) == ("compiled", "never_baked")
    found = node_record.read(fresh.root)
    assert found is not None
    assert found.built_here


def test_an_install_for_another_kernel_keeps_the_driver_of_the_first(fresh: FakeNode) -> None:
    boot(fresh)
    fresh.kver = NEWER
    fresh.add_kernel(NEWER)
    (fresh.root / "proc/modules").write_text("")
    outcome = boot(fresh)
    assert (outcome.result, fresh.driver_runs) == ("compiled", [INSTALL, INSTALL])
    found = node_record.read(fresh.root)
    assert found is not None
    assert found.ready_kernels() == (KVER, NEWER)


def test_another_version_of_ours_is_removed_completely_before_the_install(fresh: FakeNode) -> None:
    bake_layer(fresh, version="570.124.06")
    outcome = boot(fresh)
    assert (outcome.code, outcome.result) == ("version_mismatch", "compiled")
    assert not [path for path, text in fresh.driver_tree().items() if "570.124.06" in path + text]


def test_steps_are_timed_and_named(baked: FakeNode) -> None:
    steps: list[dict[str, Any]] = boot(baked).steps
    assert [s["name"] for s in steps] == [
        "run-container", "load-modules", "check-driver", "restart-containerd", "write-record", "start-services",
    ]  # fmt: skip
    assert all(s["outcome"] == "ok" and s["seconds"] >= 0 for s in steps)


def test_a_plan_that_fails_is_raised_with_its_code(node: FakeNode) -> None:
    assert failed(node, policy(expected_gpus=1)).code == "gpu_missing"
    assert node.driver_runs == []


# --- a captured layer ------------------------------------------------------------------------------------------------


def test_a_matching_layer_is_activated_and_the_build_is_skipped(layered: LayerNode, layer: Manifest) -> None:
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code, outcome.containers) == ("fast", "baked_layer_matches", 1)
    assert layered.driver_runs == [SKIP]
    active = activation_record.read(layered.root)
    assert active
    assert (active.layer, active.verified) == (layer.layer, True)
    done = node_record.read(layered.root)
    assert done
    assert done.state == node_record.INITIALISED
    assert MODULE in done.modules[KVER]


def test_the_next_boot_runs_no_container(layered: LayerNode) -> None:
    flow_boot(layered)
    again = flow_boot(layered)
    assert (again.result, again.changed, again.containers) == ("ready", False, 0)


def test_check_mode_activates_nothing(layered: LayerNode) -> None:
    before = snapshot(layered.root, "none")
    outcome = flow_boot(layered, check=True)
    assert [step.value for step in outcome.plan.steps][:2] == ["activate-layer", "run-container"]
    assert snapshot(layered.root, "none") == before


@pytest.mark.parametrize("want", [policy(managed=False), policy(GRID)], ids=["opted out", "another kind"])
def test_a_layer_that_does_not_belong_here_stays_inert(layered: LayerNode, want: Policy) -> None:
    layered.scripts = [fails()]
    before = placed(layered)
    if want.managed:
        with pytest.raises(BootError):
            flow_boot(layered, replace(want, tries=1))
    else:
        flow_boot(layered, want)
    assert activation_record.read(layered.root) is None
    assert placed(layered) == before


def test_a_node_without_a_gpu_touches_nothing(layered: LayerNode) -> None:
    lose_gpu(layered)
    before = snapshot(layered.root, "none")
    outcome = flow_boot(layered)
    assert (outcome.code, outcome.changed) == ("no_gpu", False)
    assert snapshot(layered.root, "none") == before
    assert not [argv for argv in layered.calls if argv[0] in ("ctr", "modprobe", "depmod", "ldconfig")]


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel and image", "image"])
def test_an_install_over_an_active_layer_writes_into_no_object_of_the_store(layered: LayerNode, layer: Manifest, kernel: bool) -> None:
    """The driver container's cp opens an existing file and writes into it: through a hard link that would change the store."""
    flow_boot(layered)
    if kernel:
        layered.add_kernel(NEWER)
        layered.kver = NEWER
    layered.add_image(IMAGE, config=digest("another"))

    def installs(n: LayerNode, action: str) -> Reply:
        if (n.root / LIBRARY).exists():
            (n.root / LIBRARY).write_text("another image's, of the same version")
        return behave(n, action)

    layered.scripts = [installs]  # type: ignore[list-item]
    assert flow_boot(layered).result == "compiled"
    assert Store(layered.root).problems(objects_of(layer)) == ()


def test_another_kernel_leaves_the_layer_inert_and_installs(layered: LayerNode) -> None:
    layered.add_kernel(NEWER)
    layered.kver = NEWER
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "kernel_mismatch")
    assert activation_record.read(layered.root) is None


def test_a_cloned_disk_is_a_new_node(layered: LayerNode) -> None:
    flow_boot(layered)
    layered.put("etc/machine-id", "f" * 32 + "\n")
    layered.calls.clear()
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    active = activation_record.read(layered.root)
    assert active
    assert active.machine_id == "f" * 32


def test_a_file_in_the_way_leaves_the_layer_inert(layered: LayerNode) -> None:
    layered.put("usr/lib/firmware/nvidia/gsp.bin", "mine")
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "layer_unplaceable")
    assert "gsp.bin" in outcome.reason
    assert layered.driver_runs == [INSTALL]


def test_a_disk_error_while_a_layers_places_are_checked_is_a_reason_and_no_error(
    layered: LayerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/usr/bin")

    monkeypatch.setattr(preconditions, "check", broken)
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("compiled", "layer_unplaceable")
    assert "/usr/bin: Input/output error" in outcome.reason


# --- containerd ------------------------------------------------------------------------------------------------------


def test_containerd_is_restarted_once_where_its_configuration_changed(baked: FakeNode) -> None:
    outcome = boot(baked)
    assert outcome.containerd_restarted
    assert restarts(baked) == 1


def test_containerd_is_left_alone_where_it_did_not_change(baked: FakeNode) -> None:
    baked.put(DROPIN, "runtime")
    assert not boot(baked).containerd_restarted
    assert restarts(baked) == 0


def test_an_owner_can_forbid_the_restart_and_is_warned(baked: FakeNode) -> None:
    outcome = boot(baked, policy(restart_containerd="never"))
    assert restarts(baked) == 0
    assert any("restart it yourself" in warning for warning in outcome.warnings)


# --- the device check and the services -------------------------------------------------------------------------------


@pytest.mark.parametrize("accepted", [False, True], ids=["owner does not", "owner does"])
@pytest.mark.parametrize("test_image", [False, True], ids=["image does not", "image does"])
def test_the_device_check_is_waived_only_where_both_sides_say_so(node: FakeNode, accepted: bool, test_image: bool) -> None:
    node.add_gpu()
    bake_layer(node, marker={"accept_no_device": "1"} if test_image else {})
    node.smi = Reply(6, "No devices were found\n")
    want = policy(accept_no_device=accepted)
    if accepted and test_image:
        with_switch(node, "In Progress")
        assert boot(node, want).device_check == "waived"  # then nobody waits for a fabric either
    else:
        assert failed(node, want).code == "no_device"
    assert node.driver_runs == [SKIP]


def test_a_missing_marker_after_the_install_is_no_waiver(fresh: FakeNode) -> None:
    def forgets(node: FakeNode, action: str) -> Reply:
        reply = behave(node, action)
        (node.root / MARKER).unlink()
        return reply

    fresh.scripts, fresh.smi = [forgets], Reply(6)
    assert failed(fresh, policy(accept_no_device=True)).code == "no_device"


@pytest.mark.parametrize(
    ("smi", "code"),
    [
        pytest.param(Reply(18, err="Driver/library version mismatch"), "library_mismatch", id="rc 18"),
        pytest.param(Reply(9), "module_not_loaded", id="rc 9"),
        pytest.param(Reply(14), "hardware", id="infoROM"),
        pytest.param(Reply(3), "no_answer", id="another rc"),
        pytest.param(Reply(seconds=KILLED), "no_answer", id="hangs"),
    ],
)
def test_each_wrong_answer_has_its_code(baked: FakeNode, smi: Reply, code: str) -> None:
    baked.smi = smi
    assert failed(baked).code == code


def test_device_nodes_that_cannot_be_made_are_an_error_that_says_what_to_look_at(baked: FakeNode) -> None:
    baked.makes_no_nodes = True
    error = failed(baked)
    assert error.code == "device_nodes"
    assert "nvidia-modprobe -u -c0: exit status 1" in str(error)
    assert "findmnt /dev" in str(error)


def test_the_installed_flavour_is_what_the_owner_asked_for(fresh: FakeNode) -> None:
    assert failed(fresh, policy(flavour="proprietary")).code == "flavour_refused"
    found = node_record.read(fresh.root)
    assert found is not None
    assert (found.state, found.identity.flavour) == ("initialised", "open")
    assert failed(fresh, policy(flavour="proprietary")).code == "flavour_refused"
    assert fresh.driver_runs == [INSTALL]


def test_fabric_manager_is_started_only_with_a_switch(baked: FakeNode) -> None:
    systemd.add_unit(baked, "nvidia-fabricmanager", runs=False)
    boot(baked)
    assert baked.called("systemctl", "start") == []


def test_a_switch_without_fabric_manager_is_an_error_that_the_next_run_finds_again(baked: FakeNode) -> None:
    baked.add_gpu("0x22a3", "0x068000", address="0000:05:00.0")
    for containers in (1, 1):
        assert failed(baked).code == "fabric_manager"
        assert len(baked.driver_runs) == containers


RESET = "[9.0] NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)\n"
GONE = "[9.0] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n"


@pytest.mark.parametrize(
    ("log", "code", "word"),
    [
        pytest.param(RESET, "gpu_reset_needed", "GPU Reset Required", id="a cause with a code"),
        pytest.param(GONE, "no_device", "fallen off the bus", id="a cause without one"),
        pytest.param("", "no_device", "exit status 6", id="nothing"),
        pytest.param(f"{RESET}[9.1] nvidia-nvlink: Nvlink Core is being initialized, major 240\n", "no_device", "status 6", id="of before"),
    ],
)
def test_a_ready_node_whose_gpu_does_not_answer_says_why(
    baked: FakeNode, monkeypatch: pytest.MonkeyPatch, log: str, code: str, word: str
) -> None:
    boot(baked)
    monkeypatch.setattr("ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.host.boot_id", lambda: "next")
    baked.smi, baked.dmesg = Reply(6, "No devices were found\n"), log
    error = failed(baked)
    assert error.code == code
    assert word in str(error)
    assert len(baked.driver_runs) == 1


def test_a_module_that_cannot_be_loaded_after_a_reboot_says_why(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    boot(baked)
    monkeypatch.setattr("ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.host.boot_id", lambda: "next")
    (baked.root / "proc/modules").write_text("")
    baked.insert_error = "No such device"
    baked.dmesg = "[9.0] NVRM: GPU 0000:01:00.0: GPU does not have the necessary power cables connected.\n"
    assert failed(baked).code == "gpu_power"


def with_switch(node: FakeNode, *states: str) -> FakeNode:
    """A node with an NVSwitch and fabric manager; ``nvidia-smi -q`` shows one state after the other, the last for ever."""
    node.add_gpu("0x22a3", "0x068000", address="0000:05:00.0")
    node.put("usr/lib/systemd/system/nvidia-fabricmanager.service", "[Service]\n")
    rest = list(states)

    def smi(_: FakeNode, words: list[str]) -> Reply:
        if words != ["-q"]:
            return node.smi
        state = rest.pop(0) if len(rest) > 1 else rest[0]
        return Reply(out=f"GPU 00000000:01:00.0\n    Fabric\n        State  : {state}\n        Status : Success\n")

    node.programs["nvidia-smi"] = smi
    return node


def test_a_node_is_ready_when_its_gpus_have_joined_the_fabric(baked: FakeNode) -> None:
    assert boot(with_switch(baked, "In Progress", "In Progress", "Completed")).result == "fast"
    assert len(baked.called("nvidia-smi", "-q")) == 3
    assert baked.called("systemctl", "start") == [["systemctl", "start", "nvidia-fabricmanager"]]


def test_gpus_that_do_not_join_are_an_error_that_the_next_run_finds_again(baked: FakeNode) -> None:
    with_switch(baked, "In Progress")
    for _ in range(2):
        before = baked.clock.now
        assert failed(baked, policy(fabric_s=20.0)).code == "fabric_pending"
        assert baked.clock.now - before >= 18.0
    assert len(baked.driver_runs) == 1


def test_the_fabric_is_not_asked_for_where_nobody_wants_it(baked: FakeNode) -> None:
    with_switch(baked, "In Progress")
    assert boot(baked, policy(fabric_s=0.0)).result == "fast"
    assert baked.called("nvidia-smi", "-q") == []


def test_fabric_manager_of_a_node_without_a_switch_is_disabled_and_named(baked: FakeNode) -> None:
    systemd.add_unit(baked, "nvidia-fabricmanager")
    (step,) = (one for one in boot(baked).steps if one["name"] == "start-services")
    assert step["disabled"] == ["nvidia-fabricmanager"]


# --- the driver image ------------------------------------------------------------------------------------------------


def without_image(node: FakeNode) -> FakeNode:
    node.images.clear()
    return node


def test_an_absent_image_is_pulled_and_the_plan_made_again(baked: FakeNode) -> None:
    assert boot(without_image(baked)).code == "baked_layer_matches"
    assert baked.driver_runs == [SKIP]


def test_a_pulled_image_of_another_digest_is_installed_in_full(baked: FakeNode) -> None:
    baked.remote[IMAGE] = digest("other")
    outcome = boot(without_image(baked))
    assert (outcome.code, outcome.result, baked.driver_runs) == ("digest_mismatch", "compiled", [INSTALL])


def test_a_plan_that_becomes_an_error_after_the_pull_is_raised(node: FakeNode) -> None:
    node.add_gpu()
    layers.write(node.root, replace(bake_layer(node), signer=SIGNER))
    node.put("sys/module/module/parameters/sig_enforce", "Y\n")
    node.remote[IMAGE] = digest("other")
    want = policy()
    containerd = Containerd(without_image(node))
    facts = replace(probe(node.root, node, containerd, want.wanted), layer_contents=(), trusted_keys=(SIGNER.key_id,))
    plan = decide(facts, want)
    assert plan.code == "baked_layer_matches"
    run = BootRun(node.root, node, containerd, want, facts, Deadline(want.deadline_s, node.clock, node.clock.sleep), Events(), plan)
    with pytest.raises(BootError) as caught:
        carry_out(run)
    assert caught.value.code == "signatures_enforced"
    assert node.driver_runs == []


def test_an_image_of_an_earlier_boot_goes_when_nothing_names_it(node: FakeNode) -> None:
    node.add_gpu()
    node.images.clear()
    boot(node)
    other = IMAGE.replace(VERSION, "580.159.04")
    node.scripts = [lambda n, _: (n.build(version="580.159.04"), n.insert("nvidia", "580.159.04"), Reply())[2]]
    boot(node, policy(other))
    assert set(node.images) == {other}
    assert driver_images.read(node.root).pulled == (other,)


def test_an_image_that_a_layer_names_stays(baked: FakeNode) -> None:
    without_image(baked)
    boot(baked)
    assert driver_images.read(baked.root).pulled == (IMAGE,)
    assert set(baked.images) == {IMAGE}
