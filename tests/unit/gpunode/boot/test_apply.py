"""Carrying a plan out on a fake node: what the node shows decides what follows, inside one deadline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import apply, evidence
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.apply import carry_out
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.context import BootRun
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError, DeadlineError, GpuNodeError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import Events

from tests.kit.node import KILLED, FakeNode, Reply, Script, bake_layer, behave
from tests.kit.values import DROPIN, IMAGE, KVER, LIBRARIES, MARKER, NEWER, SIGNER, VERSION, digest, policy

SKIP, INSTALL = "install-skip-build", "install"


def boot(node: FakeNode, want: Policy | None = None) -> Outcome:
    """Look, decide, carry out, as boot.boot does, on the fake node's clock."""
    want = want or policy()
    deadline = Deadline(want.deadline_s, node.clock, node.clock.sleep)
    containerd = Containerd(node)
    facts = probe(node.root, node, containerd, want.wanted)
    return carry_out(BootRun(node.root, node, containerd, want, facts, deadline, Events(), decide(facts, want)))


def failed(node: FakeNode, want: Policy | None = None, error: type[GpuNodeError] = BootError) -> GpuNodeError:
    with pytest.raises(error) as caught:
        boot(node, want)
    return caught.value


@pytest.fixture
def baked(node: FakeNode) -> FakeNode:
    node.add_gpu()
    bake_layer(node)
    return node


@pytest.fixture
def fresh(node: FakeNode) -> FakeNode:
    node.add_gpu()
    return node


def then(*scripts: Script) -> list[Script]:
    return list(scripts)


def fails(seconds: float = 5.0, before: Callable[[FakeNode], object] = lambda node: None, out: str = "it failed\n") -> Script:
    def script(node: FakeNode, action: str) -> Reply:
        before(node)
        return Reply(1, out, seconds=seconds)

    return script


def loads(node: FakeNode) -> None:
    node.insert("nvidia", VERSION)


def logs(text: str) -> Callable[[FakeNode], None]:
    """The driver is loaded, and the kernel's log gets ``text``."""

    def write(node: FakeNode) -> None:
        loads(node)
        node.dmesg += text

    return write


# --- the fast path ---------------------------------------------------------------------------------------------------


def test_the_fast_path_skips_the_build_and_says_so(baked: FakeNode) -> None:
    outcome = boot(baked)
    assert (outcome.result, outcome.code, outcome.module_version) == ("fast", "baked_layer_matches", VERSION)
    assert (outcome.changed, outcome.containers, outcome.device_check) == (True, 1, "answered")
    assert baked.driver_runs == [SKIP]
    assert baked.loaded_names()[:2] == ["nvidia-uvm", "nvidia"]


def test_its_record_names_machine_driver_and_files(baked: FakeNode) -> None:
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


def test_after_a_reboot_modules_and_nodes_come_back_without_a_container(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_another_kernel_keeps_what_is_ready_for_the_first(fresh: FakeNode) -> None:
    boot(fresh)
    fresh.kver = NEWER
    fresh.add_kernel(NEWER)
    (fresh.root / "proc/modules").write_text("")
    outcome = boot(fresh)
    assert (outcome.result, fresh.driver_runs) == ("compiled", [INSTALL, INSTALL])
    found = node_record.read(fresh.root)
    assert found is not None
    assert found.ready_kernels() == (KVER, NEWER)


# --- the container's own check ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_first", [False, True], ids=["at once", "after a failed first try"])
def test_a_refused_skip_is_reported_as_compiled(baked: FakeNode, fails_first: bool) -> None:
    def compiles(node: FakeNode, action: str) -> Reply:
        node.build()  # the same bytes, written anew
        loads(node)
        return Reply(1 if fails_first else 0, seconds=90)

    baked.scripts = then(compiles, behave) if fails_first else then(compiles)
    outcome = boot(baked)
    assert (outcome.result, outcome.code) == ("compiled", "skip_refused")
    found = node_record.read(baked.root)
    assert found is not None
    assert (found.built_here, found.reason_code) == (True, "skip_refused")


# --- a failed fast path ----------------------------------------------------------------------------------------------


def test_a_good_driver_gets_device_initialisation_again_five_times_in_all(baked: FakeNode) -> None:
    baked.scripts = then(fails(before=loads))
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP] * 5
    ids = [argv[-3] for argv in baked.calls if "--privileged" in argv]
    assert ids == [f"gpuinstall-{number}" for number in range(1, 6)]


