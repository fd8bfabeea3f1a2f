"""Lists of supported GPUs in the form of NVIDIA's ``supported-gpus.json``, with rows as the real file of 550.163.01 has them."""

from __future__ import annotations

import json
from typing import Any

PATH = "usr/share/doc/NVIDIA_GLX-1.0/supported-gpus/supported-gpus.json"
OPEN, GSP = "kernelopen", "gsp_proprietary_supported"


def row(device: str, *features: str, legacy: str = "", **more: str) -> dict[str, Any]:
    last = {"legacybranch": legacy} if legacy else {}
    return {"devid": f"0x{device.upper()}", "name": "a GPU", **last, "features": ["dpycbcr420", *features], **more}


def document(*rows: dict[str, Any]) -> str:
    return json.dumps({"chips": rows})


OEM = {"subvendorid": "0x1028", "subdevid": "0x16A1"}
# Of an older driver, which does not say which GPUs with GSP its proprietary modules drive. T4 (1eb8) is missing.
OLDER = (
    row("102d", legacy="470.xx"),
    row("0ff2", legacy="367.xx"),
    row("13f2"),
    row("1db4"),
    row("1e09"),  # a chip of Turing without open modules
    row("2330", OPEN),
    row("26b1", OPEN, **OEM),
    row("2342", OPEN),
)
NEWER = (
    row("102d", legacy="470.xx"),
    row("1db4", legacy="580.xx"),
    row("1eb8", OPEN, GSP),
    row("2330", OPEN, GSP),
    row("2901", OPEN),
    row("3041", OPEN),
    row("4000", OPEN),  # newer than our table
)
