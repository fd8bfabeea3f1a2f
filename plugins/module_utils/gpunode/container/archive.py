"""Checks an image archive before the import: whether the tar file holds exactly the wanted driver image, undamaged.

Formats: OCI image layout (oci-layout, index.json, blobs/<algorithm>/<hex>) as a tar file, and what ``docker save`` writes
(manifest.json with Config, RepoTags, Layers). A file with both, as newer Docker versions write, is read as a layout; so does containerd.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..util import jsondoc
from ..util.bounded import cut
from .containerd import OCI_ARCH
from .reference import DriverWanted

_CHUNK = 1 << 20
_MAX_DOCUMENT = 4 << 20  # the limit of registries for a manifest
_MAX_MEMBERS = 100_000
_NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_MAX_NAME = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd", b"BZh": "bzip2"}
_INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
# containerd's annotation holds the full name; OCI's often holds a tag only.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class ArchivedImage:
    """One image in an archive: its names (full references or bare tags), its digest ("" in a docker archive, which has none),
    its platforms as ``os/architecture``, and the paths in the archive of all its parts."""

    names: tuple[str, ...]
    digest: str
    platforms: tuple[str, ...]
    parts: tuple[str, ...]


class _Archive:
    def __init__(self, path: str, tar: tarfile.TarFile) -> None:
        self.path = path
        self.tar = tar
        self.members = {m.name[2:] if m.name.startswith("./") else m.name: m for m in _members(tar) if m.isfile() or m.islnk() or m.issym()}

    def document(self, name: str) -> Any:
        member = self.members.get(name)
        stream = self.tar.extractfile(member) if member and member.size <= _MAX_DOCUMENT else None
        if stream is None:
            raise _invalid(self.path, f"{name} is missing")
        try:
            return jsondoc.parse(stream.read(), _MAX_DOCUMENT)
        except ValueError as error:
            raise _invalid(self.path, f"{name} is not valid JSON ({error})") from error

    def images(self) -> Iterator[ArchivedImage]:
        if "oci-layout" in self.members:
            for entry in self.document("index.json")["manifests"]:
                yield self._of_layout(entry)
        elif "manifest.json" in self.members:
            for entry in self.document("manifest.json"):
                config = self.document(entry["Config"])
                platform = f"{config.get('os')}/{config.get('architecture')}"
                yield ArchivedImage(tuple(entry.get("RepoTags") or ()), "", (platform,), (entry["Config"], *entry["Layers"]))
        else:
            raise _invalid(self.path, "it holds neither oci-layout nor manifest.json")

    def _of_layout(self, entry: dict[str, Any]) -> ArchivedImage:
        annotations = entry.get("annotations") or {}
        names = tuple(dict.fromkeys(annotations[key] for key in _NAMES if annotations.get(key)))
        # If there is a full name, the tag beside it adds nothing.
        names = tuple(name for name in names if "/" in name) or names
        digest = entry["digest"]
        manifests = [digest]
        if entry.get("mediaType") in _INDEX_TYPES:
            manifests = [m["digest"] for m in self.document(_blob(digest)).get("manifests", []) if _blob(m["digest"]) in self.members]
        parts, platforms = [_blob(digest)], []
        for one in manifests:
            document = self.document(_blob(one))
            config = self.document(_blob(document["config"]["digest"]))
            platforms.append(f"{config.get('os')}/{config.get('architecture')}")
            parts += [_blob(one), _blob(document["config"]["digest"]), *(_blob(layer["digest"]) for layer in document["layers"])]
        return ArchivedImage(names, digest, tuple(platforms), tuple(parts))

    def check_parts(self, image: ArchivedImage) -> None:
        """Checks that each part is there and has the digest in its name. containerd checks a docker archive's layers as it unpacks them."""
        for name in image.parts:
            member = self.members.get(name)
            if member is None:
                raise _invalid(self.path, f"{name} is missing: the archive is truncated or incomplete")
            stream = self.tar.extractfile(member)
            if not name.startswith("blobs/sha256/") or stream is None:
                continue
            digest = hashlib.sha256()
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
            if digest.hexdigest() != name.rpartition("/")[2]:
                raise _invalid(self.path, f"{name} does not have the contents that its name says: the archive is damaged")


class _Member(tarfile.TarInfo):
    """A member of an archive; one whose name alone would fill the memory is refused."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _NAMING and self.size > _MAX_NAME:
            raise tarfile.ReadError(f"a name or an attribute of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


def _members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """All members, of which an image has some dozen. Reading all headers to the end detects a truncated file."""
    found: list[tarfile.TarInfo] = []
    for member in tar:
        found.append(member)
        if len(found) > _MAX_MEMBERS:
            raise tarfile.ReadError(f"it has more than {_MAX_MEMBERS} members")
    return found


def check(path: str, wanted: DriverWanted, arch: str) -> None:
    """Raises ImageError, which names what the archive holds and what is wanted, unless it holds exactly the wanted image for ``arch``."""
    try:
        with _opened(path) as tar:
            archive = _Archive(path, tar)
            images = list(archive.images())
            _check_image(path, images, wanted, f"linux/{OCI_ARCH.get(arch, arch)}")
            archive.check_parts(images[0])
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise _invalid(path, f"it is truncated or not a tar file ({error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise _invalid(path, f"its list of contents is incomplete or malformed ({cut(repr(error))})") from error


def _opened(path: str) -> tarfile.TarFile:
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(8)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise _invalid(path, f"it cannot be read on this machine ({error.strerror})") from error
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise _invalid(path, f"it is compressed with {name}: decompress it first, because containerd reads plain tar files only")
    if not size:
        raise _invalid(path, "it is empty")
    return tarfile.open(path, "r:", tarinfo=_Member)


def _check_image(path: str, images: list[ArchivedImage], wanted: DriverWanted, platform: str) -> None:
    held = "; ".join(_shown(image) for image in images) or "no image"
    needed = wanted.image.text + (f" (or {wanted.pull.text})" if wanted.pull.text != wanted.image.text else "")
    if len(images) != 1:
        raise _invalid(path, f"it holds {len(images)} images ({held}), but {needed} is wanted: create an archive of that image alone")
    image = images[0]
    digests = {ref.digest for ref in (wanted.image, wanted.pull) if ref.digest}
    if digests:  # a digest identifies the image, whatever its name
        if not image.digest:
            raise _invalid(path, f"it is a docker archive, which has no digest, but {needed} is wanted: create an OCI archive ({_HOW})")
        if image.digest not in digests:
            raise _invalid(path, f"it holds {held}, but {needed} is wanted")
    elif not image.names:
        raise _invalid(path, f"it holds {held}, but {needed} is wanted: write the reference into the archive ({_HOW})")
    elif set(image.names) - {wanted.image.text, wanted.pull.text, wanted.image.tag}:
        raise _invalid(path, f"it holds {held}, but {needed} is wanted")
    if platform not in image.platforms:
        raise _invalid(path, f"it holds {held}, but {platform} is wanted")


_HOW = "skopeo copy docker://REFERENCE oci-archive:FILE:REFERENCE"


def _shown(image: ArchivedImage) -> str:
    name = " ".join(image.names) or "an image without a name"
    return f"{name}{' with digest ' + image.digest if image.digest else ''} for {', '.join(image.platforms) or 'no platform'}"


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _invalid(path: str, why: str) -> ImageError:
    return ImageError(f"image archive {path}: {why}", code="image_archive")
