"""Names of driver images."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import imageref
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import InputError

CUDA = "mcr.microsoft.com/aks/aks-gpu-cuda-lts:580.159.04-20260629214430"


def test_takes_a_reference_apart() -> None:
    found = imageref.parse(CUDA)
    assert (found.repository, found.kind, found.version) == ("mcr.microsoft.com/aks/aks-gpu-cuda-lts", "cuda", "580.159.04")


@pytest.mark.parametrize(
    "text",
    ["", None, 7, "aks-gpu-cuda", "UPPER/x:1", "reg/aks-gpu-cuda:535", "reg/aks-gpu-cuda:latest", "reg/x y:1", "reg/x:1@sha256:ab"],
)
def test_refuses_what_is_no_reference(text: object) -> None:
    with pytest.raises(InputError):
        imageref.parse(text)


def test_a_number_is_a_version_that_yaml_has_shortened() -> None:
    with pytest.raises(InputError, match="put it in quotes"):
        imageref.check_version(535.23)


def test_kind_and_name_must_agree() -> None:
    with pytest.raises(InputError, match="of kind cuda"):
        imageref.wanted(CUDA, kind="grid-v20")
