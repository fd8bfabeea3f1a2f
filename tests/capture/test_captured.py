"""Captured bakes on a native node: the image stays the same, byte for byte, whether the bake succeeds or fails."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lab.machine import paths
from tests.lab.bakery import Bakery
from tests.lab.snapshot import difference, snapshot
from tests.lab.test_layer import CACHE, LIBRARY, command

STORE = "var/lib/gpu-prebake"


def begun(bakery: Bakery) -> subprocess.Popen[str]:
    """Starts a captured bake that hangs in its compile, and waits until it does."""
    process = bakery.start("standin-build-hangs", nvidia_prebake_mode="captured", nvidia_prebake_tries=1)
    wait(lambda: "make" in bakery.processes())
    assert len(bakery.captures()) == 4, "a folder, an overlay, a watcher, a PID 1"
    assert "apt-daily.timer" not in bakery.ssh("systemctl list-units --state=active --type=timer --plain --no-legend")
    return process


def wait(condition: Any, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_bakes_all_kernels_of_an_image_and_then_another_driver(pristine: Bakery) -> None:
    ran = pristine.capture(nvidia_prebake_kernels="all")
    assert ran.rc == 0, ran.out
    kernels = sorted(p.name for p in (pristine.root / "usr/lib/modules").iterdir())
    found = pristine.layers()
    assert [layer.identity.kver for layer in found] == kernels
    assert len(kernels) == 2
    for layer in found:
        paths = {e.path.removesuffix(".xz"): e for e in layer.files}  # later kernels have compressed modules
        modules = f"usr/lib/modules/{layer.identity.kver}"
        assert {f"{modules}/updates/dkms/nvidia.ko", "usr/bin/lib64/lib64/libcuda.so.1", "opt/azure/aks-gpu/dkms-marker"} <= paths.keys()
        assert paths["usr/bin/nvidia-modprobe"].mode == 0o4755
        assert (layer.replaced, layer.deleted) == ((), ())
        assert {index.path for index in layer.indexes} >= {f"{modules}/modules.dep.bin", f"{modules}/modules.alias.bin"}
        assert not [p for p in paths if p.startswith(("boot/", "etc/modprobe.d", "var/lib/dkms/mok")) or "/modules." in p]
        second = paths[f"var/lib/dkms/nvidia/580.126.09/{layer.identity.kver}/x86_64/module/nvidia.ko"]
        assert second.sha256 == paths[f"{modules}/updates/dkms/nvidia.ko"].sha256

    before = snapshot(pristine.root / STORE)
    again = pristine.capture(nvidia_prebake_kernels="all")
    assert again.rc == 0
    assert "changed=0" in again.out
    assert snapshot(pristine.root / STORE) == before

    other = pristine.capture("standin-other-version")
    assert other.rc == 0, other.out
    assert [layer.layer for layer in pristine.layers()] == [f"cuda-550.90.07-open-{pristine.kver}"]
    assert pristine.ssh(f"grep -rl 580.126.09 /{STORE}/objects || true").strip() == "", "the contents of the old layers must be deleted"


def test_a_distributions_files_that_are_replaced_and_deleted_are_guarded(pristine: Bakery) -> None:
    ran = pristine.capture("standin-changes-distribution")
    assert ran.rc == 0, ran.out
    (layer,) = pristine.layers()
    (klibc,) = [str(p.relative_to(pristine.root)) for p in (pristine.root / "usr/lib").glob("klibc-*.so")]
    assert layer.replaced == ("usr/lib/bfd-plugins", klibc)
    assert layer.deleted == ("usr/lib/valgrind", "usr/lib/valgrind/python3.supp")
    assert tuple(e.path for e in layer.originals) == ("usr/lib/bfd-plugins", klibc, *layer.deleted)
    assert "usr/bin/lib64/lib64/libmenuw.so.6.4" in {e.path for e in layer.files}, "the contract's overlay must have collected it"

    shutil.copytree(paths.TOP / "plugins/module_utils/gpunode", pristine.root / LIBRARY / "gpunode")
    before = snapshot(pristine.root)
    command(pristine, f"activate {layer.layer}")
    assert {path for path in difference(before, snapshot(pristine.root)) if path in before} >= {*layer.replaced, *layer.deleted}
    assert command(pristine, "deactivate")["kept"] == []
    assert [path for path in difference(before, snapshot(pristine.root)) if path != CACHE] == []
    shutil.rmtree(pristine.root / LIBRARY)
    (pristine.root / CACHE).unlink(missing_ok=True)


def test_a_distributions_library_that_is_deleted_where_the_contract_collects_is_refused_by_name(pristine: Bakery) -> None:
    ran = pristine.capture("standin-deletes-library")
    assert ran.rc != 0
    assert "deletes the distribution's library libpanelw.so.6.4" in ran.message, ran.out
    assert "try 2" not in pristine.ssh("cat /var/log/gpu-prebake/bake.log")
    assert pristine.layers() == ()


def test_modules_of_two_builds_are_refused(pristine: Bakery) -> None:
    ran = pristine.capture("standin-mixed-builds", nvidia_prebake_tries=1)
    assert ran.rc != 0
    assert "/updates/dkms/nvidia-uvm.ko disagrees about version of symbol nvidia_standin_gpu_count" in ran.message, ran.out
    assert pristine.layers() == ()


def test_a_build_that_fails_leaves_nothing(pristine: Bakery) -> None:
    ran = pristine.capture("standin-build-fails")
    assert ran.rc != 0
    assert "does not compile: " in ran.message, ran.out
    assert pristine.layers() == ()


def test_a_build_that_times_out_is_killed_with_its_children(pristine: Bakery) -> None:
    ran = pristine.capture("standin-build-hangs", nvidia_prebake_tries=1, nvidia_prebake_try_s=12)
    assert "did not end within 12 s" in ran.message, ran.out


def test_sigkill_of_the_module_is_cleaned_up_by_the_watcher_outside(pristine: Bakery) -> None:
    process = begun(pristine)
    pristine.ssh("kill -9 $(sed 's/.*process //; s/).*//' /run/gpu-prebake/lock)")
    wait(lambda: not pristine.captures(), 30)
    process.kill()
    process.wait()
    assert pristine.ssh("ctr -n k8s.io containers ls -q; ctr -n k8s.io snapshots ls | grep gpuprebuild || true").strip() == ""


def test_sigkill_of_everything_is_cleaned_up_by_the_next_run(pristine: Bakery) -> None:
    process = begun(pristine)
    pristine.ssh("kill -9 $(pgrep -f 'gpu-prebake-sandbox|prebake_layer|ctr -n k8s.io run' | grep -vx $$)")
    process.kill()
    process.wait()
    assert len(pristine.captures()) == 2, "a folder and an overlay: nothing was left running that could remove them"
    ran = pristine.capture()
    assert ran.rc == 0, ran.out
    assert "take-away-interrupted" in [step["name"] for step in pristine.report()["steps"]]
    assert [layer.identity.kver for layer in pristine.layers()] == [pristine.kver]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param("mount --bind /usr /usr; mount -o remount,ro,bind /usr", "umount -l /usr", "/usr is read-only", id="read-only usr"),
        pytest.param(
            "cd /run; mkdir -p x/u x/w; mount -t overlay o -o lowerdir=/opt,upperdir=x/u,workdir=x/w /opt",
            "umount -l /opt; rm -r /run/x",
            "/opt is an overlay itself",
            id="overlay",
        ),
        pytest.param("touch /run/ostree-booted", "rm /run/ostree-booted", "this is an ostree system", id="ostree"),
        pytest.param(
            "mv /lib/modules/{newest}/build /root/", "mv /root/build /lib/modules/{newest}/", "headers of kernel {newest}", id="headers"
        ),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(pristine: Bakery, before: str, after: str, said: str) -> None:
    names = {"newest": max(p.name for p in (pristine.root / "usr/lib/modules").iterdir())}
    pristine.ssh(before.format(**names))
    try:
        ran = pristine.capture(nvidia_prebake_kernels="all", nvidia_prebake_install_tools=False)
    finally:
        pristine.ssh(after.format(**names))
    assert ran.rc != 0
    assert said.format(**names) in ran.message, ran.out
    assert not Path(pristine.root / STORE / "captures").exists()
