"""Checks an image archive before the import: whether the tar file holds exactly the wanted driver image, undamaged.

Formats: OCI image layout (oci-layout, index.json, blobs/<algorithm>/<hex>) as a tar file, and what ``docker save`` writes
(manifest.json with Config, RepoTags, Layers). Newer Docker versions write both; containerd reads the layout, and both must be the same
image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..util.bounded import cut
from ..util.expressions import expression
from .archive_file import HOW, ArchiveFile, invalid, opened
from .containerd import OCI_ARCH
from .reference import DriverWanted

_VERSION = "1.0.0"  # containerd takes a layout without this version for a docker archive
_INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
# containerd's annotation holds the full name; OCI's often holds a tag only.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DIGEST = expression(r"sha256:[0-9a-f]{64}")
_DESCRIPTOR = ("mediaType", "digest", "size", "platform", "annotations")
_MANIFEST = ("schemaVersion", "mediaType", "manifests", "config", "layers")


@dataclass(frozen=True)
class _Variant:
    """An image for one platform, ``os/architecture``: the paths in the archive of its config and its layers."""

    platform: str
    config: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class ArchivedImage:
    """One image in an archive: its names (full references or bare tags), its digest ("" in a docker archive, which has none), its
    variants, and the paths in the archive of its index and manifests."""

    names: tuple[str, ...]
    digest: str
    variants: tuple[_Variant, ...]
    documents: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        return tuple(variant.platform for variant in self.variants)

    @property
    def parts(self) -> tuple[str, ...]:
        """The paths of everything that the image consists of."""
        return (*self.documents, *(path for variant in self.variants for path in (variant.config, *variant.layers)))


@dataclass(frozen=True)
class Checked:
    """What an archive holds: the names that containerd may give the image, its digest ("" in a docker archive) and its config's."""

    names: tuple[str, ...]
    digest: str
    config_digest: str


def check(path: str, wanted: DriverWanted, arch: str) -> Checked:
    """What the archive holds, to be compared with what an import gives. Raises ImageError, which names what the archive holds and what is
    wanted, unless that is exactly the wanted image for ``arch``."""
    platform = f"linux/{OCI_ARCH.get(arch, arch)}"
    with opened(path) as archive:
        try:
            images = list(images_in(archive))
            _check_image(path, images, wanted, platform)
            _check_parts(archive, images[0])
            config = next(variant.config for variant in images[0].variants if variant.platform == platform)
            return Checked(images[0].names, images[0].digest, archive.digest(config))
        except (KeyError, TypeError, AttributeError) as error:
            raise invalid(path, f"its list of contents is incomplete or malformed ({cut(repr(error))})") from error


def images_in(archive: ArchiveFile) -> Iterator[ArchivedImage]:
    """The images in an archive. Raises ImageError if it has both formats, and they are not the same image."""
    if "oci-layout" in archive:
        if archive.links:
            raise invalid(archive.path, f"{min(archive.links)}: a link, which containerd leaves out of a layout: use {HOW}")
        if archive.document("oci-layout", "imageLayoutVersion").get("imageLayoutVersion") != _VERSION:
            raise invalid(archive.path, f"oci-layout has no version {_VERSION}, so containerd does not read the layout: use {HOW}")
        index = archive.document("index.json", *_MANIFEST)
        found = [_of_layout(archive, entry) for entry in index["manifests"]]
        yield from _same(archive, found) if "manifest.json" in archive else found
    elif "manifest.json" in archive:
        yield from _of_docker(archive)
    else:
        raise invalid(archive.path, "it holds neither oci-layout nor manifest.json")


def _of_docker(archive: ArchiveFile) -> Iterator[ArchivedImage]:
    for item in archive.json("manifest.json"):
        entry = archive.require_object(item, "manifest.json", "Config", "RepoTags", "Layers")
        layers = tuple(archive.links.get(name, name) for name in entry["Layers"])
        yield ArchivedImage(tuple(entry.get("RepoTags") or ()), "", (_variant(archive, entry["Config"], layers),))


