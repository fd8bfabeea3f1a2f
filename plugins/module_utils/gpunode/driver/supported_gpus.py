"""Reads ``supported-gpus.json``, the driver's own list of GPUs, which NVIDIA's installer package and distributions carry.

Seen in 535.309.01, 550.163.01 and 555.58.02: an object with the one key ``chips``, a list of rows. A row has ``devid`` (0x and four hex
digits), ``name`` and ``features``; some have ``subvendorid`` and ``subdevid``. A row with ``legacybranch``, such as 470.xx, is of a chip
that this driver no longer supports. The feature ``kernelopen`` marks chips that open modules drive; newer files mark with
``gsp_proprietary_supported`` those of them that proprietary modules drive too. The list has gaps (T4 is in none of the three), and many
chips stand there with the subsystems of a few makers only, so subsystems are not looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from ..util import jsondoc
from ..util.expressions import expression
from .gpu_list import GpuList, is_branch

NAMES = ("supported-gpus.json", "supported-gpus.json.gz")
LARGEST = jsondoc.MAX_OTHERS  # bytes, packed or not; the real ones have 0.4 million
_GZIP = b"\x1f\x8b"
_DEVICE = expression(r"0[xX][0-9a-fA-F]{4}")


def read(data: bytes, source: str) -> GpuList:
    """Reads the file, plain or gzip. Raises ValueError for anything else, and for one that is larger than any real one."""
    try:
        rows = _parsed(_unpacked(data))["chips"]
        if not rows or not isinstance(rows, list):
            raise ValueError("it has no list of chips")
        listed = [_row(row) for row in rows]
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"it is malformed ({error!r:.100})") from error
    supported = {number for number, last, _features in listed if not last}
    legacy: dict[str, set[int]] = {}
    for number, last, _features in listed:
        if last and number not in supported:
            legacy.setdefault(last, set()).add(number)
    return GpuList(
        source,
        ranges(supported),
        ranges(_marked(listed, "kernelopen")),
        ranges(_marked(listed, "gsp_proprietary_supported")),
        tuple((last, ranges(ids)) for last, ids in sorted(legacy.items())),
    )


def _parsed(text: str) -> Any:
    try:
        return jsondoc.parse(text, LARGEST)
    except ValueError as error:
        raise ValueError(f"it is not valid JSON ({error})") from error


def _unpacked(data: bytes) -> str:
    if data.startswith(_GZIP):
        unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        data = unpacking.decompress(data, LARGEST + 1)
        if not unpacking.eof and len(data) <= LARGEST:
            raise ValueError("it is cut off")
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return data.decode("utf-8")


def _row(row: Any) -> tuple[int, str, tuple[str, ...]]:
    """Device id, last branch ("" for a chip that is supported), features. Raises ValueError, TypeError."""
    device, last, features = row["devid"], row.get("legacybranch") or "", row.get("features") or []
    if not _DEVICE.fullmatch(device) or (last and not is_branch(last)) or not isinstance(features, list):
        raise ValueError(f"a row is malformed: {jsondoc.shown(row)}")
    return int(device, 16), last, tuple(feature for feature in features if isinstance(feature, str))


def _marked(rows: Iterable[tuple[int, str, tuple[str, ...]]], feature: str) -> set[int]:
    return {number for number, last, features in rows if not last and feature in features}


def ranges(ids: Iterable[int]) -> str:
    """Device ids as compact ranges."""
    return " ".join(f"{low:04x}" if low == high else f"{low:04x}-{high:04x}" for low, high in _runs(ids))


def _runs(ids: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for number in sorted(ids):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