def test_a_good_driver_that_then_initialises_is_fast(baked: FakeNode) -> None:
    baked.scripts = then(fails(before=loads), fails(before=loads), behave)
    outcome = boot(baked)
    assert (outcome.result, outcome.containers) == ("fast", 3)
    assert len(outcome.warnings) == 2


def test_module_evidence_takes_the_layer_away_and_installs_once(baked: FakeNode) -> None:
    def spoils(node: FakeNode) -> None:
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    baked.scripts = then(fails(before=spoils), behave)
    outcome = boot(baked)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert baked.driver_runs == [SKIP, INSTALL]
    assert ["modprobe", "-r", "nvidia"] in baked.calls
    assert list((baked.root / "var/lib/gpu-prebake/layers").glob("*")) == []


def test_a_marker_alone_goes_down_the_ladder_too(node: FakeNode) -> None:
    """What was baked by another tool has a marker and no manifest."""
    node.add_gpu()
    node.build()

    def refuses(made: FakeNode) -> None:
        made.insert_error = "Invalid module format"

    def installs(made: FakeNode, action: str) -> Reply:
        assert not (made.root / f"{LIBRARIES}/libcuda.so.{VERSION}").exists(), "what was judged bad is still here"
        made.insert_error = ""
        return behave(made, action)

    node.scripts = then(fails(before=refuses), installs)
    outcome = boot(node, policy(require_digest=False))
    assert node.driver_runs == [SKIP, INSTALL]
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")


def test_after_the_fallback_failed_there_is_no_other_way(baked: FakeNode) -> None:
    bad = fails(before=lambda node: (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink(missing_ok=True), out="nothing to say\n")
    baked.insert_error = "Invalid module format"
    baked.scripts = then(bad)
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP, *[INSTALL] * 4]


def test_what_was_taken_away_is_always_followed_by_an_install(baked: FakeNode) -> None:
    def spoils(node: FakeNode) -> None:
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    baked.scripts = then(fails(before=spoils), behave)
    assert boot(baked, policy(tries=1)).result == "compiled"
    assert baked.driver_runs == [SKIP, INSTALL]


def test_no_evidence_is_no_reason_to_take_the_layer_away(baked: FakeNode) -> None:
    baked.insert_error = "Cannot allocate memory"
    baked.scripts = then(fails())
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP] * 5
    assert list((baked.root / "var/lib/gpu-prebake/layers").glob("*")) != []


