"""The time that a captured bake of NVIDIA's driver adds to the driver container's own work, and the cost of its layer on a node, compared
with DKMS.

The bake comes from the lab's cache, whose key depends on all code that bakes. Its report holds the times of the run that made it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench import layer
from bench.ground import Ground
from bench.rows import Row, row
from lab.builds import bakedimage
from lab.machine import host
from plugins.module_utils.gpunode.paths import STORE

SHARE = 0.05
"""The time that a bake may add, as a share of the compile."""
_BUILD = "build"


def bench(ground: Ground) -> list[Row]:
    """Rows of the bake, in seconds, and of its layer on the node, in milliseconds."""
    image = bakedimage.bake("nvidia", mode=bakedimage.CAPTURED)
    bring(image.disk.path, ground.node.root, ground.folder / "store")
    return overhead(image.report, image.packer_s, image.made) + layer.stored(
        ground, "NVIDIA's layer", image.report["layer"], layer.NVIDIAS_MS
    )


def overhead(report: dict[str, Any], packer_s: float, made: str) -> list[Row]:
    """The rows of one bake's report."""
    steps = [(step["name"], float(step["seconds"])) for step in report["steps"]]
    build_s = sum(seconds for name, seconds in steps if name == _BUILD)
    added_s = sum(seconds for name, seconds in steps if name != _BUILD)
    building = "bake NVIDIA's driver: the driver container, build-only"
    return [
        row(building, [build_s], "s", made=made),
        row("time that the bake adds to that", [added_s], "s", budget=round(SHARE * build_s, 1), compared_with=building, made=made),
        row("the whole packer build: pull, packages, bake", [packer_s], "s", compared_with=building, made=made),
    ]


def bring(disk: Path, root: Path, scratch: Path) -> None:
    """Copies the layers of a baked disk into the store of a node of the same base, beside the layers that it has."""
    raw = scratch / "disk.raw"
    scratch.mkdir()
    host.run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)], timeout_s=600)
    host.run(["debugfs", "-R", f"rdump /{STORE} {scratch}", str(raw)], timeout_s=600)
    for name in ("objects", "layers"):
        found = scratch / Path(STORE).name / name
        host.run(["cp", "-a", f"{found}/.", str(root / STORE / name)], timeout_s=600)
    shutil.rmtree(scratch)