def _of_layout(archive: ArchiveFile, item: Any) -> ArchivedImage:
    entry = archive.require_object(item, "index.json", *_DESCRIPTOR)
    annotations = entry.get("annotations") or {}
    names = tuple(dict.fromkeys(annotations[key] for key in _NAMES if annotations.get(key)))
    # If there is a full name, the tag beside it adds nothing.
    names = tuple(name for name in names if "/" in name) or names
    top = _blob(archive, entry)
    manifests = [top]
    if entry.get("mediaType") in _INDEX_TYPES:
        inner = archive.document(top, *_MANIFEST).get("manifests", [])
        blobs = [_blob(archive, archive.require_object(one, top, *_DESCRIPTOR)) for one in inner]
        manifests = [blob for blob in blobs if blob in archive]
    variants = tuple(_of_manifest(archive, manifest) for manifest in manifests)
    return ArchivedImage(names, entry["digest"], variants, tuple(dict.fromkeys((top, *manifests))))


def _of_manifest(archive: ArchiveFile, path: str) -> _Variant:
    document = archive.document(path, *_MANIFEST)
    if "manifests" in document:
        raise invalid(archive.path, f"{path} is both an index and a manifest: use {HOW}")
    config, *layers = (_blob(archive, archive.require_object(one, path, *_DESCRIPTOR)) for one in (document["config"], *document["layers"]))
    return _variant(archive, config, tuple(layers))


def _variant(archive: ArchiveFile, path: str, layers: tuple[str, ...]) -> _Variant:
    config = archive.document(path, "os", "architecture")
    return _Variant(f"{config.get('os')}/{config.get('architecture')}", path, layers)


def _same(archive: ArchiveFile, found: list[ArchivedImage]) -> list[ArchivedImage]:
    """The one image of an archive that has both formats, with the names of both."""
    beside = list(_of_docker(archive))
    if len(found) != 1 or len(beside) != 1 or beside[0].variants[0] not in found[0].variants:
        raise invalid(archive.path, f"its index.json and its manifest.json are of two images that are not the same: use {HOW}")
    names = tuple(dict.fromkeys((*found[0].names, *beside[0].names)))
    return [ArchivedImage(names, found[0].digest, found[0].variants, found[0].documents)]


def _check_parts(archive: ArchiveFile, image: ArchivedImage) -> None:
    """Checks that each part is there and has the digest in its name. containerd checks a docker archive's layers as it unpacks them."""
    for name in image.parts:
        if name not in archive:
            raise invalid(archive.path, f"{name} is missing: the archive is truncated or incomplete")
        if name.startswith("blobs/sha256/") and archive.digest(name) != name.replace("blobs/sha256/", "sha256:"):
            raise invalid(archive.path, f"{name} does not have the contents that its name says: the archive is damaged")


def _check_image(path: str, images: list[ArchivedImage], wanted: DriverWanted, platform: str) -> None:
    held = "; ".join(_shown(image) for image in images) or "no image"
    needed = wanted.image.text + (f" (or {wanted.pull.text})" if wanted.pull.text != wanted.image.text else "")
    if len(images) != 1:
        raise invalid(path, f"it holds {len(images)} images ({held}), but {needed} is wanted: create an archive of that image alone")
    image = images[0]
    if wanted.pin:  # a digest identifies the image, whatever its name
        if not image.digest:
            raise invalid(path, f"it is a docker archive, which has no digest, but {needed} is wanted: create an OCI archive ({HOW})")
        if image.digest != wanted.pin:
            raise invalid(path, f"it holds {held}, but {needed} is wanted")
    elif not image.names:
        raise invalid(path, f"it holds {held}, but {needed} is wanted: write the reference into the archive ({HOW})")
    elif set(image.names) - {wanted.image.text, wanted.pull.text, wanted.image.tag}:
        raise invalid(path, f"it holds {held}, but {needed} is wanted")
    if platform not in image.platforms:
        raise invalid(path, f"it holds {held}, but {platform} is wanted")


def _shown(image: ArchivedImage) -> str:
    name = " ".join(image.names) or "an image without a name"
    return f"{name}{' with digest ' + image.digest if image.digest else ''} for {', '.join(image.platforms) or 'no platform'}"


def _blob(archive: ArchiveFile, descriptor: dict[str, Any]) -> str:
    digest = descriptor["digest"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise invalid(archive.path, f"{str(digest)[:80]!r} is not a digest of the form sha256:<64 hex digits>: use {HOW}")
    return "blobs/" + digest.replace(":", "/")
