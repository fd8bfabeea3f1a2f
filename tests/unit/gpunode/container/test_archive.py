"""An image archive is accepted only if it holds exactly the wanted image, undamaged."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import archive as container_archive
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.archive import images_in
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.archive_file import opened
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import ImageError

from tests.kit import archives
from tests.kit.values import IMAGE

TAG = IMAGE.rpartition(":")[2]
OTHER = "registry.lab:5000/other/aks-gpu-cuda:" + TAG
PULLED = "mirror.local/aks/aks-gpu-cuda:" + TAG
Make = Callable[[Path], Path]


def digest_in(path: Path) -> str:
    archive = archives.layout(path, "")
    with opened(str(archive)) as file:
        (image,) = images_in(file)
    return image.digest


def filled(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def check(path: Path, image: str = IMAGE, pull: str | None = None, arch: str = "x86_64") -> None:
    container_archive.check(str(path), reference.wanted(image, pull), arch)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda p: archives.layout(p, IMAGE), id="layout with the full reference"),
        pytest.param(lambda p: archives.layout(p, TAG), id="layout with the tag"),
        pytest.param(lambda p: archives.layout(p, PULLED), id="layout with the reference to pull by"),
        pytest.param(lambda p: archives.multi_platform(p, IMAGE, "arm64", "amd64"), id="index of two platforms"),
        pytest.param(lambda p: archives.docker(p, IMAGE), id="docker archive"),
        pytest.param(lambda p: archives.both(p, IMAGE), id="both formats, about the same image"),
        pytest.param(lambda p: archives.docker(p, PULLED), id="docker archive with the reference to pull by"),
        pytest.param(lambda p: archives.docker(p, IMAGE, PULLED), id="docker archive with both"),
    ],
)
def test_the_wanted_image_is_accepted(tmp_path: Path, make: Make) -> None:
    check(make(tmp_path / "a.tar"), pull=PULLED)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(
            lambda p: archives.layout(p, OTHER), rf"holds {OTHER} with digest \S+ for linux/amd64, but {IMAGE} is wanted", id="other"
        ),
        pytest.param(lambda p: archives.layout(p, "1.2-3"), "holds 1.2-3 with digest", id="other tag"),
        pytest.param(lambda p: archives.docker(p, OTHER), f"holds {OTHER} for linux/amd64, but {IMAGE} is wanted", id="other, docker"),
        pytest.param(lambda p: archives.docker(p, IMAGE, OTHER), f"holds {IMAGE} {OTHER} for", id="another name beside it"),
        pytest.param(lambda p: archives.layout(p, ""), "an image without a name.*: write the reference into the archive", id="nameless"),
        pytest.param(archives.docker, "an image without a name.*: write the reference into the archive", id="nameless, docker"),
        pytest.param(
            lambda p: archives.layout(p, IMAGE, OTHER), rf"holds 2 images \({IMAGE} .*; {OTHER} .*\), but {IMAGE} is wanted", id="two"
        ),
        pytest.param(lambda p: archives.docker(p, IMAGE, images=2), "holds 2 images", id="two, docker"),
        pytest.param(archives.layout, r"holds 0 images \(no image\)", id="none"),
        pytest.param(lambda p: archives.layout(p, IMAGE, arch="arm64"), "for linux/arm64, but linux/amd64 is wanted", id="platform"),
        pytest.param(lambda p: archives.layout(p, IMAGE, os="windows"), "for windows/amd64, but linux/amd64 is wanted", id="system"),
        pytest.param(
            lambda p: archives.docker(p, IMAGE, arch="arm64"), "for linux/arm64, but linux/amd64 is wanted", id="platform, docker"
        ),
        pytest.param(
            lambda p: archives.multi_platform(p, IMAGE, "arm64", "s390x"),
            "for linux/arm64, linux/s390x, but linux/amd64 is wanted",
            id="index",
        ),
        pytest.param(lambda p: archives.layout(p, IMAGE, leave_out="layer"), "is missing: the archive is truncated", id="no layer"),
        pytest.param(lambda p: archives.layout(p, IMAGE, leave_out="config"), "is missing$", id="no config"),
        pytest.param(lambda p: archives.layout(p, IMAGE, leave_out="manifest"), "is missing$", id="no manifest"),
        pytest.param(lambda p: archives.write(p, {"x": b"1"}), "neither oci-layout nor manifest.json", id="some tar file"),
        pytest.param(lambda p: archives.write(p, {"manifest.json": b"{"}), "manifest.json is not valid JSON", id="no JSON"),
        pytest.param(lambda p: archives.write(p, {"manifest.json": b'[{"a": 1}]'}), "list of contents is incomplete", id="no Config"),
        pytest.param(lambda p: archives.write(p, {"manifest.json": b"7"}), "list of contents is incomplete", id="no list"),
        pytest.param(lambda p: p, "cannot be read on this machine", id="missing"),
        pytest.param(lambda p: filled(p, b""), "it is empty", id="empty"),
        pytest.param(lambda p: filled(p, b"text" * 500), "not a tar file", id="text"),
        pytest.param(lambda p: filled(p, gzip.compress(b"x")), "is compressed with gzip: decompress it first", id="gzip"),
    ],
)
def test_anything_else_is_refused_and_says_what_it_is(tmp_path: Path, make: Make, said: str) -> None:
    path = tmp_path / "a.tar"
    with pytest.raises(ImageError, match=said) as caught:
        check(make(path))
    assert caught.value.code == "image_archive"
    assert str(caught.value).startswith(f"image archive {path}: ")


@pytest.mark.parametrize("make", [lambda p: archives.layout(p, IMAGE), lambda p: archives.docker(p, IMAGE)], ids=["layout", "docker"])
def test_cut_off_anywhere_it_is_refused(tmp_path: Path, make: Make) -> None:
    whole = make(tmp_path / "whole.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    for length in range(0, end, 512):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            check(path)


def test_a_damaged_part_is_refused(tmp_path: Path) -> None:
    path = archives.layout(tmp_path / "a.tar", IMAGE)
    data = path.read_bytes()
    path.write_bytes(data.replace(archives.LAYER, b"X" + archives.LAYER[1:]))
    with pytest.raises(ImageError, match="does not have the contents that its name says"):
        check(path)


def test_a_digest_says_more_than_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    found = digest_in(path)
    check(archives.layout(path, ""), f"{IMAGE}@{found}")
    check(archives.layout(path, OTHER), f"{IMAGE}@{found}")
    check(archives.layout(path, OTHER), IMAGE, pull=f"mirror.local/x/y@{found}")
    with pytest.raises(ImageError, match=f"holds {re.escape(IMAGE)} with digest {found}"):
        check(archives.layout(path, IMAGE), f"{IMAGE}@sha256:{'0' * 64}")
    with pytest.raises(ImageError, match=r"a docker archive, which has no digest.*create an OCI archive"):
        check(archives.docker(path, IMAGE), f"{IMAGE}@{found}")


def changed(path: Path, changes: dict[str, bytes | None], **options: Any) -> Path:
    """An archive of the wanted image with other contents of some files; None leaves a file out."""
    files = {**archives.contents(archives.layout(path, IMAGE)), **changes}
    return archives.write(path, {name: data for name, data in files.items() if data is not None}, **options)


def relettered(path: Path, old: bytes, new: bytes, more: bytes = b"") -> Path:
    """An archive whose index.json has ``new`` for the key ``old``, and ``more`` before it."""
    index = archives.contents(archives.layout(path, IMAGE))["index.json"]
    assert old in index
    return changed(path, {"index.json": index.replace(old, more + new, 1)})


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **pax: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.pax_headers = kind, target, pax
    return made


EMPTY_INDEX = b'{"schemaVersion": 2, "manifests": []}'


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda p: changed(p, {"x/../index.json": EMPTY_INDEX}), "x/../index.json: not a plain name", id="a name with dots"),
        pytest.param(lambda p: changed(p, {"./index.json": EMPTY_INDEX}), "index.json: it is there twice", id="a file that is there twice"),
        pytest.param(lambda p: changed(p, {"x//y": b""}), "x//y: not a plain name", id="an empty part of a name"),
        pytest.param(lambda p: changed(p, {"/index.json": EMPTY_INDEX}), "/index.json: not a plain name", id="an absolute name"),
        pytest.param(lambda p: changed(p, {}, more=[member("x", tarfile.SYMTYPE, "index.json")]), "x: a link", id="a link"),
        pytest.param(lambda p: changed(p, {}, more=[member("x", tarfile.LNKTYPE, "index.json")]), "x: a link", id="a hard link"),
        pytest.param(lambda p: changed(p, {}, more=[member("x", tarfile.FIFOTYPE)]), "x: not a plain file", id="a pipe"),
        pytest.param(lambda p: changed(p, {}, more=[member("x", tarfile.CONTTYPE)]), "x: not a plain file", id="a contiguous file"),
        pytest.param(
            lambda p: changed(p, {}, more=[member("y", **{"GNU.sparse.name": "index.json"})]), "index.json: it is there", id="another name"
        ),
        pytest.param(
            lambda p: changed(p, {}, more=[member("y", **{"GNU.sparse.name": "z"})]), "z: not a plain file", id="a name of a sparse file"
        ),
        pytest.param(lambda p: relettered(p, b'"manifests"', b'"Manifests"'), "the key Manifests", id="a key in capitals"),
        pytest.param(
            lambda p: relettered(p, b'"manifests"', b'"manifests"', b'"MANIFESTS": [], '),
            "the key MANIFESTS",
            id="keys that differ by case",
        ),
        pytest.param(
            lambda p: relettered(p, b'"manifests"', b'"manifests"', '"manife\u017fts": [], '.encode()),
            "the key manife\\u017fts",
            id="a letter that Go takes for an s",
        ),
        pytest.param(lambda p: relettered(p, b'"digest"', b'"Digest"', b'"digest": "x", '), "the key Digest", id="in a descriptor"),
        pytest.param(lambda p: relettered(p, b'"manifests"', b'"manifests"', b'"manifests": [], '), "is there twice", id="one key twice"),
        pytest.param(lambda p: relettered(p, b'"digest": "sha256:', b'"digest": "sha512:'), "not a digest", id="another algorithm"),
        pytest.param(lambda p: changed(p, {"oci-layout": b"{}"}), "oci-layout has no version 1.0.0", id="no version"),
        pytest.param(lambda p: changed(p, {"oci-layout": b'{"imageLayoutVersion": "2.0.0"}'}), "oci-layout has no version", id="another"),
        pytest.param(lambda p: changed(p, {"oci-layout": b'{"ImageLayoutVersion": "1.0.0"}'}), "the key ImageLayout", id="in capitals"),
        pytest.param(lambda p: archives.both(p, IMAGE, config="other.json"), "two images that are not the same", id="two configs"),
        pytest.param(lambda p: archives.both(p, IMAGE, layers=2), "two images that are not the same", id="other layers"),
        pytest.param(
            lambda p: changed(p, {"manifest.json": b"[]"}), "two images that are not the same", id="an empty list beside the layout"
        ),
        pytest.param(lambda p: changed(p, {"index.json": b"[" * 100_000}), "not valid JSON", id="deep JSON"),
    ],
)
def test_what_containerd_could_read_as_another_image_is_refused(tmp_path: Path, make: Make, said: str) -> None:
    with pytest.raises(ImageError, match=re.escape(said)) as caught:
        check(make(tmp_path / "a.tar"))
    assert caught.value.code == "image_archive"


def test_a_document_is_an_index_or_a_manifest(tmp_path: Path) -> None:
    files = archives.contents(archives.layout(tmp_path / "a.tar", IMAGE))
    entry = json.loads(files["index.json"])["manifests"][0]
    inner = json.loads(files[archives.blob_path(entry)])
    files["index.json"] = json.dumps({"manifests": [{**entry, **archives.blob_into(files, {**inner, "manifests": []})}]}).encode()
    with pytest.raises(ImageError, match="is both an index and a manifest"):
        check(archives.write(tmp_path / "a.tar", files))


def test_a_global_header_renames_nothing(tmp_path: Path) -> None:
    """Python's tarfile takes it for every member that follows, Go's for none."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "index.json"}) as tar:
        tar.addfile(member("x"))
    with pytest.raises(ImageError, match="a header for all files"):
        check(tmp_path / "a.tar")


