"""Tries of the driver container: after a failed one the state of the node decides what follows, within one deadline."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import verify
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import evidence
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DeadlineError, GpuNodeError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import node_record

from tests.kit.boot import INSTALL, SKIP, boot, failed, fails, flow_boot, loads, logs
from tests.kit.layer import MODULE, LayerNode
from tests.kit.node import FakeNode, behave
from tests.kit.reply import KILLED, Reply
from tests.kit.values import KVER, LIBRARIES, policy

# --- asked to skip the build, it compiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_first", [False, True], ids=["at once", "after a failed first try"])
def test_a_refused_skip_is_reported_as_compiled(baked: FakeNode, fails_first: bool) -> None:
    def compiles(node: FakeNode, action: str) -> Reply:
        node.build()  # the same bytes, rewritten
        loads(node)
        return Reply(1 if fails_first else 0, seconds=90)

    baked.scripts = [compiles, behave] if fails_first else [compiles]
    outcome = boot(baked)
    assert (outcome.result, outcome.code) == ("compiled", "skip_refused")
    found = node_record.read(baked.root)
    assert found is not None
    assert (found.built_here, found.reason_code) == (True, "skip_refused")


def test_a_container_that_refuses_the_skip_and_compiles_is_reported_and_the_next_boot_is_ready(layered: LayerNode) -> None:
    """As in the scenario skip-refused: the driver image's own check refuses a good active layer."""

    def compiles(node: FakeNode, action: str) -> Reply:
        node.build()
        return behave(node, action)

    layered.scripts = [compiles]
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code, layered.driver_runs) == ("compiled", "skip_refused", [SKIP])
    done = node_record.read(layered.root)
    assert done
    assert (done.state, done.built_here) == (node_record.INITIALISED, True)
    again = flow_boot(layered)
    assert (again.result, again.code, again.changed) == ("ready", "already_initialised", False)


def test_hashing_that_meets_a_half_compiled_driver_removes_nothing(layered: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow disk the container refuses to skip the build, and compiles, before the layer's user space is hashed."""
    is_half_done, is_hashed = threading.Event(), threading.Event()
    problems = verify.problems

    def compiles(node: FakeNode, action: str) -> Reply:
        (node.root / MODULE).unlink(missing_ok=True)
        is_half_done.set()
        assert is_hashed.wait(60)
        node.build()
        return behave(node, action)

    def hashed(root: Path) -> tuple[str, ...]:
        assert is_half_done.wait(60)
        found = problems(root)
        is_hashed.set()
        return found

    monkeypatch.setattr(verify, "problems", hashed)
    layered.scripts = [compiles]
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code, layered.driver_runs) == ("compiled", "skip_refused", [SKIP])
    again = flow_boot(layered)
    assert (again.result, again.code, again.changed) == ("ready", "already_initialised", False)


# --- tried again, or not ---------------------------------------------------------------------------------------------


def test_a_good_driver_gets_device_initialisation_again_five_times_in_all(baked: FakeNode) -> None:
    baked.scripts = [fails(before=loads)]
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP] * 5
    ids = [argv[-3] for argv in baked.calls if "--privileged" in argv]
    assert ids == [f"gpuinstall-{number}" for number in range(1, 6)]


def test_a_good_driver_that_then_initialises_is_fast(baked: FakeNode) -> None:
    baked.scripts = [fails(before=loads), fails(before=loads), behave]
    outcome = boot(baked)
    assert (outcome.result, outcome.containers) == ("fast", 3)
    assert len(outcome.warnings) == 2


def test_without_evidence_the_layer_is_not_removed(baked: FakeNode) -> None:
    baked.insert_error = "Cannot allocate memory"
    baked.scripts = [fails()]
    assert failed(baked).code == "container_failed"
    assert baked.driver_runs == [SKIP] * 5
    assert list((baked.root / "var/lib/gpu-prebake/layers").glob("*")) != []


def test_a_module_in_use_is_not_unloaded_by_force(baked: FakeNode) -> None:
    baked.held_modules = {"nvidia"}
    baked.put("proc/77/comm", "train.py\n")
    baked.link("proc/77/fd/3", "/dev/nvidia0")

    def stale(node: FakeNode) -> None:
        node.put(f"{LIBRARIES}/libcuda.so.570.1", "stale")
        loads(node)

    baked.scripts = [fails(before=stale)]
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
    fresh.scripts = [fails(out=out)]
    assert failed(fresh).code == code
    assert fresh.driver_runs == [INSTALL]


def test_what_was_compiled_is_not_compiled_again(fresh: FakeNode) -> None:
    def compiles_then_fails(node: FakeNode, action: str) -> Reply:
        node.build()
        loads(node)
        return Reply(1, seconds=90)

    fresh.scripts = [compiles_then_fails, behave]
    outcome = boot(fresh)
    assert fresh.driver_runs == [INSTALL, SKIP]
    assert outcome.result == "compiled"


