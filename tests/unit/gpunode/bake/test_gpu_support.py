"""The driver's own list of GPUs in a bake: where it is looked for, and what becomes of one that cannot be used."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import supported_gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.gpu_list import UNKNOWN
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest

from tests.kit import gpu_lists
from tests.kit.bake import bake, builds_newest
from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import VERSION

LIST = gpu_lists.document(*gpu_lists.OLDER)
OTHER = gpu_lists.document(*gpu_lists.NEWER)
IN_IMAGE = f"/opt/gpu/NVIDIA-Linux-x86_64-{VERSION}/supported-gpus/supported-gpus.json"


def has(path: str, data: bytes) -> Any:
    """A driver image whose build also leaves a file."""

    def more(node: FakeNode, _action: str) -> Reply:
        node.put(path).write_bytes(data)
        return Reply(out="done\n", seconds=92)

    return builds_newest(more)


def printed(path: str, data: bytes) -> Reply:
    return Reply(out=f"{path}\n{base64.b64encode(data).decode()}\n")


def asked(node: FakeNode) -> bool:
    return any(argv[4:6] == ["--rm", argv[5]] and "bash" in argv for argv in node.calls if argv[3:4] == ["run"])


def baked(node: FakeNode) -> tuple[Manifest, list[str]]:
    report = bake(node).report
    (layer,) = layers.read_all(node.root)[0]
    assert report["gpus"]["source"] == layer.gpus.source
    return layer, report["warnings"]


@pytest.mark.parametrize(
    ("path", "data"),
    [
        pytest.param(gpu_lists.PATH, LIST.encode(), id="of NVIDIA's installer"),
        pytest.param("usr/share/doc/nvidia-driver/supported-gpus.json.gz", gzip.compress(LIST.encode()), id="of Debian"),
        pytest.param("usr/share/nvidia-580/supported-gpus.json", LIST.encode(), id="below a folder of the driver's"),
    ],
)
def test_a_list_in_the_layer_is_kept_and_the_image_is_not_asked(node: FakeNode, path: str, data: bytes) -> None:
    node.scripts = [has(path, data)]
    layer, warnings = baked(node)
    assert layer.gpus == supported_gpus.read(LIST.encode(), f"/{path}")
    assert (warnings, asked(node)) == ([], False)


@pytest.mark.parametrize(
    "path", ["usr/share/other/supported-gpus.json", "usr/share/doc/nvidia-driver/gpus.json", "opt/supported-gpus.json"]
)
def test_a_file_elsewhere_or_of_another_name_is_no_list(node: FakeNode, path: str) -> None:
    node.scripts = [has(path, LIST.encode())]
    assert baked(node)[0].gpus == UNKNOWN


def test_a_list_in_the_driver_image_is_kept(node: FakeNode) -> None:
    node.scripts = [builds_newest()]
    node.gpu_lists = printed(IN_IMAGE, LIST.encode())
    layer, warnings = baked(node)
    assert layer.gpus == supported_gpus.read(LIST.encode(), f"{IN_IMAGE} in the driver image")
    assert (warnings, asked(node)) == ([], True)


def test_without_a_list_the_manifest_says_none(node: FakeNode) -> None:
    node.scripts = [builds_newest()]
    layer, warnings = baked(node)
    assert (layer.gpus, warnings) == (UNKNOWN, [])
    document = json.loads(layers.path_of(node.root, layer.layer).read_text())
    assert document["gpus"]["source"] == "none"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"{", id="damaged"),
        pytest.param(b" " * (supported_gpus.LARGEST + 1), id="huge"),
        pytest.param(gzip.compress(b" " * (supported_gpus.LARGEST + 1)), id="huge once unpacked"),
    ],
)
def test_a_list_that_cannot_be_used_is_as_none_with_a_warning(node: FakeNode, data: bytes) -> None:
    node.scripts = [has(gpu_lists.PATH, data)]
    layer, (warning,) = baked(node)
    assert layer.gpus == UNKNOWN
    assert warning.startswith(f"/{gpu_lists.PATH}: the driver's list of supported GPUs cannot be used: it is ")
    assert layer.warnings == (warning,)


def test_after_a_list_that_cannot_be_used_the_image_is_asked(node: FakeNode) -> None:
    node.scripts = [has(gpu_lists.PATH, b"{")]
    node.gpu_lists = printed(IN_IMAGE, OTHER.encode())
    layer, warnings = baked(node)
    assert layer.gpus.source == f"{IN_IMAGE} in the driver image"
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        pytest.param(Reply(1, err="exec: bash: not found"), "cannot be searched", id="an image without bash"),
        pytest.param(Reply(out="/x\n!\n"), "cannot be searched", id="no base64"),
        pytest.param(printed(IN_IMAGE, b"{}"), f"{IN_IMAGE} in the driver image: the driver's list", id="no list"),
    ],
)
def test_an_image_that_cannot_be_asked_is_as_one_without_a_list(node: FakeNode, reply: Reply, said: str) -> None:
    node.scripts = [builds_newest()]
    node.gpu_lists = reply
    layer, (warning,) = baked(node)
    assert layer.gpus == UNKNOWN
    assert said in warning
    assert node.containers == []


def test_the_report_names_the_generations_that_the_modules_drive(node: FakeNode) -> None:
    node.scripts = [has(gpu_lists.PATH, gpu_lists.document(gpu_lists.row("2330"), gpu_lists.row("2901", legacy="570.xx")).encode())]
    assert bake(node).report["gpus"]["generations"] == ["turing", "ampere", "grace-hopper", "ada"]
