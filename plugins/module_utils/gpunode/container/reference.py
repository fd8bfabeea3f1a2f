"""Parses names of driver images: ``<registry>/<path>/aks-gpu-<type>:<driver version>-<14-digit time>[@sha256:…]`` (docs/contract.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..options import IMAGE
from ..util.expressions import expression

KINDS = ("cuda", "grid")
_VERSION = expression(r"\d+(\.\d+){1,2}", re.ASCII)
_TAG = expression(r"(?P<version>\d+(?:\.\d+){1,2})-(?P<built>\d{14})", re.ASCII)
_REFERENCE = expression(
    r"(?P<repository>[a-z0-9][a-z0-9.-]*(?::\d+)?(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class ImageRef:
    """A parsed reference; ``kind`` and ``version`` are None if the name does not contain them."""

    text: str
    repository: str
    tag: str | None
    digest: str | None
    kind: str | None
    version: str | None


def parse(text: Any, what: str = "driver image") -> ImageRef:
    """Parses a fully qualified reference. Raises InputError."""
    if not isinstance(text, str) or not text:
        example = "registry/aks/aks-gpu-cuda:580.126.09-20260430040408"
        raise InputError(f"{what}: a reference such as {example} is needed, got {text!r}")
    match = _REFERENCE.fullmatch(text)
    if not match or not (match["tag"] or match["digest"]):
        raise InputError(
            f"{what}: {text!r} is not a full image reference; give registry/path/name:tag, name@sha256:<64 hex digits>, or both"
        )
    name = match["repository"].rsplit("/", 1)[1]
    tag = match["tag"]
    kind = normal_kind(name[len("aks-gpu-") :]) if name.startswith("aks-gpu-") else None
    version = None
    if tag:
        tag_match = _TAG.fullmatch(tag)
        if tag_match:
            version = tag_match["version"]
        elif name.startswith("aks-gpu-"):
            raise InputError(
                f"{what}: the tag {tag!r} of {text!r} is not <driver version>-<14-digit time>, as in 580.126.09-20260430040408"
            )
    return ImageRef(text, match["repository"], tag, match["digest"], kind, version)


def normal_kind(text: str) -> str | None:
    """``cuda`` or ``grid`` for a driver type such as ``cuda-lts`` or ``grid-v20``; None for any other word."""
    word = text.split("-", 1)[0]
    return word if word in KINDS else None


def check_version(value: Any, what: str = "driver version") -> str:
    """The version as text. Raises InputError, also for a number, because YAML may have shortened it (535.230 becomes 535.23)."""
    if isinstance(value, (int, float)):
        raise InputError(f'{what}: {value!r} is a number, so YAML may have dropped digits: put it in quotes, as in "535.230"')
    if not is_version(value):
        raise InputError(f"{what}: {value!r} is not a driver version of two or three parts, as in 580.126.09")
    return str(value)


def is_version(value: Any) -> bool:
    """Whether it is text of two or three numbers with dots between them."""
    return isinstance(value, str) and bool(_VERSION.fullmatch(value))


def check_kind(value: Any, what: str = "driver kind") -> str:
    """The kind, ``cuda`` or ``grid``, of a kind or driver type. Raises InputError."""
    kind = normal_kind(value) if isinstance(value, str) else None
    if kind is None:
        raise InputError(f"{what}: {value!r} is unknown; known are cuda and grid, and types that begin with one of them, such as cuda-lts")
    return kind


@dataclass(frozen=True)
class DriverWanted:
    """The driver to install: its image, the reference to pull it by, and the kind and version that it must contain."""

    image: ImageRef
    pull: ImageRef
    kind: str
    version: str

    @property
    def pin(self) -> str:
        """The digest that the image must have; "" if neither reference names one."""
        return self.image.digest or self.pull.digest or ""


def wanted(image: Any, pull: Any = None, kind: Any = None, version: Any = None, role: str = "") -> DriverWanted:
    """The driver to install, from the canonical reference, an optional other reference to pull by, kind and version.

    Kind and version must agree with the reference if it contains them, and are needed if it does not. An image with a digest is pulled by
    that digest, also by the other reference. Raises InputError, which names the variable of ``role``, or the module's option if there is no
    role.
    """
    names = {option: IMAGE[option].variable(role) for option in IMAGE}
    reference = parse(image, names["image"])
    pull_reference = _pinned(parse(pull, names["pull_image"]), reference, names["pull_image"]) if pull else reference
    if kind not in (None, ""):
        kind = check_kind(kind, names["kind"])
        if reference.kind and reference.kind != kind:
            raise InputError(f"{names['kind']}: {kind} is asked for, but the image {reference.text} is of kind {reference.kind}")
    if version not in (None, ""):
        version = check_version(version, names["version"])
        if reference.version and reference.version != version:
            raise InputError(f"{names['version']}: {version} is asked for, but the image {reference.text} carries {reference.version}")
    found_kind, found_version = kind or reference.kind, version or reference.version
    if not found_kind:
        raise InputError(f"{names['kind']}: the image name {reference.text} does not contain it: set this to cuda or grid")
    if not found_version:
        raise InputError(f"{names['version']}: the image name {reference.text} does not contain it: set this, in quotes")
    return DriverWanted(reference, pull_reference, found_kind, found_version)


def _pinned(pull: ImageRef, image: ImageRef, what: str) -> ImageRef:
    """The reference to pull by, with the digest of ``image`` if that has one."""
    if not image.digest or pull.digest == image.digest:
        return pull
    if pull.digest:
        raise InputError(f"{what}: {pull.text} has another digest than the image {image.text}: give one digest, or the same")
    return parse(f"{pull.repository}@{image.digest}")
