"""Bakes that succeed: for the first time, repeated, and after an interruption."""

from __future__ import annotations

import json
import time

from lab.driverimages import driverimage
from tests.lab.bakery import Bakery

TRY_S = 30  # four times what a successful try takes on an idle machine


def test_a_second_bake_is_refused_and_after_a_kill_of_the_first_the_next_one_succeeds(bakery: Bakery) -> None:
    before = bakery.files()
    bakery.reference("standin")
    first = bakery.start("standin-build-hangs", nvidia_prebake_mode="in_place", nvidia_prebake_tries=1)
    end = time.monotonic() + 60
    while "make" not in bakery.processes():
        assert time.monotonic() < end
        time.sleep(0.3)
    second = bakery.bake_in_place()
    bakery.ssh("pkill -9 -f prebake_layer")
    first.kill()
    first.wait()
    try:
        assert "cannot begin: a bake (process" in second.message
        assert bakery.bake_in_place().rc == 0
        assert bakery.mounts() == bakery.processes() == ""
        report = json.loads((bakery.root / "var/lib/gpu-prebake/bake-report.json").read_text())
        assert "activate-layer" in [step["name"] for step in report["steps"]]
        assert report["image_growth"]["store_bytes"] > 0
        assert report["identity"]["kver"] == bakery.kver
        assert not (bakery.root / "var/lib/dkms/mok.key").exists()

        baked = bakery.files()
        again = bakery.bake_in_place()
        assert again.rc == 0
        assert "changed=0" in again.out
        assert bakery.files() == baked

        replaced = bakery.bake_in_place("standin-other-version")
        assert replaced.rc == 0
        layers = [p.parent.name for p in (bakery.root / "var/lib/gpu-prebake/layers").glob("*/manifest.json")]
        assert layers == [f"cuda-550.90.07-open-{bakery.kver}"]
        assert "580.126.09" not in "".join(p for p in bakery.files() if p not in before)
    finally:
        bakery.restore(before)


def test_a_build_that_times_out_is_followed_by_a_try_that_succeeds(bakery: Bakery) -> None:
    before = bakery.files()
    bakery.ssh("rm -f /dev/shm/standin-has-hung")
    try:
        ran = bakery.bake_in_place("standin-build-hangs-once", nvidia_prebake_tries=2, nvidia_prebake_try_s=TRY_S)
        assert ran.rc == 0, ran.out
        said = bakery.ssh("cat /var/log/gpu-prebake/bake.log")
        assert f"timed out after {TRY_S} s, killed" in said
        assert "this build hung before and goes on now" in said
        layer = json.loads(next((bakery.root / "var/lib/gpu-prebake/layers").glob("*/manifest.json")).read_text())
        assert (layer["tries"], layer["identity"]["version"]) == (2, "580.126.09")
        assert bakery.mounts() == bakery.processes() == ""
        assert "sleep" not in bakery.ssh("ps -e -o comm=")
    finally:
        bakery.restore(before)


def test_only_the_exact_flag_enables_a_bake(unchanged: Bakery) -> None:
    for flags in ("", "NO_NVIDIA_CUDA_PREBAKE, NVIDIA_CUDA_PREBAKE_2", "nvidia_cuda_prebake"):
        ran = unchanged.bake(nvidia_prebake_enabled=False, nvidia_prebake_feature_flags=flags)
        assert ran.rc == 0
        assert "Nothing is baked" in ran.message
    ran = unchanged.bake(nvidia_prebake_enabled=False, nvidia_prebake_feature_flags="A,NVIDIA_CUDA_PREBAKE B", nvidia_prebake_image="x")
    assert "is not a full image reference" in ran.message


def test_bakes_an_image_by_its_digest_and_one_pulled_by_another_name(bakery: Bakery) -> None:
    tagged = bakery.reference("standin")
    digest = driverimage.build("standin").digest
    repository, _, tag = tagged.rpartition(":")
    pinned = f"{tagged}@{digest}"
    canonical = f"mcr.example.com/aks/aks-gpu-cuda:{tag}"
    before = bakery.files()
    try:
        first = bakery.bake(nvidia_prebake_image=pinned)
        assert first.rc == 0, first.out
        assert pinned in bakery.ssh("ctr -n k8s.io images ls -q").split()
        by_digest = f"{repository}@{digest}"
        nameless = bakery.bake(
            nvidia_prebake_image=by_digest, nvidia_prebake_driver_kind="cuda", nvidia_prebake_driver_version="580.126.09"
        )
        assert nameless.rc == 0, nameless.out
        assert [layer.image for layer in bakery.layers()] == [by_digest], "a seal asks for the image by the name that the bake was given"
        other = bakery.bake(nvidia_prebake_image=canonical, nvidia_prebake_pull_image=tagged)
        assert other.rc == 0, other.out
        assert canonical in bakery.ssh("ctr -n k8s.io images ls -q").split()
        assert "io.cri-containerd.pinned=pinned" in bakery.ssh(f"ctr -n k8s.io images ls name=={canonical}")
    finally:
        bakery.restore(before)