def test_an_archive_says_what_was_checked(tmp_path: Path) -> None:
    path = archives.layout(tmp_path / "a.tar", IMAGE)
    target, documents = archives.imported(path)
    found = container_archive.check(str(path), reference.wanted(IMAGE), "x86_64")
    assert (found.digest, found.config_digest) == (target, documents[target]["config"]["digest"])
    path = archives.docker(tmp_path / "b.tar", IMAGE)
    target, documents = archives.imported(path)
    found = container_archive.check(str(path), reference.wanted(IMAGE), "x86_64")
    assert (found.digest, found.config_digest, found.names) == ("", documents[target]["config"]["digest"], (IMAGE,))


def test_names_may_begin_with_the_folder_of_the_archive(tmp_path: Path) -> None:
    files = {"config.json": b'{"os": "linux", "architecture": "amd64"}', "layer.tar": b"x"}
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    check(archives.write(tmp_path / "a.tar", files, prefix="./"))


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_layer_of_a_docker_archive_may_be_a_link_to_another(tmp_path: Path, target: str) -> None:
    """containerd follows the links that Docker writes for a layer that an image has twice."""
    path = tmp_path / "a.tar"
    files = archives.contents(archives.docker(path, IMAGE))
    listed = json.loads(files["manifest.json"])
    to = {"there": listed[0]["Layers"][0], "nowhere": "elsewhere/layer.tar"}[target]
    listed[0]["Layers"].append("again/layer.tar")
    archives.write(
        path, {**files, "manifest.json": json.dumps(listed).encode()}, more=[member("again/layer.tar", tarfile.SYMTYPE, f"../{to}")]
    )
    if target == "there":
        check(path)
        return
    with pytest.raises(ImageError, match=r"elsewhere/layer\.tar is missing"):
        check(path)
