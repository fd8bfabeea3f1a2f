"""The boot on a machine whose GPU answers, with the machine's own driver as the layer. It changes the machine: use a disposable one.

Run `python3 -m pytest tests/gpu` as root. It needs kmod, gcc, and in the folder GPU_PREBAKE_LIVE another driver's `libnvidia-ml.so.*` and
NVIDIA's `nvidia-modprobe`. The machine's driver must be below /usr/local/nvidia and loaded. Neither containerd nor a driver container is
used; no module is unloaded, and no setting of the GPU is changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plugins.module_utils.gpunode import command
from plugins.module_utils.gpunode.activation import activate, deactivate
from plugins.module_utils.gpunode.boot import diagnosis, evidence
from plugins.module_utils.gpunode.boot.decide import decide
from plugins.module_utils.gpunode.boot.facts import Facts
from plugins.module_utils.gpunode.boot.flow import boot
from plugins.module_utils.gpunode.boot.plan import Outcome, Plan, Step
from plugins.module_utils.gpunode.boot.policy import Policy
from plugins.module_utils.gpunode.boot.probe import probe
from plugins.module_utils.gpunode.container.containerd import Containerd
from plugins.module_utils.gpunode.driver import holders, nvidia_smi
from plugins.module_utils.gpunode.driver.footprint import CONTRACT_LIBRARIES
from plugins.module_utils.gpunode.errors import BootError
from plugins.module_utils.gpunode.paths import NODE_RECORD
from plugins.module_utils.gpunode.store.manifest import Manifest
from plugins.module_utils.gpunode.system.module_signature import Signer
from plugins.module_utils.gpunode.util.deadline import Deadline
from tests.gpu import livedriver
from tests.gpu.livedriver import DIGEST, ROOT, RUNNER, run

GIVEN = Path(os.environ.get("GPU_PREBAKE_LIVE", ""))
OTHER_VERSION = "580.126.09"
CHANGED = ("usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib/modules", "etc")
# Holds a context and 1 GiB of the GPU's memory until its input ends.
CUDA = """
import ctypes, sys
cuda, context, device, memory = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_int(), ctypes.c_void_p()
done = [cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), 0), cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device)]
print([*done, cuda.cuMemAlloc_v2(ctypes.byref(memory), 1 << 30)], flush=True)
print(next(line.split()[-1] for line in open("/proc/self/maps") if "libcuda.so" in line), flush=True)
sys.stdin.read()
"""


def look(policy: Policy) -> Facts:
    return probe(ROOT, RUNNER, Containerd(RUNNER), policy.wanted)


def plan(facts: Facts, policy: Policy) -> Plan:
    """The decision, as if containerd had the image from which the layer was baked."""
    return decide(replace(facts, containerd_ready=True, image_present=True, config_digest=DIGEST), policy)


def nodes() -> list[Path]:
    return sorted(path for path in (ROOT / "dev").glob("nvidia*") if path.is_char_device())


def files() -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for top in CHANGED:
        for path in (ROOT / top).rglob("*"):
            status = path.lstat()
            content = str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path)] = (oct(status.st_mode), status.st_uid, status.st_gid, content)
    return found


# The tests run in the order of the file: the first one needs the machine as it was found.
def test_a_foreign_driver_is_left_alone() -> None:
    for policy in (livedriver.policy(), livedriver.policy(OTHER_VERSION)):
        found = plan(look(policy), policy)
        assert (found.code, found.steps) == ("foreign_driver", ())
        assert f"module nvidia {livedriver.version()} in the kernel" in found.reason
        assert f"library {livedriver.DRIVER}/lib64/libcuda.so.1" in found.reason


@pytest.fixture(scope="module")
def bare() -> None:
    livedriver.take_off_the_paths()


@pytest.mark.usefixtures("bare")
def test_a_driver_of_which_only_the_module_is_found_is_foreign_too() -> None:
    assert look(livedriver.policy()).foreign == (f"module nvidia {livedriver.version()} in the kernel",)


@pytest.fixture(scope="module")
def layer(bare: None, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return livedriver.store_layer(tmp_path_factory.mktemp("layer") / "scratch", GIVEN / "nvidia-modprobe")


def test_the_layer_is_accepted_with_this_bus_kernel_and_keyring(layer: Manifest) -> None:
    facts = look(livedriver.policy())
    found = plan(facts, livedriver.policy())
    assert found.code == "baked_layer_matches"
    assert found.steps[:2] == (Step.ACTIVATE_LAYER, Step.RUN_CONTAINER), "the module in the kernel is this layer's, and stays"


def test_a_signer_that_this_kernel_does_not_trust_is_refused(layer: Manifest) -> None:
    facts = look(livedriver.policy())
    if not facts.signatures_enforced:
        pytest.skip("this kernel accepts unsigned modules")
    strange = replace(layer, signer=Signer("somebody", "ab" * 20, "0" * 64))
    found = plan(replace(facts, layers=(strange,)), livedriver.policy())
    assert [refusal.code for refusal in found.refused] == ["never_initialised", "module_untrusted", "signatures_enforced"]
    assert found.fails


def test_a_deactivated_layer_leaves_everything_as_it_was(layer: Manifest) -> None:
    before = files()
    activate.activate(ROOT, RUNNER, layer)
    assert files() != before
    deactivate.deactivate(ROOT, RUNNER)
    assert files() == before
    assert look(livedriver.policy()).foreign == (), "the module that stays in the kernel is the layer's"


@pytest.fixture
def active(layer: Manifest) -> Iterator[Manifest]:
    activate.activate(ROOT, RUNNER, layer)
    livedriver.record_as_initialised(layer)
    yield layer
    deactivate.deactivate(ROOT, RUNNER)
    (ROOT / NODE_RECORD).unlink()


def booted() -> Outcome:
    return boot(RUNNER, livedriver.policy())[1]


def test_a_later_boot_finds_the_gpu_answering_and_the_next_does_nothing(active: Manifest) -> None:
    first = booted()
    assert (first.result, first.code, first.device_check) == ("ready", "already_initialised", "answered")
    assert first.module_version == active.identity.version
    assert [step["name"] for step in first.steps] == ["probe-and-decide", "load-modules", "check-driver", "start-services"]
    assert booted().plan.steps == ()


@pytest.mark.usefixtures("active")
def test_missing_device_nodes_are_created() -> None:
    before = nodes()
    for node in before:
        node.unlink()
    assert booted().device_check == "answered"
    assert nodes() == before


@pytest.mark.usefixtures("active")
def test_a_program_that_uses_the_gpu_is_named_and_not_disturbed() -> None:
    before = files()
    with subprocess.Popen([sys.executable, "-c", CUDA], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline()) == [0, 0, 0, 0]
        assert program.stdout.readline().startswith(f"/{CONTRACT_LIBRARIES}/"), "the library must be the layer's"
        name = f"{Path(f'/proc/{program.pid}/comm').read_text().strip()} ({program.pid})"
        assert holders.device_holders() == (name,)
        out = io.StringIO()
        assert command.main(["deactivate"], RUNNER, out, io.StringIO()) == 1
        assert json.loads(out.getvalue())["code"] == "driver_in_use"
        assert name in out.getvalue()
        assert files() == before
        assert program.poll() is None
        assert str(program.pid) in run("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader").stdout
        program.communicate()


def judged(layer: Manifest) -> tuple[diagnosis.Evidence, diagnosis.Verdict]:
    before = evidence.log_before(ROOT, RUNNER)
    found = evidence.gather(ROOT, RUNNER, layer.identity.arch, layer.identity.version, None, False, before, ())
    return found, diagnosis.judge(found).verdict


def checked(layer: Manifest, gpus: int = 1) -> str:
    try:
        return nvidia_smi.check(ROOT, RUNNER, Deadline(120), layer.identity.arch, layer.identity.version, gpus, waive_device=False)
    except BootError as error:
        return error.code


def test_a_working_driver_is_judged_good(active: Manifest) -> None:
    assert checked(active) == "answered"
    assert checked(active, gpus=2) == "gpu_silent"
    found, verdict = judged(active)
    assert "NVRM: loading NVIDIA UNIX" in found.kernel_log
    assert verdict is diagnosis.Verdict.DRIVER_GOOD


def test_nvidia_smis_own_mismatch_is_evidence_against_the_driver(active: Manifest) -> None:
    library = ROOT / CONTRACT_LIBRARIES / "libnvidia-ml.so.1"
    target = library.readlink()
    library.unlink()
    library.symlink_to(next(GIVEN.resolve().glob("libnvidia-ml.so.*")))
    try:
        found, verdict = judged(active)
        assert (found.smi_rc, found.library_problems) == (18, ())
        assert verdict is diagnosis.Verdict.DRIVER_BAD
        assert checked(active) == "library_mismatch"
    finally:
        library.unlink()
        library.symlink_to(target)


def test_a_library_of_another_version_is_named(active: Manifest) -> None:
    strange = ROOT / "usr/lib/x86_64-linux-gnu" / f"libcuda.so.{OTHER_VERSION}"
    strange.touch()
    try:
        found, verdict = judged(active)
        assert [problem for problem in found.library_problems if OTHER_VERSION in problem]
        assert verdict is diagnosis.Verdict.DRIVER_BAD
    finally:
        strange.unlink()
