"""Finds the driver's own list of the GPUs that it supports, for a layer's manifest: in the layer, then in the driver image."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..container import image_files
from ..container.containerd import Containerd
from ..driver import supported_gpus
from ..driver.gpu_list import UNKNOWN, GpuList
from ..errors import CommandError
from ..system.tree import Entry
from ..util import files

_PLACES = ("usr/share/doc/*", "usr/share/nvidia*/*")  # ``*`` also stands for folders in between


def find(containerd: Containerd, reference: str, root: Path, layer: Iterable[Entry]) -> tuple[GpuList, tuple[str, ...]]:
    """The list, ``UNKNOWN`` if there is none, and warnings about files that cannot be used. The ``layer``'s files are below ``root``."""
    warnings: list[str] = []
    candidates = (each for place in (_in_layer(root, layer, warnings), _in_image(containerd, reference, warnings)) for each in place)
    listed = next(_good(candidates, warnings), UNKNOWN)
    return listed, tuple(warnings)


def _good(found: Iterable[tuple[str, bytes]], warnings: list[str]) -> Iterator[GpuList]:
    for source, data in found:
        try:
            yield supported_gpus.read(data, source)
        except ValueError as error:
            warnings.append(_unusable(source, error))


def _in_layer(root: Path, layer: Iterable[Entry], warnings: list[str]) -> Iterator[tuple[str, bytes]]:
    for entry in layer:
        if entry.type == "file" and _is_list(entry.path):
            try:
                yield f"/{entry.path}", files.read_bytes(root / entry.path, supported_gpus.LARGEST, follow=False)
            except OSError as error:
                warnings.append(_unusable(f"/{entry.path}", error))


def _is_list(path: str) -> bool:
    return path.rpartition("/")[2] in supported_gpus.NAMES and any(fnmatch.fnmatchcase(path, place) for place in _PLACES)


def _in_image(containerd: Containerd, reference: str, warnings: list[str]) -> Iterator[tuple[str, bytes]]:
    """Asks the image only when the first file is asked for: that takes a container."""
    try:
        found = image_files.found(containerd, reference, supported_gpus.NAMES, supported_gpus.LARGEST + 1)
    except (CommandError, ValueError) as error:
        warnings.append(f"the driver image cannot be searched for the driver's list of supported GPUs, so the layer has none: {error}")
        return
    for path, data in found:
        yield f"{path} in the driver image", data


def _unusable(source: str, error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else error
    return f"{source}: the driver's list of supported GPUs cannot be used: {said}"
