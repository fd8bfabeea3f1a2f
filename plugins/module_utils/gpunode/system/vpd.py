"""Vital product data of PCI functions: what a function says about itself, such as its part number. Pure.

Format: PCI Local Bus Specification 3.0, appendix I. The data are tagged resources: a name, then fields that are read-only, then fields that
may be written, then an end. A field has a keyword of two characters. In the field RV, the first byte makes the sum of all bytes up to it 0.
"""

from __future__ import annotations

LONGEST = 1 << 15  # bytes; an address in the data has fifteen bits
_NAME, _READ_ONLY, _END = 0x82, 0x90, 0x0F
_IS_LARGE = 0x80  # a resource with a length of two bytes


def read_only_fields(data: bytes) -> dict[str, str] | None:
    """The read-only fields, by keyword; None if the data are damaged, so that nothing can be said of what is not in them."""
    found: dict[str, str] = {}
    position = 0
    if data[:1] != bytes([_NAME]):
        return None
    while position < len(data):
        tag = data[position]
        if tag & _IS_LARGE:
            start, size = position + 3, int.from_bytes(data[position + 1 : position + 3], "little")
        elif tag >> 3 == _END:
            return found
        else:
            start, size = position + 1, tag & 0x07
        position = start + size
        if position > len(data) or (tag == _READ_ONLY and not _add_fields(found, data, start, position)):
            return None
    return None  # no end


def _add_fields(found: dict[str, str], data: bytes, start: int, end: int) -> bool:
    """Reads the fields between two positions; returns whether they are whole and their sum is right."""
    while start < end:
        if start + 3 > end:
            return False
        keyword, size = data[start : start + 2].decode("latin-1"), data[start + 2]
        start += 3
        if start + size > end:
            return False
        if keyword == "RV":
            return size > 0 and sum(data[: start + 1]) % 256 == 0  # the rest is reserved
        found[keyword] = data[start : start + size].decode("latin-1")
        start += size
    return True
