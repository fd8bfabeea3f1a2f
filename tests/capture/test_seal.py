"""The seal on a real image: it passes after a bake, refuses what real tools have spoiled, and checks a mounted disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, objects_of

from lab.builds import bakedimage
from lab.driverimages import driverimage
from lab.machine import host
from tests.lab.bakery import Bakery
from tests.lab.snapshot import snapshot

OTHER = "1.2.3"
# What could be done to an image between bake and seal, and how it is undone. {module} and {library} are files of the layer.
SPOIL = """
set -e
mkdir -p /root/aside /lib/modules/{kver}/updates/dkms
cp -a /lib/modules/{kver}/modules.* /boot/initrd.img-{kver} /etc/initramfs-tools/modules /etc/ld.so.cache /root/aside/
cp -a /var/cache/ldconfig /root/aside/ldconfig
cp {module} /lib/modules/{kver}/updates/dkms/nvidia.ko
depmod {kver}
echo nvidia >> /etc/initramfs-tools/modules
mkinitramfs -o /boot/initrd.img-{kver} {kver}
mkdir -p /usr/src/nvidia-1.2.3
printf 'PACKAGE_NAME="nvidia"\\nPACKAGE_VERSION="1.2.3"\\nBUILT_MODULE_NAME[0]="nvidia"\\nDEST_MODULE_LOCATION[0]="/updates"\\n' \\
  > /usr/src/nvidia-1.2.3/dkms.conf
dkms add nvidia/1.2.3
touch /var/lib/dkms/mok.key
cp /bin/true /usr/local/bin/helper
chmod 4755 /usr/local/bin/helper
cp /bin/true /usr/local/bin/nvidia-smi
cp {library} /usr/lib/x86_64-linux-gnu/libcuda.so.1
ldconfig
mkdir /opt/gpu
mount -t tmpfs none /opt/gpu
ctr -n k8s.io containers create {image} gpuprebuild-7
ctr -n k8s.io images label {image} io.cri-containerd.pinned= > /dev/null
mv /lib/modules/{kver}/build /root/aside/
"""
MEND = """
umount /opt/gpu
rmdir /opt/gpu
mv /root/aside/build /lib/modules/{kver}/
ctr -n k8s.io containers rm gpuprebuild-7
ctr -n k8s.io images label {image} io.cri-containerd.pinned=pinned > /dev/null
dkms remove nvidia/1.2.3 --all > /dev/null
rm -rf /var/lib/dkms/nvidia /var/lib/dkms/mok.key /usr/src/nvidia-1.2.3 /usr/local/bin/helper /usr/local/bin/nvidia-smi \\
  /usr/lib/x86_64-linux-gnu/libcuda.so.1 /lib/modules/{kver}/updates
mv /root/aside/modules.* /lib/modules/{kver}/
mv /root/aside/initrd.img-{kver} /boot/
mv /root/aside/modules /etc/initramfs-tools/
mv /root/aside/ld.so.cache /etc/
rm -rf /var/cache/ldconfig
mv /root/aside/ldconfig /var/cache/
rmdir /root/aside
"""


def object_of(bakery: Bakery, layer: Manifest, name: str) -> Path:
    """The object in the store of the layer's file of this name."""
    return Path(Store(bakery.root).file(next(entry for entry in objects_of(layer) if entry.path.endswith(f"/{name}"))))


def on_node(bakery: Bakery, path: Path) -> str:
    return f"/{path.relative_to(bakery.root)}"


@pytest.fixture
def sealed(pristine: Bakery) -> tuple[Bakery, Manifest]:
    """The node after a bake whose seal passes, and its layer."""
    ran = pristine.bake()
    assert ran.rc == 0, ran.out
    before = snapshot(pristine.root)
    ran, report = pristine.seal()
    assert ran.rc == 0, ran.out
    assert "sealed: inert, covered: " in ran.message
    assert (report["refusals"], report["covered"], report["in_place"]) == ([], [pristine.kver], [])
    assert [r["gpu"] for r in report["replayed"]] == ["turing", "ampere", "hopper", "grace-hopper", "ada", "blackwell"]
    assert {(r["action"], r["code"]) for r in report["replayed"]} == {("install-skip-build", "baked_layer_matches")}
    assert "ignores the pinned label" in " ".join(report["notes"])
    assert "no layer for kernel 6.12" in " ".join(report["notes"])
    assert snapshot(pristine.root) == before, "the seal must change nothing outside the store"
    assert (pristine.root / STORE / "seal-report.json").stat().st_mode & 0o777 == 0o600
    (layer,) = pristine.layers()
    return pristine, layer


