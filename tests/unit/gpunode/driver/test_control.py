"""Which modules a boot loads: those that a driver needs, and those that udev loads on every later boot."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import control, kmod
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit.node import FakeNode
from tests.kit.values import KVER, VERSION

# As depmod writes them for NVIDIA's driver.
ALIASES = """\
# Aliases extracted from modules themselves.
alias pci:v000010DEd*sv*sd*bc03sc00i00* nvidia_drm
alias pci:v000010DEd*sv*sd*bc03sc02i00* nvidia_drm
alias pci:v000010DEd*sv*sd*bc03sc02i00* nvidia
alias pci:v000010DEd*sv*sd*bc06sc80i00* nvidia
alias pci:v000010DEd*sv*sd*bc03sc* nouveau
alias char-major-195-* nvidia
"""
H100 = "pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00"
SWITCH = "pci:v000010DEd000022A3sv000010DEsd00001796bc06sc80i00"


@pytest.fixture
def aliased(node: FakeNode) -> FakeNode:
    node.build()
    node.put(f"usr/lib/modules/{KVER}/modules.alias", ALIASES)
    node.add_gpu()
    return node


def load(node: FakeNode) -> tuple[str, ...]:
    return control.load(node.root, node, Deadline(60), VERSION, KVER)


def add_module(node: FakeNode, name: str) -> None:
    source = next((node.root / f"usr/lib/modules/{KVER}").rglob("nvidia-uvm.ko"))
    source.with_name(f"{name}.ko").write_bytes(source.read_bytes())


@pytest.mark.parametrize(("modalias", "names"), [(H100, ("nvidia", "nvidia-drm")), (SWITCH, ("nvidia",)), ("", ()), ("pci:v00001AF4", ())])
def test_what_udev_would_load(aliased: FakeNode, modalias: str, names: tuple[str, ...]) -> None:
    assert kmod.by_modalias(aliased.root, KVER, modalias) == names


def test_a_kernel_without_aliases_names_none(tmp_path: Path) -> None:
    assert kmod.by_modalias(tmp_path, KVER, H100) == ()


def test_the_first_boot_loads_what_udev_loads_on_the_next(aliased: FakeNode) -> None:
    add_module(aliased, "nvidia-drm")
    assert load(aliased) == ()
    assert sorted(aliased.loaded_names()) == ["nvidia", "nvidia-drm", "nvidia-uvm"]


def test_nouveau_is_not_asked_for_by_its_alias(aliased: FakeNode) -> None:
    load(aliased)
    assert not [argv for argv in aliased.called("modprobe") if "nouveau" in argv]


def test_one_that_cannot_be_loaded_is_a_warning(aliased: FakeNode) -> None:
    (warning,) = load(aliased)
    assert warning.startswith("module nvidia-drm, which udev loads too, cannot be loaded: modprobe: FATAL: Module nvidia-drm not found")
    assert "nvidia" in aliased.loaded_names()


def test_without_aliases_only_what_is_needed_is_loaded(node: FakeNode) -> None:
    node.build()
    node.add_gpu()
    assert load(node) == ()
    assert sorted(node.loaded_names()) == ["nvidia", "nvidia-uvm"]
