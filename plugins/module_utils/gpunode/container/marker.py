"""Reads the marker: the ``key=value`` file that a driver container writes after every build (docs/contract.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..options import BOOT
from ..system.host import normal_arch
from ..util import trust
from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import read_bytes
from .reference import normal_kind

DEFAULT_PATH: str = BOOT["marker_path"].default
_SAFE = expression(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*")
_LIMIT = 16384


@dataclass(frozen=True)
class Marker:
    """The fields of a marker; one that an older image leaves out is None."""

    kernel: str
    version: str | None
    kind: str | None
    arch: str | None
    accept_no_device: bool


def parse(text: str, where: str) -> Marker:
    """Reads a marker; the first line with a key counts. Raises DataError if a value is not a plain word, or there is no kernel."""
    fields: dict[str, str] = {}
    for line in lines(text[:_LIMIT]):
        key, equals, value = line.strip().partition("=")
        if equals and key not in fields:
            fields[key] = value.strip()
    for key in ("kernel", "driver_version", "driver_kind", "arch"):
        value = fields.get(key, "")
        if value and not _SAFE.fullmatch(value):
            raise DataError(f"{where}: {key}={value[:80]!r} is not a plain word; the marker is not used", code="marker_invalid")
    if not fields.get("kernel"):
        raise DataError(f"{where}: no kernel= line; the marker is empty or truncated and is not used", code="marker_invalid")
    return Marker(
        kernel=fields["kernel"],
        version=fields.get("driver_version") or None,
        kind=normal_kind(fields.get("driver_kind", "")),
        arch=normal_arch(fields["arch"]) if fields.get("arch") else None,
        accept_no_device=fields.get("accept_no_device") == "1",
    )


def read(root: Path, path: str = DEFAULT_PATH) -> Marker | None:
    """The marker of the system at ``root``; None if there is none. Raises DataError."""
    try:
        text = read_bytes(trust.below(root, path)).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the marker is not used", code="marker_invalid") from error
    return parse(text, path)


def is_there(root: Path, path: str) -> bool:
    """Whether a file that can be read as a marker is at ``path``. Nothing else is deleted as one."""
    try:
        return read(root, path) is not None
    except DataError:
        return False


def differences(marker: Marker, kver: str, version: str, kind: str, arch: str | None) -> tuple[str, ...]:
    """The fields of a marker that differ from what is wanted, in words; an unknown field always differs."""
    pairs = (
        ("kernel", marker.kernel, kver),
        ("driver_version", marker.version, version),
        ("driver_kind", marker.kind, kind),
        ("arch", marker.arch, arch),
    )
    return tuple(f"{name}={found or 'unknown'}, wanted {asked or 'unknown'}" for name, found, asked in pairs if not found or found != asked)