def refused(bakery: Bakery, **variables: Any) -> dict[str, str]:
    """Runs the seal, which must refuse; returns by check the problems that it found."""
    ran, report = bakery.seal(**variables)
    assert ran.rc != 0, ran.out
    assert "this image must not ship: " in ran.message
    found: dict[str, str] = {}
    for refusal in report["refusals"]:
        found[refusal["check"]] = f"{found.get(refusal['check'], '')}{refusal['problem']}\n"
    return found


def test_what_real_tools_have_spoiled_is_named_with_what_to_do(sealed: tuple[Bakery, Manifest]) -> None:
    bakery, layer = sealed
    kver, image = bakery.kver, bakery.reference("standin")
    words = {
        "kver": kver,
        "image": image,
        "module": on_node(bakery, object_of(bakery, layer, "nvidia.ko")),
        "library": on_node(bakery, object_of(bakery, layer, f"libcuda.so.{layer.identity.version}")),
    }
    bakery.ssh(SPOIL.format(**words))
    try:
        found = refused(bakery)
    finally:
        bakery.ssh(MEND.format(**words))
    modules = f"/usr/lib/modules/{kver}"
    for said in (
        f"{modules}/updates/dkms/nvidia.ko: a kernel module of the driver, which can be loaded: remove it, then run depmod {kver}",
        f"{modules}/modules.alias: udev would load nvidia: run depmod {kver}",
        f"/boot/initrd.img-{kver}: contains a module of the driver: run update-initramfs -u -k {kver}",
        f"/var/lib/dkms/nvidia/{OTHER}: registered with DKMS",
        f"dkms remove nvidia/{OTHER} --all",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1: a driver library where the loader finds it: remove it, then run ldconfig",
        "/etc/ld.so.cache: it contains a driver library, which the loader would use: run ldconfig",
        "/usr/local/bin/nvidia-smi: a driver program in PATH: remove it",
        "/usr/local/bin/helper: setuid or setgid, not from a package, and not there before the bake: remove it, or clear these mode bits",
        "/var/lib/dkms/mok.key: a private key, which all nodes of this image would share: remove it",
        "/opt/gpu: a mount that a driver container left behind: run umount -l /opt/gpu",
        "/opt/gpu: a scratch folder of driver containers: remove it",
        "container gpuprebuild-7 in containerd: a driver container that was left behind: run ctr -n k8s.io tasks rm -f gpuprebuild-7",
    ):
        assert said in found["inert"], found
    assert len(found["inert"].splitlines()) == 12, found["inert"]
    assert f"driver image {image} is not labelled as pinned" in found["usable"]
    assert f"cannot compile for {kver}: the headers of kernel {kver} are missing" in found["usable"]
    assert set(found) == {"inert", "usable", "right"}, "with a driver that is not ours on it, no node would take the fast path"
    assert "foreign_driver" in found["right"]
    ran, report = bakery.seal()
    assert ran.rc == 0, ran.out
    assert report["refusals"] == []


def test_an_image_that_lacks_what_was_asked_for_is_refused(sealed: tuple[Bakery, Manifest]) -> None:
    bakery, layer = sealed
    image = bakery.reference("standin")
    newer = max(path.name for path in (bakery.root / "usr/lib/modules").iterdir())
    library = object_of(bakery, layer, f"libcuda.so.{layer.identity.version}")
    library.write_bytes(b"x" * library.stat().st_size)
    bakery.ssh(f"ctr -n k8s.io images rm --sync {image}")
    found = refused(
        bakery,
        nvidia_prebake_uncovered="fail",
        nvidia_prebake_seal_min_free_mb=90_000_000,
        nvidia_prebake_gpu_generations=["hopper", "volta"],
    )
    assert f"kernel {newer} can be booted and has no layer: remove it or bake for it" in found["covered"]
    assert f"layer {layer.layer}: " in found["layers"]
    assert "libcuda.so" in found["layers"]
    assert "MB are missing: give the build machine a larger disk, or set nvidia_prebake_seal_min_free_mb" in found["usable"]
    assert f"driver image {image} is not in containerd" in found["usable"]
    assert "volta GPUs need proprietary kernel modules" in found["right"]
    found = refused(bakery, nvidia_prebake_kernels=[newer])
    assert f"kernel {newer} boots by default or was requested, and has no layer" in found["covered"]


