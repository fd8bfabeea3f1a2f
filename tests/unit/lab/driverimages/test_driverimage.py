"""The driver images' table of recipes, references, build arguments and reproducible layers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab.driverimages import driverimage, driverparts, ocilayout, publicparts
from lab.machine.errors import LabError

NAMES = (
    "nvidia",
    "nvidia-strict",
    "standin",
    "standin-accept-no-device",
    "standin-build-fails",
    "standin-build-hangs",
    "standin-build-hangs-once",
    "standin-changes-distribution",
    "standin-deletes-library",
    "standin-fills-disk",
    "standin-grid",
    "standin-mixed-builds",
    "standin-no-build-only",
    "standin-other-version",
    "standin-proprietary",
    "standin-public",
    "standin-refuses-skip",
)


def test_table_has_every_image() -> None:
    assert sorted(driverimage.RECIPES) == sorted(NAMES)


def test_an_unknown_image_is_refused_with_the_known_names() -> None:
    with pytest.raises(LabError, match=r"no driver image 'standing'; there are: standin, "):
        driverimage.find("standing")


@pytest.mark.parametrize("name", NAMES)
def test_reference_follows_the_contract(name: str) -> None:
    recipe = driverimage.find(name)
    got = driverimage.reference(recipe, recipe.version or "535.309.01")
    pattern = rf"registry\.lab:5000/{name}/aks-gpu-(cuda|grid)(-[a-z0-9]+)?:\d+(\.\d+){{1,2}}-\d{{14}}"
    assert re.fullmatch(pattern, got)


@pytest.mark.parametrize(("type_", "kind"), [("cuda", "cuda"), ("cuda-lts", "cuda"), ("grid", "grid"), ("grid-v20", "grid")])
def test_kind_is_the_first_word_of_the_type(type_: str, kind: str) -> None:
    assert driverimage.Recipe("x", type=type_).kind == kind


@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param("standin", "DRIVER_VERSION=580.126.09", id="version"),
        pytest.param("standin", "KNOWN_ACTIONS='copy install build-only install-skip-build'", id="all actions"),
        pytest.param("standin", "LICENSE='Dual MIT/GPL'", id="licence"),
        pytest.param("standin-proprietary", "LICENSE=NVIDIA", id="other licence"),
        pytest.param("standin-other-version", "DRIVER_VERSION=550.90.07", id="other version"),
        pytest.param("standin-grid", "DRIVER_KIND=grid", id="kind"),
        pytest.param("standin-no-build-only", "KNOWN_ACTIONS='copy install'", id="older image"),
        pytest.param("standin-refuses-skip", "REFUSE_SKIP=1", id="own check refuses"),
        pytest.param("standin-build-hangs", "FAULT=hang", id="fault"),
        pytest.param("nvidia", "ACCEPT_NO_DEVICE=1", id="waiver"),
        pytest.param("nvidia-strict", "ACCEPT_NO_DEVICE=0", id="no waiver"),
    ],
)
def test_config_sh_shows_the_build_arguments(name: str, line: str) -> None:
    recipe = driverimage.find(name)
    assert line in driverimage.config_sh(recipe, recipe.version or "535.309.01").splitlines()


def test_labels_say_which_image_is_a_standin() -> None:
    recipe = driverimage.find("standin")
    labels = driverimage.labels(recipe, recipe.version)
    assert labels["gpu-prebake.lab.standin"] == "1"
    assert "stand-in" in labels["org.opencontainers.image.description"]


def test_image_has_no_entrypoint_because_ctr_would_put_it_before_the_command() -> None:
    config = ocilayout.image_config(["sha256:0"], {}, ["/entrypoint.sh"])["config"]
    assert "Entrypoint" not in config
    assert config["Cmd"] == ["/entrypoint.sh"]


def test_compile_fault_is_in_the_module_header() -> None:
    assert "STANDIN_FAULT_COMPILE" in driverparts.config_header("NVIDIA", "compile")
    assert "STANDIN_FAULT_COMPILE" not in driverparts.config_header("NVIDIA", "hang")


@pytest.mark.parametrize(("kind", "end"), [("cuda", ""), ("grid", "-grid-azure")])
def test_the_public_images_folder_of_the_installer_is_named_after_kind_and_version(kind: str, end: str) -> None:
    assert publicparts.runfile("580.126.09", kind) == f"NVIDIA-Linux-x86_64-580.126.09{end}"


def test_the_public_images_configuration_names_the_toolkits_packages() -> None:
    assert publicparts.config_sh("580.126.09", "cuda").splitlines() == [
        "DRIVER_VERSION=580.126.09",
        "DRIVER_KIND=cuda",
        "NVIDIA_CONTAINER_TOOLKIT_VER=1.17.8-1",
        "NVIDIA_PACKAGES='libnvidia-container1 libnvidia-container-tools nvidia-container-toolkit-base nvidia-container-toolkit'",
        "GPU_DEST=/usr/bin/lib64",
    ]


def _tree(folder: Path) -> Path:
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/bin/tool").write_text("#!/bin/sh\n")
    (folder / "usr/bin/tool").chmod(0o4755)
    (folder / "usr/bin/link").symlink_to("tool")
    return folder


def test_same_files_make_the_same_image(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        layer = tmp_path / name
        layer.mkdir()
        ocilayout.write_layer(_tree(tmp_path / f"tree-{name}"), layer)
        written.append(ocilayout.write_layout(tmp_path / f"layout-{name}", "1", [layer], {"x": "y"}, ["/x"]))
    assert written[0] == written[1]
    index = json.loads((tmp_path / "layout-a/index.json").read_text())
    assert index["manifests"][0]["digest"] == written[0].digest
