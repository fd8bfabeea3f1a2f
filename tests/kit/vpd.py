"""Vital product data of a PCI function, as the PCI specification has them."""

from __future__ import annotations

from collections.abc import Mapping


def product_data(fields: Mapping[str, str], name: str = "ConnectX-7 adapter") -> bytes:
    """A name, read-only fields with the right sum, and the end."""
    body = b"".join(keyword.encode() + bytes([len(text)]) + text.encode() for keyword, text in fields.items())
    size = len(body) + 4
    data = b"\x82" + len(name).to_bytes(2, "little") + name.encode() + b"\x90" + size.to_bytes(2, "little") + body + b"RV\x01"
    return data + bytes([-sum(data) % 256]) + b"\x78"
