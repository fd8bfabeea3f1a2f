"""Parsing names of driver images."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

CUDA = "mcr.microsoft.com/aks/aks-gpu-cuda-lts:580.159.04-20260629214430"
DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "repository", "kind", "version"),
    [
        pytest.param(CUDA, "mcr.microsoft.com/aks/aks-gpu-cuda-lts", "cuda", "580.159.04", id="cuda-lts"),
        pytest.param("reg/aks/aks-gpu-grid-v20:595.58.03-20260609172331", "reg/aks/aks-gpu-grid-v20", "grid", "595.58.03", id="grid-v20"),
        pytest.param("reg/aks-gpu-cuda:570.237-20260522192315", "reg/aks-gpu-cuda", "cuda", "570.237", id="two-part version"),
        pytest.param("127.0.0.1:5000/aks-gpu-cuda:1.2.3-20260522192315", "127.0.0.1:5000/aks-gpu-cuda", "cuda", "1.2.3", id="port"),
        pytest.param(f"reg/aks-gpu-cuda@{DIGEST}", "reg/aks-gpu-cuda", "cuda", None, id="digest alone says no version"),
        pytest.param(f"{CUDA}@{DIGEST}", "mcr.microsoft.com/aks/aks-gpu-cuda-lts", "cuda", "580.159.04", id="tag and digest"),
        pytest.param("reg/own/driver:latest", "reg/own/driver", None, None, id="a name of one's own"),
    ],
)
def test_takes_a_reference_apart(text: str, repository: str, kind: str | None, version: str | None) -> None:
    found = reference.parse(text)
    assert (found.repository, found.kind, found.version) == (repository, kind, version)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(None, id="none"),
        pytest.param(7, id="number"),
        pytest.param("aks-gpu-cuda", id="name alone"),
        pytest.param("UPPER/x:1", id="upper case"),
        pytest.param("reg/aks-gpu-cuda:535", id="version alone"),
        pytest.param("reg/aks-gpu-cuda:latest", id="latest"),
        pytest.param("reg/aks-gpu-cuda:535-2026052219231", id="13 digits"),
        pytest.param("reg/x y:1", id="blank"),
        pytest.param("reg/x:1\n", id="newline"),
        pytest.param("reg/x:1@sha256:ab", id="short digest"),
        pytest.param("reg/x", id="neither tag nor digest"),
        pytest.param("reg/x:\u0665", id="a digit of another script"),
        pytest.param("--reg/x:1", id="an option"),
    ],
)
def test_refuses_what_is_no_reference(text: object) -> None:
    with pytest.raises(InputError):
        reference.parse(text)


@pytest.mark.parametrize("value", [535.23, 580, True], ids=str)
def test_a_number_is_a_version_that_yaml_has_shortened(value: object) -> None:
    with pytest.raises(InputError, match="put it in quotes"):
        reference.check_version(value)


@pytest.mark.parametrize("value", ["580", "580.1.2.3", "580.x", "v580.1", "580.1 ", "", None, "\u0665\u0668.\u0660"], ids=repr)
def test_refuses_what_is_no_version(value: object) -> None:
    with pytest.raises(InputError, match="two or three parts"):
        reference.check_version(value)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=3))
def test_every_version_of_two_or_three_numbers_stays_as_it_is(parts: list[int]) -> None:
    text = ".".join(map(str, parts))
    assert reference.check_version(text) == text


@pytest.mark.parametrize(
    ("word", "kind"),
    [("cuda", "cuda"), ("cuda-lts", "cuda"), ("grid", "grid"), ("grid-v20", "grid"), ("cudax", None), ("CUDA", None), ("", None)],
)
def test_normalises_the_kind(word: str, kind: str | None) -> None:
    assert reference.normal_kind(word) == kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"image": CUDA, "kind": "grid-v20"}, "grid is asked for, but the image .* is of kind cuda", id="kind"),
        pytest.param({"image": CUDA, "version": "580.1"}, "580.1 is asked for, but the image .* carries 580.159.04", id="version"),
        pytest.param({"image": "reg/own/driver:1"}, "the image name reg/own/driver:1 does not contain it", id="nobody says the kind"),
        pytest.param({"image": "reg/own/driver:1", "kind": "cuda"}, "^version: .* set this", id="nobody says the version"),
        pytest.param({"image": CUDA, "kind": "rocm"}, "'rocm' is unknown", id="unknown kind"),
        pytest.param({"image": CUDA, "pull": "latest"}, "^pull_image: ", id="pull reference"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reference.wanted(**options)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        pytest.param({"image": ""}, ("image", "gpu_boot_image", "nvidia_prebake_image"), id="no image"),
        pytest.param({"image": CUDA, "pull": "x"}, ("pull_image", "gpu_boot_pull_image", "nvidia_prebake_pull_image"), id="pull reference"),
        pytest.param({"image": "r/d:1"}, ("kind", "gpu_boot_driver_kind", "nvidia_prebake_driver_kind"), id="no kind"),
        pytest.param({"image": CUDA, "kind": "x"}, ("kind", "gpu_boot_driver_kind", "nvidia_prebake_driver_kind"), id="unknown kind"),
        pytest.param(
            {"image": CUDA, "version": 5.1}, ("version", "gpu_boot_driver_version", "nvidia_prebake_driver_version"), id="a number"
        ),
    ],
)
def test_an_error_names_the_callers_own_variable_and_no_other(options: dict[str, str], names: tuple[str, ...]) -> None:
    for role, name in zip(("", "gpu_boot", "nvidia_prebake"), names):
        with pytest.raises(InputError, match=f"^{name}: ") as caught:
            reference.wanted(**options, role=role)
        assert [other for other in names[1:] if other != name and other in str(caught.value)] == []


def test_what_is_wanted_has_a_pull_reference_of_its_own() -> None:
    wanted = reference.wanted(CUDA, "mirror.local/aks-gpu-cuda-lts:580.159.04-20260629214430", "cuda-lts", "580.159.04")
    assert (wanted.kind, wanted.version, wanted.pull.repository) == ("cuda", "580.159.04", "mirror.local/aks-gpu-cuda-lts")
    assert reference.wanted(CUDA).pull == reference.wanted(CUDA).image
