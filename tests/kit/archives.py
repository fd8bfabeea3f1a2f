"""Small image archives of every kind, for tests."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LAYER = b"a layer" * 2000


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
    entry = {**index, "mediaType": "application/vnd.oci.image.index.v1+json", "annotations": {"io.containerd.image.name": name}}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return write(path, files)


def docker(path: Path, *tags: str, arch: str = "amd64", images: int = 1) -> Path:
    """What ``docker save`` wrote until version 24; each of ``images`` has all ``tags``."""
    files: dict[str, bytes] = {"config.json": json.dumps({"architecture": arch, "os": "linux"}).encode(), "layer.tar": LAYER}
    entry = {"Config": "config.json", "RepoTags": list(tags) or None, "Layers": ["layer.tar"]}
    files["manifest.json"] = json.dumps([entry] * images).encode()
    return write(path, files)


def blob_into(files: dict[str, bytes], content: Any, left_out: bool = False) -> dict[str, Any]:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    hexadecimal = hashlib.sha256(data).hexdigest()
    if not left_out:
        files[f"blobs/sha256/{hexadecimal}"] = data
    return {"digest": f"sha256:{hexadecimal}", "size": len(data)}


def write(path: Path, files: Mapping[str, bytes], prefix: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
