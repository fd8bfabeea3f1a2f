"""The node-side library on a node, as files: for what is run there by itself."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

from lab.machine import paths
from lab.nodes.node import Node


def send(node: Node, folder: str, *more: Path) -> None:
    """Puts the library, and more files beside it, into a folder of the node's that is made for them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(paths.TOP / "plugins/module_utils/gpunode", "gpunode")
        for path in more:
            archive.add(path, path.name)
    command = f"mkdir -p {folder} && base64 -d | tar -xzC {folder}"
    node.ssh(command, stdin=base64.b64encode(packed.getvalue()).decode())