def test_an_image_that_was_baked_in_place_passes_with_its_own_driver_and_no_other(bakery: Bakery) -> None:
    before = bakery.files()
    try:
        assert bakery.bake_in_place().rc == 0
        ran, report = bakery.seal()
        assert ran.rc == 0, ran.out
        assert "sealed: live (baked in place)" in ran.message
        assert (report["refusals"], report["in_place"]) == ([], report["layers"])
        bakery.ssh("cp /bin/true /usr/local/bin/nvidia-smi; chmod 4755 /usr/local/bin/nvidia-smi; touch /var/lib/dkms/mok.key")
        found = refused(bakery)
        assert set(found) == {"inert"}
        assert [line.split(": ")[:2] for line in found["inert"].splitlines()] == [
            ["/usr/local/bin/nvidia-smi", "a driver program in PATH"],
            ["/usr/local/bin/nvidia-smi", "setuid or setgid, not from a package, and not there before the bake"],
            ["/var/lib/dkms/mok.key", "a private key, which all nodes of this image would share"],
        ]
    finally:
        bakery.ssh("rm -f /usr/local/bin/nvidia-smi /var/lib/dkms/mok.key")
        bakery.restore(before)
        bakery.ssh(f"depmod {bakery.kver}; ldconfig")


@contextmanager
def mounted(bakery: Bakery, disk: Path, folder: Path) -> Iterator[None]:
    """Restarts the node with a baked disk below its /mnt: `image`, read-only, and `spoiled`, an overlay over it."""
    raw, good, spoiled = folder / "raw", bakery.root / "mnt/image", bakery.root / "mnt/spoiled"
    host.run(["qemu-img", "convert", "-q", "-O", "raw", str(disk), str(raw)], timeout_s=600)
    bakery.node.stop()
    with ExitStack() as stack:
        stack.callback(bakery.node.start)
        for path in (good, spoiled, folder / "upper", folder / "work"):
            path.mkdir()
        stack.callback(spoiled.rmdir)
        stack.callback(good.rmdir)
        host.run(["mount", "-o", "ro,loop", str(raw), str(good)], timeout_s=60)
        stack.callback(host.run, ["umount", str(good)], timeout_s=60)
        over = f"lowerdir={good},upperdir={folder}/upper,workdir={folder}/work"
        host.run(["mount", "-t", "overlay", "-o", over, "overlay", str(spoiled)], timeout_s=60)
        stack.callback(host.run, ["umount", str(spoiled)], timeout_s=60)
        bakery.node.start()
        stack.callback(bakery.node.stop)
        yield


def test_a_disk_that_is_mounted_read_only_is_sealed_and_a_spoiled_copy_refused(bakery: Bakery, tmp_path: Path) -> None:
    baked = bakedimage.bake("standin")
    version = driverimage.build("standin").version
    bakery.asked = {"nvidia_prebake_image": bakery.reference("standin")}  # of this disk's bake, not of the last one on the node
    with mounted(bakery, baked.disk.path, tmp_path):
        ran, report = bakery.seal(nvidia_prebake_seal_root="/mnt/image")
        assert ran.rc == 0, ran.out
        assert (report["refusals"], report["offline"], report["root"]) == ([], True, "/mnt/image")
        assert report["replayed"] == baked.seal["replayed"]
        notes = " ".join(report["notes"])
        assert "containerd was not asked" in notes
        assert "mounted read-only, so this report was not written into it" in notes

        spoiled = bakery.root / "mnt/spoiled"
        module = f"usr/lib/modules/{bakery.kver}/updates/dkms/nvidia.ko"
        (spoiled / module).parent.mkdir(parents=True)
        (spoiled / module).write_text("x")
        (spoiled / "var/lib/dkms/mok.key").touch()
        (spoiled / "usr/sbin/dkms").unlink()
        shutil.rmtree(spoiled / f"usr/src/linux-headers-{bakery.kver}")
        shutil.rmtree(spoiled / STORE / "objects")
        found = refused(bakery, nvidia_prebake_seal_root="/mnt/spoiled")
        assert f"/{module}: a kernel module" in found["inert"]
        assert "/var/lib/dkms/mok.key: a private key" in found["inert"]
        assert "dkms is missing" in found["usable"]
        assert f"the headers of kernel {bakery.kver} are missing" in found["usable"]
        assert f"layer cuda-{version}-open-{bakery.kver}: " in found["layers"]
        assert found["right"]
        assert (spoiled / STORE / "seal-report.json").exists(), "this one is writable"
