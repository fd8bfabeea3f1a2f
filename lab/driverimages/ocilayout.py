"""Writes container images as OCI layouts; the same files always give the same bytes.

Formats: OCI image specification 1.0 (layout, index, manifest, config, gzip layers); layers are GNU tar.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

EPOCH_S = 1780272000  # 2026-06-01 00:00 UTC: the time of every file and image, so that builds are reproducible
COMPRESSION = 5
LAYER_FILE = "layer.tar.gz"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Layer:
    """One layer: digest and size (bytes) of the compressed file, digest of the tar inside."""

    digest: str
    diff_id: str
    size: int


@dataclass(frozen=True)
class Written:
    """Digests of an image's manifest and config."""

    digest: str
    config_digest: str


class _Hashing:
    """A writable file that hashes what is written to it."""

    def __init__(self, inner: IO[bytes]) -> None:
        self.inner = inner
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.inner.write(data)

    def flush(self) -> None:
        self.inner.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256.hexdigest()}"


def write_layer(tree: Path, folder: Path) -> Layer:
    """Pack the folders, files and links below `tree` into a layer in `folder`, owned by root; devices and sockets are left out.

    Modes are kept, setuid bits included. `read_layer(folder)` returns the same layer later.
    """
    with (folder / LAYER_FILE).open("wb") as file:
        compressed = _Hashing(file)
        # An empty file name and a fixed time: gzip would store both.
        with gzip.GzipFile("", "wb", COMPRESSION, cast(IO[bytes], compressed), mtime=EPOCH_S) as packed:
            plain = _Hashing(cast(IO[bytes], packed))
            with tarfile.open(fileobj=cast(IO[bytes], plain), mode="w|", format=tarfile.GNU_FORMAT) as tar:
                for path in _walk(tree):
                    _add(tar, path, path.relative_to(tree))
    layer = Layer(compressed.digest, plain.digest, (folder / LAYER_FILE).stat().st_size)
    (folder / "layer.json").write_text(json.dumps(asdict(layer)))
    return layer


def read_layer(folder: Path) -> Layer:
    """The layer that `write_layer` left in `folder`."""
    return Layer(**json.loads((folder / "layer.json").read_text()))


def write_layout(layout: Path, tag: str, layers: Sequence[Path], labels: Mapping[str, str], command: Sequence[str]) -> Written:
    """Make an OCI layout with one image of the layers in the folders `layers`, the lowest first (their files are hard-linked)."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    found = [read_layer(folder) for folder in layers]
    for folder, layer in zip(layers, found):
        _link(folder / LAYER_FILE, blobs / layer.digest.partition(":")[2])
    config = _blob(blobs, CONFIG_TYPE, image_config([layer.diff_id for layer in found], labels, command))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in found],
    }
    descriptor = _blob(blobs, MANIFEST_TYPE, manifest)
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return Written(str(descriptor["digest"]), str(config["digest"]))


def image_config(diff_ids: Sequence[str], labels: Mapping[str, str], command: Sequence[str]) -> dict[str, Any]:
    """The image's config. It has no entrypoint, because `ctr run` would put that in front of the command it is given."""
    return {
        "created": "2026-06-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": list(command),
            "Labels": dict(sorted(labels.items())),
        },
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }


def _walk(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _add(tar: tarfile.TarFile, path: Path, name: Path) -> None:
    status = path.lstat()
    entry = tarfile.TarInfo(str(name))
    entry.mode, entry.mtime, entry.uname, entry.gname = stat.S_IMODE(status.st_mode), EPOCH_S, "root", "root"
    if stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
        tar.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.size = status.st_size
        with path.open("rb") as data:
            tar.addfile(entry, data)


def _blob(blobs: Path, media_type: str, content: Mapping[str, Any]) -> dict[str, Any]:
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


def _link(source: Path, target: Path) -> None:
    if not target.exists():  # two layers may be equal
        os.link(source, target)
