"""GPU generations by PCI device id, and the modules that they accept."""

from __future__ import annotations

import itertools
import re

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import gpus

from tests.kit.values import DATA

PCI_IDS = DATA / "pci.ids/nvidia-2026.10.24.txt"
# The first letters of a chip's name, and the generations whose chips have such names.
CHIPS = {
    "GK": ("kepler", "kepler-grid"),
    "GM": ("maxwell",),
    "GP": ("pascal",),
    "GV": ("volta",),
    "TU": ("turing",),
    "GA": ("ampere",),
    "GH": ("hopper", "grace-hopper"),
    "AD": ("ada",),
    "GB": ("blackwell",),
    "GR": ("rubin",),
}
NO_GPU = re.compile("Audio|USB|UCSI|NVSwitch|PCI bridge|PCIe host")


def chips() -> list[tuple[str, str]]:
    """Each GPU of the extract of pci.ids: its device id and its name, which begins with the chip's."""
    rows = [line.strip().split(None, 1) for line in PCI_IDS.read_text(encoding="utf-8").splitlines() if line.startswith("\t")]
    return [(device, name) for device, name in rows if re.match(rf"({'|'.join(CHIPS)})\d", name) and not NO_GPU.search(name)]


@pytest.mark.parametrize(
    ("device", "name"),
    [
        pytest.param("0ff2", "kepler-grid", id="GRID K1"),
        pytest.param("102d", "kepler", id="K80"),
        pytest.param("118f", "kepler", id="K10"),
        pytest.param("13f2", "maxwell", id="M60"),
        pytest.param("172f", "pascal", id="GP100 between Maxwell's"),
        pytest.param("15f8", "pascal", id="P100"),
        pytest.param("1b38", "pascal", id="P40"),
        pytest.param("1db4", "volta", id="V100"),
        pytest.param("1eb8", "turing", id="T4"),
        pytest.param("20b5", "ampere", id="A100 80GB PCIe"),
        pytest.param("2236", "ampere", id="A10"),
        pytest.param("27b8", "ada", id="L4"),
        pytest.param("26b9", "ada", id="L40S"),
        pytest.param("2330", "hopper", id="H100 SXM"),
        pytest.param("2335", "hopper", id="H200 SXM"),
        pytest.param("237f", "hopper", id="H100 engineering sample"),
        pytest.param("2342", "grace-hopper", id="GH200"),
        pytest.param("2901", "blackwell", id="B200"),
        pytest.param("2941", "blackwell", id="GB200"),
        pytest.param("3182", "blackwell", id="B300"),
        pytest.param("3340", "blackwell", id="GB120"),
        pytest.param("3041", "rubin", id="GR100"),
    ],
)
def test_a_device_id_tells_the_generation(device: str, name: str) -> None:
    found = gpus.of_device(device)
    assert found
    assert found.name == name


@pytest.mark.parametrize("device", ["", "ffff", "zz", "0001", "4000", "2f80", "22a3", "1040"])
def test_an_unknown_device_id_is_of_no_generation(device: str) -> None:
    assert gpus.of_device(device) is None


def test_every_gpu_of_pci_ids_from_kepler_on_has_its_generation() -> None:
    found = {device: generation.name if (generation := gpus.of_device(device)) else "" for device, _name in chips()}
    assert len(found) > 800
    assert [f"{device} {name}: {found[device]}" for device, name in chips() if found[device] not in CHIPS[name[:2]]] == []


def test_each_generation_has_gpus_of_pci_ids_and_a_first_branch() -> None:
    seen = {generation.name for device, _name in chips() if (generation := gpus.of_device(device))}
    assert seen == set(gpus.NAMES)
    assert all(generation.oldest > 0 for generation in gpus.GENERATIONS)


@pytest.mark.parametrize(
    ("device", "version", "said"),
    [
        pytest.param("102d", "580.126.09", "driver branch 470 is the last for kepler GPUs, 580.126.09 is newer", id="K80"),
        pytest.param("102d", "470.256.02", "", id="K80, the last branch"),
        pytest.param("11bf", "470.256.02", "driver branch 367 is the last for kepler-grid GPUs, 470.256.02 is newer", id="GRID K2"),
        pytest.param("1db4", "590.48.01", "driver branch 580 is the last for volta GPUs, 590.48.01 is newer", id="V100"),
        pytest.param("3041", "595.58.03", "rubin GPUs need driver branch 610 or newer, 595.58.03 is older", id="Rubin"),
        pytest.param("3041", "610.57.04", "", id="Rubin, the first branch"),
    ],
)
def test_a_version_that_does_not_drive_a_generation_is_refused_by_name(device: str, version: str, said: str) -> None:
    generation = gpus.of_device(device)
    assert generation
    assert generation.unsupported(version) == said


def test_no_device_id_is_of_two_generations() -> None:
    ranges = sorted(one for generation in gpus.GENERATIONS for one in generation.ids)
    assert all(low <= high for low, high in ranges)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("flavour", "version", "names"),
    [
        pytest.param("open", "580.126.09", "turing ampere hopper grace-hopper ada blackwell", id="open 580"),
        pytest.param("proprietary", "580.126.09", "maxwell pascal volta turing ampere hopper ada", id="proprietary 580"),
        pytest.param("open", "610.57.04", "turing ampere hopper grace-hopper ada blackwell rubin", id="open 610"),
        pytest.param("proprietary", "470.256.02", "kepler maxwell pascal volta turing ampere", id="proprietary 470"),
        pytest.param("proprietary", "595.58.03", "turing ampere hopper ada", id="proprietary 595"),
        pytest.param("open", "535.309.01", "turing ampere hopper grace-hopper ada", id="open 535"),
        pytest.param("open", "510.47.03", "", id="open before open modules"),
        pytest.param("", "580.126.09", "", id="unknown flavour"),
        pytest.param("open", "", "", id="unknown version"),
    ],
)
def test_flavour_and_version_tell_the_generations(flavour: str, version: str, names: str) -> None:
    assert " ".join(g.name for g in gpus.GENERATIONS if not g.refusal(flavour, version)) == names


def test_every_refusal_says_why() -> None:
    for generation in gpus.GENERATIONS:
        for flavour in ("open", "proprietary", ""):
            for version in ("450.1", "550.90.07", "580.126.09", "595.58.03", "x"):
                refusal = generation.refusal(flavour, version)
                assert not refusal or generation.unsupported(version) in ("", refusal) or flavour not in generation.flavours
                assert refusal == "" or generation.name in refusal or "open kernel modules exist from" in refusal
