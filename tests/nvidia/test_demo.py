"""NVIDIA's own driver: the demo's report, and that a GPU which does not answer causes no compile. `make test-all PART=nvidia`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.builds import bakedimage, booting
from lab.demo import demo
from lab.driverimages import driverimage
from lab.machine.errors import LabError
from lab.nodes.vm import VM


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    assert demo.main() == 0
    return dict(json.loads((demo.OUT / "report.json").read_text()))


def node(report: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(next(n for n in report["nodes"] if n["name"] == name))


def test_the_real_driver_is_loaded_and_bound_without_a_compile(report: dict[str, Any]) -> None:
    found = node(report, "baked-nvidia")
    assert (found["driver"], found["action"], found["reason_code"], found["result"]) == (
        "nvidia",
        "install-skip-build",
        "baked_layer_matches",
        "fast",
    )
    assert found["module_loaded"]
    assert found["module_version"] in found["driver_says"]
    assert "NVIDIA UNIX x86_64 Kernel Module" in found["driver_says"]
    assert "NVIDIA H100" in found["gpu_says"]
    assert len(found["bound"]) == 1
    assert found["device_check"] == "waived"
    assert found["loaded_before_boot_step"] is False
    assert [s["kind"] for s in found["steps"] if s["name"] == "activate-layer"] == ["emulated"]
    compiled = {s["kind"]: s["seconds"] for s in found["steps"] if s["name"].endswith("dkms-build")}
    assert list(compiled) == ["native"]


def test_the_stand_ins_skip_or_compile(report: dict[str, Any]) -> None:
    baked, fresh = node(report, "baked-stand-in"), node(report, "never-baked-stand-in")
    assert (baked["action"], baked["result"], baked["device_check"]) == ("install-skip-build", "fast", "answered")
    assert (fresh["action"], fresh["reason_code"], fresh["result"]) == ("install", "never_baked", "compiled")
    assert [s["kind"] for s in fresh["steps"] if s["name"].endswith("dkms-build")] == ["emulated"]
    assert all(n["module_loaded"] and n["kernel"] and n["bound"] for n in (baked, fresh))


def test_both_images_are_sealed_and_the_report_is_kept(report: dict[str, Any]) -> None:
    for name in ("baked-nvidia", "baked-stand-in"):
        assert node(report, name)["seal"].startswith("sealed: inert, covered: 6.1.")
        seal = json.loads((demo.OUT / f"{name}.seal.json").read_text())
        assert (seal["refusals"], seal["in_place"]) == ([], [])
    assert node(report, "never-baked-stand-in")["seal"] == ""


@pytest.fixture(params=["nvidia", "nvidia-strict"])
def silent_gpu(request: pytest.FixtureRequest) -> Iterator[tuple[VM, str]]:
    """A node whose GPU does not answer nvidia-smi, and a driver image that accepts that, or one that does not."""
    vm = VM.create(request.param, bakedimage.bake(request.param).disk, kernel="6.1", gpu=demo.GPU)
    yield vm, request.param
    vm.destroy()


def test_a_silent_gpu_is_an_error_of_its_own_without_a_compile_unless_both_sides_waive_it(
    silent_gpu: tuple[VM, str], tmp_path: Path
) -> None:
    vm, image = silent_gpu
    only_one_side = {"gpu_boot_accept_no_device": image == "nvidia-strict", "gpu_boot_delay_s": 1}
    with pytest.raises(LabError):
        booting.boot(vm, {"gpu_boot_image": driverimage.build(image).reference, **only_one_side}, tmp_path)
    result = json.loads((tmp_path / f"{image}.json").read_text())
    assert (result["failed"], result["code"]) == (True, "no_device")
    assert [step["name"] for step in result["steps"]][-1] in ("check-driver", "run-container")
    looked = booting.look(vm)
    assert "nvidia" in looked["modules"].split()
    assert "dkms-build" not in looked["container"]
    assert vm.ssh("ls /var/log/gpu-prebake/gpuinstall-*.log").stdout.split() == ["/var/log/gpu-prebake/gpuinstall-1.log"]
