"""Small image archives of every kind, for tests."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

LAYER = b"a layer" * 2000
_NAME = "io.containerd.image.name"


def layout(path: Path, *names: str, arch: str = "amd64", os: str = "linux", digests: bool = False, leave_out: str = "") -> Path:
    """An OCI archive with one image for each of ``names`` ("" for one without a name); ``leave_out``: config, layer or manifest."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    entries = []
    for number, name in enumerate(names):
        entry = image_into(files, arch, os, f"image {number}", leave_out)
        if name:
            entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        entries.append(entry)
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return write(path, files)


def image_into(files: dict[str, bytes], arch: str, os: str = "linux", word: str = "", leave_out: str = "") -> dict[str, Any]:
    """Adds an image's blobs to ``files``; returns its descriptor."""
    config = blob_into(files, {"architecture": arch, "os": os, "word": word}, leave_out == "config")
    layer = blob_into(files, LAYER, leave_out == "layer")
    descriptor = blob_into(files, {"schemaVersion": 2, "config": config, "layers": [layer]}, leave_out == "manifest")
    return {**descriptor, "mediaType": "application/vnd.oci.image.manifest.v1+json"}


def multi_platform(path: Path, name: str, *arches: str) -> Path:
    """An OCI archive of one image as an index of several platforms."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    index = blob_into(files, {"schemaVersion": 2, "manifests": [image_into(files, arch) for arch in arches]})
    entry = {**index, "mediaType": "application/vnd.oci.image.index.v1+json", "annotations": {_NAME: name}}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return write(path, files)


def docker(path: Path, *tags: str, arch: str = "amd64", images: int = 1) -> Path:
    """What ``docker save`` wrote until version 24; each of ``images`` has all ``tags``."""
    files: dict[str, bytes] = {"config.json": json.dumps({"architecture": arch, "os": "linux"}).encode(), "layer.tar": LAYER}
    entry = {"Config": "config.json", "RepoTags": list(tags) or None, "Layers": ["layer.tar"]}
    files["manifest.json"] = json.dumps([entry] * images).encode()
    return write(path, files)


def both(path: Path, name: str, layers: int = 1, config: str = "") -> Path:
    """What ``docker save`` of version 25 and later writes: a layout, and a manifest.json about the same blobs; ``layers`` of them and
    another ``config`` make it another image."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    entry = image_into(files, "amd64")
    inner = json.loads(files[blob_path(entry)])
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [{**entry, "annotations": {_NAME: name}}]}).encode()
    item = {"Config": config or blob_path(inner["config"]), "RepoTags": [name], "Layers": [blob_path(inner["layers"][0])] * layers}
    if config:
        files[config] = json.dumps({"architecture": "amd64", "os": "linux", "word": "another"}).encode()
    files["manifest.json"] = json.dumps([item]).encode()
    return write(path, files)


def contents(path: Path) -> dict[str, bytes]:
    """The files of an archive by name, for a changed copy of it."""
    with tarfile.open(path) as tar:
        return {member.name: stream.read() for member in tar if (stream := tar.extractfile(member))}


def imported(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """What containerd makes of an archive: the digest of the one image, and the documents by their digests."""
    files = contents(path)
    if "oci-layout" in files:
        blobs = {name: data for name, data in files.items() if name.startswith("blobs/") and data.startswith(b"{")}
        documents = {f"sha256:{name.rpartition('/')[2]}": json.loads(data) for name, data in blobs.items()}
        return json.loads(files["index.json"])["manifests"][0]["digest"], documents
    config = files[json.loads(files["manifest.json"])[0]["Config"]]
    manifest = {"config": {"digest": f"sha256:{hashlib.sha256(config).hexdigest()}"}}
    digest = f"sha256:{hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}"
    return digest, {digest: manifest}


def blob_path(descriptor: dict[str, Any]) -> str:
    return "blobs/" + descriptor["digest"].replace(":", "/")


def blob_into(files: dict[str, bytes], content: Any, left_out: bool = False) -> dict[str, Any]:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    hexadecimal = hashlib.sha256(data).hexdigest()
    if not left_out:
        files[f"blobs/sha256/{hexadecimal}"] = data
    return {"digest": f"sha256:{hexadecimal}", "size": len(data)}


def write(path: Path, files: Mapping[str, bytes], prefix: str = "", more: Collection[tarfile.TarInfo] = ()) -> Path:
    """An archive of ``files``, then of ``more`` members, which have no contents."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in more:
            tar.addfile(member)
    return path