def test_the_outcome_names_the_action_that_was_last_asked_for(baked: FakeNode) -> None:
    baked.scripts = then(fails(before=lambda node: (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()), behave)
    assert boot(baked).action.value == INSTALL


@pytest.mark.parametrize(
    ("log", "smi", "code"),
    [
        pytest.param("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n", Reply(0), "hardware", id="Xid 79"),
        pytest.param("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:2393)\n", Reply(6), "no_device", id="adapter, rc 6"),
        pytest.param("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:2393)\n", Reply(0), "hardware", id="adapter"),
        pytest.param("", Reply(6, "No devices were found\n"), "no_device", id="rc 6"),
        pytest.param("", Reply(0, "No devices were found\n"), "no_device", id="says so with rc 0"),
    ],
)
def test_hardware_evidence_stops_before_a_second_container(baked: FakeNode, log: str, smi: Reply, code: str) -> None:
    baked.dmesg, baked.smi = "[1.0] the kernel\n", smi
    baked.scripts = then(fails(before=logs(log)))
    error = failed(baked)
    assert error.code == code
    assert "no compile can mend it" in str(error)
    assert baked.driver_runs == [SKIP]


OFF_THE_BUS = "[5.0] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n"
LOADING = "[4.0] nvidia-nvlink: Nvlink Core is being initialized, major device number 511\n"


@pytest.mark.parametrize(
    ("log", "is_loaded", "is_evidence"),
    [
        pytest.param(OFF_THE_BUS, False, False, id="before this run"),
        pytest.param(OFF_THE_BUS + LOADING, True, False, id="of a driver that was loaded before the one that is"),
        pytest.param(LOADING + OFF_THE_BUS, True, True, id="of the driver that is loaded"),
        pytest.param(OFF_THE_BUS, True, True, id="since when it is loaded cannot be told"),
        pytest.param(LOADING + OFF_THE_BUS.replace("01:00", "02:00"), True, False, id="of a GPU that a virtual machine has"),
    ],
)
def test_only_what_the_kernel_said_of_the_driver_that_is_tried_is_evidence(
    baked: FakeNode, log: str, is_loaded: bool, is_evidence: bool
) -> None:
    baked.add_gpu(driver="vfio-pci", address="0000:02:00.0")
    baked.dmesg = log
    if is_loaded:
        loads(baked)
    baked.scripts = then(fails(before=loads), behave)
    if is_evidence:
        assert failed(baked).code == "hardware"
    else:
        assert boot(baked).result == "fast"


@pytest.mark.parametrize(
    ("log", "before", "since"),
    [
        pytest.param("a\nb\nc\n", "a\nb\n", "c\n", id="what came"),
        pytest.param("b\nc\n", "a\nb\n", "\nc\n", id="the oldest line was dropped"),
        pytest.param("c\nd\n", "a\nb\n", "c\nd\n", id="all of them were"),
        pytest.param("c\n", "", "c\n", id="nothing was there"),
    ],
)
def test_the_kernels_log_since(log: str, before: str, since: str) -> None:
    assert evidence.log_since(log, before) == since


def test_a_module_that_finds_no_gpu_is_hardware(baked: FakeNode) -> None:
    baked.insert_error = "No such device"
    baked.scripts = then(fails(before=lambda node: setattr(node, "dmesg", "NVRM: No NVIDIA GPU found.\n")))
    assert failed(baked).code == "hardware"
    assert baked.driver_runs == [SKIP]


def test_a_held_module_is_no_reason_to_force(baked: FakeNode) -> None:
    baked.held_modules = {"nvidia"}
    baked.put("proc/77/comm", "train.py\n")
    baked.link("proc/77/fd/3", "/dev/nvidia0")

    def stale(node: FakeNode) -> None:
        node.put(f"{LIBRARIES}/libcuda.so.570.1", "stale")
        loads(node)

    baked.scripts = then(fails(before=stale))
    error = failed(baked)
    assert error.code == "driver_in_use"
    assert "train.py (77)" in str(error)
    assert (baked.root / f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko").exists()


@pytest.mark.parametrize(
    ("out", "code"),
    [
        pytest.param(
            "nvidia.c:184:16: error: too few arguments\nmake: *** [Makefile:8: modules] Error 2\n", "compile_failed", id="compile"
        ),
        pytest.param("cp: error writing: No space left on device\n", "no_space", id="full"),
    ],
)
def test_an_install_that_cannot_succeed_is_not_tried_again(fresh: FakeNode, out: str, code: str) -> None:
    fresh.scripts = then(fails(out=out))
    assert failed(fresh).code == code
    assert fresh.driver_runs == [INSTALL]


def test_what_was_compiled_is_not_compiled_again(fresh: FakeNode) -> None:
    def compiles_then_fails(node: FakeNode, action: str) -> Reply:
        node.build()
        loads(node)
        return Reply(1, seconds=90)

    fresh.scripts = then(compiles_then_fails, behave)
    outcome = boot(fresh)
    assert fresh.driver_runs == [INSTALL, SKIP]
    assert outcome.result == "compiled"


# --- one deadline ----------------------------------------------------------------------------------------------------


def test_time_for_the_fallback_is_kept(baked: FakeNode) -> None:
    baked.scripts = then(lambda node, action: Reply(seconds=KILLED), behave)
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


def test_each_try_is_cut_to_what_is_left(fresh: FakeNode) -> None:
    fresh.scripts = then(fails(seconds=300))
    assert failed(fresh, error=GpuNodeError).code in ("container_failed", "deadline")
    limits = fresh.run_limits()
    assert limits[:2] == [policy().try_s, pytest.approx(policy().deadline_s - 310)]
    assert fresh.clock.now <= 1000 + policy().deadline_s


def test_nothing_outlives_a_run_that_was_killed(fresh: FakeNode) -> None:
    fresh.scripts = then(lambda node, action: Reply(seconds=KILLED))
    failed(fresh, error=GpuNodeError)
    assert fresh.containers == []
    assert ["ctr", "-n", "k8s.io", "tasks", "kill", "-a", "-s", "SIGKILL", "gpuinstall-1"] in fresh.calls


def test_no_time_at_all_is_a_deadline_error(fresh: FakeNode) -> None:
    fresh.clock.sleep(0)
    error = failed(fresh, policy(deadline_s=0.0), DeadlineError)
    assert "no time is left" in str(error)
    assert fresh.driver_runs == []


# --- containerd ------------------------------------------------------------------------------------------------------


def restarts(node: FakeNode) -> int:
    return len(node.called("systemctl", "restart", "containerd"))


def test_containerd_is_restarted_once_where_its_configuration_changed(baked: FakeNode) -> None:
    outcome = boot(baked)
    assert outcome.containerd_restarted
    assert restarts(baked) == 1


def test_containerd_is_left_alone_where_it_did_not_change(baked: FakeNode) -> None:
    baked.put(DROPIN, "runtime")
    assert not boot(baked).containerd_restarted
    assert restarts(baked) == 0


def test_an_owner_can_forbid_the_restart_and_is_told(baked: FakeNode) -> None:
    outcome = boot(baked, policy(restart_containerd="never"))
    assert restarts(baked) == 0
    assert any("restart it yourself" in warning for warning in outcome.warnings)


def interrupted(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first run that is killed between the container and the restart."""

    def killed(_: BootRun) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(apply, "restart_containerd", killed)
        with pytest.raises(KeyboardInterrupt):
            boot(node)
    assert restarts(node) == 0


def test_the_restart_that_an_interrupted_run_owes_is_made_by_the_next(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(baked, monkeypatch)
    assert boot(baked).containerd_restarted
    assert boot(baked).code == "already_initialised"
    assert restarts(baked) == 1


def test_it_is_made_also_where_the_next_run_removes_the_driver_first(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(baked, monkeypatch)
    baked.put(f"{LIBRARIES}/libcuda.so.{VERSION}", "damaged")
    outcome = boot(baked)
    assert (outcome.code, baked.driver_runs) == ("contents_mismatch", [SKIP, INSTALL])
    assert outcome.containerd_restarted


def test_it_is_made_also_where_the_change_was_a_failed_fast_path(baked: FakeNode) -> None:
    def changes_then_fails(node: FakeNode) -> None:
        node.put(DROPIN, "runtime")
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    baked.scripts = then(fails(before=changes_then_fails), behave)
    outcome = boot(baked)
    assert outcome.code == "fast_path_failed"
    assert outcome.containerd_restarted


# --- the device check ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accepted", [False, True], ids=["owner does not", "owner does"])
@pytest.mark.parametrize("test_image", [False, True], ids=["image does not", "image does"])
def test_the_device_check_is_waived_only_where_both_sides_say_so(node: FakeNode, accepted: bool, test_image: bool) -> None:
    node.add_gpu()
    bake_layer(node, marker={"accept_no_device": "1"} if test_image else {})
    node.smi = Reply(6, "No devices were found\n")
    want = policy(accept_no_device=accepted)
    if accepted and test_image:
        assert boot(node, want).device_check == "waived"
    else:
        assert failed(node, want).code == "no_device"
    assert node.driver_runs == [SKIP]


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


def test_device_nodes_that_cannot_be_made_are_told_with_what_to_look_at(baked: FakeNode) -> None:
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


# --- the image -------------------------------------------------------------------------------------------------------


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


def test_a_plan_that_the_pull_turns_into_an_error_is_one(node: FakeNode) -> None:
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


# --- errors and odds -------------------------------------------------------------------------------------------------


def test_a_plan_that_fails_is_raised_with_its_code(node: FakeNode) -> None:
    assert failed(node, policy(expected_gpus=1)).code == "gpu_missing"
    assert node.driver_runs == []


def test_another_version_of_ours_is_fully_out_before_the_wanted_one(fresh: FakeNode) -> None:
    bake_layer(fresh, version="570.124.06")
    outcome = boot(fresh)
    assert (outcome.code, outcome.result) == ("version_mismatch", "compiled")
    assert not [path for path, text in fresh.driver_tree().items() if "570.124.06" in path + text]


def test_fabric_manager_is_started_only_with_a_switch(baked: FakeNode) -> None:
    baked.put("usr/lib/systemd/system/nvidia-fabricmanager.service")
    boot(baked)
    assert baked.called("systemctl", "start") == []


def test_a_switch_without_fabric_manager_is_an_error_that_the_next_run_finds_again(baked: FakeNode) -> None:
    baked.add_gpu("0x22a3", "0x068000", address="0000:05:00.0")
    for containers in (1, 1):
        assert failed(baked).code == "fabric_manager"
        assert len(baked.driver_runs) == containers


def test_a_missing_marker_after_the_install_is_no_waiver(fresh: FakeNode) -> None:
    def forgets(node: FakeNode, action: str) -> Reply:
        reply = behave(node, action)
        (node.root / MARKER).unlink()
        return reply

    fresh.scripts, fresh.smi = then(forgets), Reply(6)
    assert failed(fresh, policy(accept_no_device=True)).code == "no_device"


def test_steps_are_timed_and_named(baked: FakeNode) -> None:
    steps: list[dict[str, Any]] = boot(baked).steps
    assert [s["name"] for s in steps] == [
        "run-container", "load-modules", "check-driver", "restart-containerd", "write-record", "start-services",
    ]  # fmt: skip
    assert all(s["outcome"] == "ok" and s["seconds"] >= 0 for s in steps)


def test_the_ladder_is_gone_down_once(baked: FakeNode) -> None:
    """After the fallback its device initialisation fails: what was compiled is kept, and nothing compares it with the layer."""

    def spoils(node: FakeNode) -> None:
        (node.root / f"{LIBRARIES}/libcuda.so.{VERSION}").unlink()
        loads(node)

    def compiles_and_fails(node: FakeNode, action: str) -> Reply:
        node.build()
        loads(node)
        return Reply(1, "device initialisation failed\n")

    baked.scripts = then(fails(before=spoils), compiles_and_fails, fails(before=loads))
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP, INSTALL, SKIP, SKIP, SKIP]


def test_a_fast_path_that_uses_up_its_time_says_why_it_failed(baked: FakeNode) -> None:
    baked.scripts = then(fails(seconds=300, before=loads, out="dpkg is unwell\n"))
    error = failed(baked, policy(deadline_s=700, fallback_s=240))
    assert error.code == "container_failed"
    assert "dpkg is unwell" in str(error)
