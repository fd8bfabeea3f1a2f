"""GPU generations by PCI device id, and the modules that they accept."""

from __future__ import annotations

import itertools

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import gpus


@pytest.mark.parametrize(
    ("device", "name"),
    [
        pytest.param("13f2", "maxwell", id="M60"),
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
        pytest.param("2342", "grace-hopper", id="GH200"),
        pytest.param("2901", "blackwell", id="B200"),
        pytest.param("2941", "blackwell", id="GB200"),
        pytest.param("3182", "blackwell", id="B300"),
    ],
)
def test_a_device_id_tells_the_generation(device: str, name: str) -> None:
    found = gpus.of_device(device)
    assert found
    assert found.name == name


@pytest.mark.parametrize("device", ["", "ffff", "zz", "0001", "4000"])
def test_an_unknown_device_id_is_of_no_generation(device: str) -> None:
    assert gpus.of_device(device) is None


def test_no_device_id_is_of_two_generations() -> None:
    ranges = sorted(one for generation in gpus.GENERATIONS for one in generation.ids)
    assert all(low <= high for low, high in ranges)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("flavour", "version", "names"),
    [
        pytest.param("open", "580.126.09", "turing ampere hopper grace-hopper ada blackwell", id="open 580"),
        pytest.param("proprietary", "580.126.09", "maxwell pascal volta turing ampere hopper ada", id="proprietary 580"),
        pytest.param("proprietary", "595.58.03", "turing ampere hopper ada", id="proprietary 595"),
        pytest.param("open", "535.309.01", "turing ampere hopper grace-hopper ada", id="open 535"),
        pytest.param("open", "510.47.03", "", id="open before open modules"),
        pytest.param("", "580.126.09", "", id="unknown flavour"),
        pytest.param("open", "", "", id="unknown version"),
    ],
)
def test_flavour_and_version_tell_the_generations(flavour: str, version: str, names: str) -> None:
    assert " ".join(g.name for g in gpus.supported(flavour, version)) == names


def test_every_refusal_says_why() -> None:
    for generation in gpus.GENERATIONS:
        for flavour in ("open", "proprietary", ""):
            for version in ("450.1", "550.90.07", "580.126.09", "595.58.03", "x"):
                refusal = generation.refusal(flavour, version)
                assert (refusal == "") == (generation in gpus.supported(flavour, version))
                assert refusal == "" or generation.name in refusal or "open kernel modules exist from" in refusal
