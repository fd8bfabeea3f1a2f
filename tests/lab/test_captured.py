"""A captured bake on a native node; tests/capture has more of them."""

from __future__ import annotations

from tests.lab.bakery import Bakery
from tests.lab.snapshot import snapshot


def test_a_captured_bake_changes_nothing_in_the_image_and_repeated_does_nothing(pristine: Bakery) -> None:
    ran = pristine.capture()
    assert ran.rc == 0, ran.out
    (layer,) = pristine.layers()
    paths = {e.path: e for e in layer.files}
    modules = f"usr/lib/modules/{pristine.kver}"
    assert {f"{modules}/updates/dkms/nvidia.ko", "usr/bin/lib64/lib64/libcuda.so.1", "opt/azure/aks-gpu/dkms-marker"} <= paths.keys()
    assert paths["usr/bin/nvidia-modprobe"].mode == 0o4755
    before = snapshot(pristine.root / "var/lib/gpu-prebake")
    again = pristine.capture()
    assert again.rc == 0
    assert "changed=0" in again.out
    assert snapshot(pristine.root / "var/lib/gpu-prebake") == before
