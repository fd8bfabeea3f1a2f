"""A captured bake of NVIDIA's own driver: what the layer contains, and that the image is unchanged."""

from __future__ import annotations

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import driver_of
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import key, objects_of

from lab.driverimages import driverimage
from tests.lab.bakery import Bakery


def test_the_real_driver_is_captured_completely_and_the_image_is_unchanged(pristine: Bakery) -> None:
    version = driverimage.build("nvidia").version
    ran = pristine.capture("nvidia", nvidia_prebake_try_s=2400, nvidia_prebake_tries=1)
    assert ran.rc == 0, ran.out
    (layer,) = pristine.layers()
    assert (layer.identity.version, layer.identity.flavour, layer.identity.kver) == (version, "proprietary", pristine.kver)
    assert (layer.replaced, layer.deleted, layer.originals) == ((), (), ())
    files = {e.path: e for e in layer.files}
    objects = {key(e): e.size for e in objects_of(layer)}
    print(f"layer: {len(files)} entries, {sum(e.size for e in layer.files)} bytes, {len(objects)} objects of {sum(objects.values())} bytes")
    print({step["name"]: step["seconds"] for step in pristine.report()["steps"]})
    modules = f"usr/lib/modules/{pristine.kver}/updates/dkms"
    tree = f"var/lib/dkms/nvidia/{version}/{pristine.kver}/x86_64/module"
    names = ("nvidia", "nvidia-drm", "nvidia-modeset", "nvidia-peermem", "nvidia-uvm")
    assert {p for p in files if p.startswith(modules + "/")} == {f"{modules}/{name}.ko" for name in names}
    assert sorted(fact.name for fact in layer.module_facts) == sorted(names)
    assert {fact.signer for fact in layer.module_facts} == {""}, "DKMS must have made no key and signed nothing"
    for name in names:
        assert key(files[f"{modules}/{name}.ko"]) == key(files[f"{tree}/{name}.ko"]), "one object for both copies"
    assert f"usr/bin/lib64/lib64/libcuda.so.{version}" in files
    assert f"usr/src/nvidia-{version}/dkms.conf" in files
    assert any(p.startswith(f"usr/lib/firmware/nvidia/{version}/gsp") for p in files)
    assert (files["usr/bin/nvidia-modprobe"].mode, files["usr/bin/nvidia-smi"].mode) == (0o4755, 0o755)
    assert [p for p, e in files.items() if e.type == "file" and e.mode & 0o6000] == ["usr/bin/nvidia-modprobe"]
    assert {p.split("/")[-1] for p in (i.path for i in layer.indexes)} >= {"modules.dep.bin", "modules.alias.bin", "modules.symbols.bin"}
    assert layer.gpus.source == "/opt/gpu/driver/supported-gpus.json.gz in the driver image"
    assert driver_of(layer).refusal("2330") == "", "H100 is in the list"
    assert "470.xx is the last" in driver_of(layer).unsupported("102d"), "so is K80, and no longer supported"
    assert not [p for p in files if "mok" in p or "nouveau" in p or p.startswith(("boot/", "var/lib/initramfs"))]
