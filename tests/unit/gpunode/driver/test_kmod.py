"""Kernel modules: parsing, order of unloading, loading, check of symbols."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import kmod
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.modules import (
    LoadedModule,
    flavour_of,
    is_driver_file,
    parse_modinfo,
    parse_proc_modules,
    unload_order,
)

from tests.kit.node import FakeNode
from tests.kit.values import DATA, KVER, VERSION

PROC_MODULES = """\
nvidia_uvm 1740800 2 - Live 0x0000000000000000 (POE)
nvidia_modeset 1306624 1 nvidia_drm, Live 0x0000000000000000 (POE)
nvidia 56872960 38 nvidia_uvm,nvidia_modeset, Live 0x0000000000000000 (POE)
nvidiafb 65536 0 - Live 0x0000000000000000
i2c_nvidia_gpu 16384 0 - Loading 0x0000000000000000
half a line
"""


def test_reads_modinfo_of_a_real_module() -> None:
    found = parse_modinfo((DATA / "kmod/modinfo-kmod30-stand-in.txt").read_text(encoding="utf-8"))
    assert found is not None
    assert (found.version, found.licence, found.flavour) == (VERSION, "Dual MIT/GPL", "open")
    assert (found.kver, found.signer) == ("6.12.95+deb12-cloud-amd64", "")
    assert found.path.endswith("updates/dkms/nvidia.ko.xz")


@pytest.mark.parametrize("text", ["", "modinfo: ERROR: Module nvidia not found.\n", "version: 1\n"])
def test_no_file_name_is_no_module(text: str) -> None:
    assert parse_modinfo(text) is None


def test_the_first_of_two_fields_counts() -> None:
    found = parse_modinfo("filename: a\nversion: 1\nversion: 2\nsigner: key\n")
    assert found is not None
    assert (found.version, found.signer, found.vermagic, found.kver) == ("1", "key", "", "")


@pytest.mark.parametrize(
    ("licence", "flavour"), [("NVIDIA", "proprietary"), ("Dual MIT/GPL", "open"), ("GPL", None), ("MIT", None), ("", None)]
)
def test_the_licence_tells_the_flavour(licence: str, flavour: str | None) -> None:
    assert flavour_of(licence) == flavour


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("nvidia.ko", True),
        ("nvidia-uvm.ko.zst", True),
        ("nvidia-drm.ko.xz", True),
        ("nvidia-modeset.ko.gz", True),
        ("nvidia-peermem.ko", True),
        ("nvidia-current-uvm.ko", True),
        ("nvidiafb.ko", False),
        ("i2c-nvidia-gpu.ko", False),
        ("nvidia-wmi-ec-backlight.ko", False),
        ("nvidia.ko.bak", False),
        ("xnvidia.ko", False),
        ("nvidia.ko.zstd", False),
    ],
)
def test_only_exact_file_names_are_the_driver(name: str, ours: bool) -> None:
    assert is_driver_file(name) is ours


def test_reads_proc_modules() -> None:
    found = parse_proc_modules(PROC_MODULES)
    assert found["nvidia"] == (38, ("nvidia-uvm", "nvidia-modeset"), "live")
    assert found["i2c-nvidia-gpu"] == (0, (), "loading")
    assert "half" not in found


def test_loaded_modules_have_their_version(node: FakeNode) -> None:
    node.put("proc/modules", PROC_MODULES)
    node.put("sys/module/nvidia/version", "580.1\n")
    found = {m.name: m.version for m in kmod.loaded(node.root)}
    assert found == {"nvidia": "580.1", "nvidia-uvm": "", "nvidia-modeset": ""}


def loaded(name: str, *holders: str) -> LoadedModule:
    return LoadedModule(name, "1", "live", len(holders), holders)


def test_dependents_are_unloaded_first() -> None:
    modules = [loaded("nvidia", "nvidia-uvm", "nvidia-modeset"), loaded("nvidia-modeset", "nvidia-drm"), loaded("nvidia-drm")]
    order = unload_order([*modules, loaded("nvidia-uvm"), loaded("nouveau")])
    assert order[-1] == "nvidia"
    assert order.index("nvidia-drm") < order.index("nvidia-modeset")
    assert set(order) == {"nvidia", "nvidia-modeset", "nvidia-drm", "nvidia-uvm", "nouveau"}


def test_a_holder_that_is_not_ours_does_not_hold_up_the_order() -> None:
    assert unload_order([loaded("nvidia", "gdrdrv")]) == ("nvidia",)


def test_a_cycle_ends() -> None:
    assert set(unload_order([loaded("a", "b"), loaded("b", "a")])) == {"a", "b"}


def test_loading_says_what_modprobe_says(node: FakeNode) -> None:
    assert "not found in directory" in kmod.load(node, "nvidia", 5)
    node.build()
    assert kmod.load(node, "nvidia", 5) == ""
    assert kmod.modinfo(node, node.root, KVER, "nvidia") is not None
    node.missing_programs.add("modprobe")
    assert "missing" in kmod.load(node, "nvidia", 5)


@pytest.mark.parametrize(
    ("module", "what", "counts"),
    [
        pytest.param("updates/dkms/nvidia-uvm.ko", "disagrees about version of symbol nvUvmInterfaceRegisterGpu", "needed", id="uvm"),
        pytest.param("updates/dkms/nvidia.ko.xz", "needs unknown symbol i2c_add_adapter", "needed", id="and the kernel"),
        pytest.param("updates/dkms/nvidia-drm.ko", "needs unknown symbol drm_gem_object_free", "others", id="a driver can do without"),
        pytest.param("updates/efa.ko", "disagrees about version of symbol nvidia_p2p_get_pages", "others", id="somebody else's, and ours"),
        pytest.param("updates/efa.ko", "needs unknown symbol ib_register_device", "", id="somebody else's alone"),
        pytest.param("updates/x.ko", "needs unknown symbol nvme_init", "", id="another's name that begins so"),
    ],
)
def test_modules_are_compared_as_a_set(node: FakeNode, module: str, what: str, counts: str) -> None:
    path = f"/lib/modules/{KVER}/{module}"
    node.depmod_says = f"depmod: WARNING: could not open modules.order at {node.root}\ndepmod: WARNING: {node.root}{path} {what}\n"
    assert kmod.symbol_problems(node, node.root, KVER) == ((), ()), "without headers nothing is known"
    node.put(f"usr/src/linux-headers-{KVER}/Module.symvers")
    said = (f"{path} {what}",)
    assert kmod.symbol_problems(node, node.root, KVER) == (said if counts == "needed" else (), said if counts == "others" else ())
    assert node.calls[-1][:4] == ["depmod", "-n", "-e", "-E"]