# --- hardware --------------------------------------------------------------------------------------------------------


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
    baked.scripts = [fails(before=logs(log))]
    error = failed(baked)
    assert error.code == code
    assert "a compile would not help" in str(error)
    assert baked.driver_runs == [SKIP]


def test_an_image_that_the_host_of_a_vgpu_refuses_is_not_tried_again(baked: FakeNode) -> None:
    baked.scripts = [
        fails(before=logs("[5.0] NVRM: Xid (PCI:0000:00:05): 78, pid=1, name=x, Guest driver is incompatible with host driver\n"))
    ]
    assert failed(baked).code == "host_driver_mismatch"
    assert baked.driver_runs == [SKIP]


OFF_THE_BUS = "[5.0] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n"
LOADING = "[4.0] nvidia-nvlink: Nvlink Core is being initialized, major device number 511\n"


@pytest.mark.parametrize(
    ("log", "is_loaded", "is_evidence"),
    [
        pytest.param(OFF_THE_BUS, False, False, id="before this run"),
        pytest.param(OFF_THE_BUS + LOADING, True, False, id="of a driver that was loaded before the one that is"),
        pytest.param(LOADING + OFF_THE_BUS, True, True, id="of the driver that is loaded"),
        pytest.param(OFF_THE_BUS, True, True, id="since when it is loaded is unknown"),
        pytest.param(LOADING + OFF_THE_BUS.replace("01:00", "02:00"), True, False, id="of a GPU that a virtual machine has"),
    ],
)
def test_only_log_lines_about_the_driver_that_is_tried_are_evidence(baked: FakeNode, log: str, is_loaded: bool, is_evidence: bool) -> None:
    baked.add_gpu(driver="vfio-pci", address="0000:02:00.0")
    baked.dmesg = log
    if is_loaded:
        loads(baked)
    baked.scripts = [fails(before=loads), behave]
    if is_evidence:
        assert failed(baked).code == "hardware"
    else:
        assert boot(baked).result == "fast"


@pytest.mark.parametrize(
    ("log", "before", "since"),
    [
        pytest.param("a\nb\nc\n", "a\nb\n", "c\n", id="new lines"),
        pytest.param("b\nc\n", "a\nb\n", "\nc\n", id="the oldest line was dropped"),
        pytest.param("c\nd\n", "a\nb\n", "c\nd\n", id="all of them were"),
        pytest.param("c\n", "", "c\n", id="nothing was there"),
    ],
)
def test_the_kernels_log_since_an_earlier_state(log: str, before: str, since: str) -> None:
    assert evidence.log_since(log, before) == since


def test_a_module_that_finds_no_gpu_is_hardware(baked: FakeNode) -> None:
    baked.insert_error = "No such device"
    baked.scripts = [fails(before=lambda node: setattr(node, "dmesg", "NVRM: No NVIDIA GPU found.\n"))]
    assert failed(baked).code == "hardware"
    assert baked.driver_runs == [SKIP]


def test_a_container_that_was_not_started_is_no_evidence_against_the_driver(baked: FakeNode) -> None:
    baked.insert_error = "Invalid module format"
    baked.scripts = [fails(out="ctr: OCI runtime create failed: runc create failed: cpu.weight: no such file or directory: unknown\n")]
    error = failed(baked)
    assert (error.code, baked.driver_runs) == ("container_not_started", [SKIP] * policy().tries)
    assert "cpu.weight: no such file" in str(error)


# --- one deadline ----------------------------------------------------------------------------------------------------


def test_each_try_is_cut_to_what_is_left(fresh: FakeNode) -> None:
    fresh.scripts = [fails(seconds=300)]
    assert failed(fresh, error=GpuNodeError).code in ("container_failed", "deadline")
    limits = fresh.run_limits()
    assert limits[:2] == [policy().try_s, pytest.approx(policy().deadline_s - 310)]
    assert fresh.clock.now <= 1000 + policy().deadline_s


def test_no_container_outlives_a_run_that_was_killed(fresh: FakeNode) -> None:
    fresh.scripts = [lambda node, action: Reply(seconds=KILLED)]
    failed(fresh, error=GpuNodeError)
    assert fresh.containers == []
    assert ["ctr", "-n", "k8s.io", "tasks", "kill", "-a", "-s", "SIGKILL", "gpuinstall-1"] in fresh.calls


def test_no_time_at_all_is_a_deadline_error(fresh: FakeNode) -> None:
    fresh.clock.sleep(0)
    error = failed(fresh, policy(deadline_s=0.0), DeadlineError)
    assert "no time is left" in str(error)
    assert fresh.driver_runs == []
