"""Bakes that succeed, again and after an interruption."""

from __future__ import annotations

import json
import time

from tests.lab.bakery import Bakery


def test_a_bake_that_was_killed_is_taken_back_by_the_next_which_succeeds(bakery: Bakery) -> None:
    before = bakery.files()
    first = bakery.start("standin-build-hangs", nvidia_prebake_tries=1)
    end = time.monotonic() + 60
    while "hang" not in bakery.ssh("cat /var/log/gpu-prebake/gpuprebuild-1.log 2>/dev/null | tr A-Z a-z || true"):
        assert time.monotonic() < end
        time.sleep(0.3)
    bakery.ssh("pkill -9 -f prebake_layer")
    first.communicate(timeout=120)
    assert bakery.processes() != "", "the container outlives the killed module: that is what must be cleaned up"
    try:
        assert bakery.bake().rc == 0
        assert bakery.mounts() == bakery.processes() == ""
        report = json.loads((bakery.root / "var/lib/gpu-prebake/bake-report.json").read_text())
        assert "take-back-interrupted-bake" in [step["name"] for step in report["steps"]]
        assert report["identity"]["kver"] == bakery.kver
        assert not (bakery.root / "var/lib/dkms/mok.key").exists()

        baked = bakery.files()
        again = bakery.bake()
        assert again.rc == 0
        assert "changed=0" in again.out
        assert bakery.files() == baked

        replaced = bakery.bake("standin-other-version")
        assert replaced.rc == 0
        layers = [p.parent.name for p in (bakery.root / "var/lib/gpu-prebake/layers").glob("*/manifest.json")]
        assert layers == [f"cuda-550.90.07-open-{bakery.kver}"]
        assert "580.126.09" not in "".join(p for p in bakery.files() if p not in before)
    finally:
        bakery.ssh("rm -rf /var/lib/gpu-prebake /var/lib/dkms/nvidia")


def test_opting_in_is_by_exact_token(unchanged: Bakery) -> None:
    for flags in ("", "NO_NVIDIA_CUDA_PREBAKE, NVIDIA_CUDA_PREBAKE_2", "nvidia_cuda_prebake"):
        ran = unchanged.bake(nvidia_prebake_enabled=False, nvidia_prebake_feature_flags=flags)
        assert ran.rc == 0
        assert "Nothing is baked" in ran.message
    ran = unchanged.bake(nvidia_prebake_enabled=False, nvidia_prebake_feature_flags="A,NVIDIA_CUDA_PREBAKE B", nvidia_prebake_image="x")
    assert "is not a full image reference" in ran.message
