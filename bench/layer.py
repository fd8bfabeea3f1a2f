"""The cost of activating and deactivating a captured layer, compared with a copy of the same files, with DKMS and with depmod, and how it
grows with the number of files.
"""

from __future__ import annotations

from typing import Any

from bench.ground import Ground
from bench.rows import Row, row
from lab.machine import cache, host
from lab.nodes import base
from plugins.module_utils.gpunode.store import layers

SIZES = (50, 500, 5000)
BUDGETED = 500
TOTAL_MB = 500  # of each layer: only the number of files grows
SMALL = (50, 40)  # files and MB of the layer for the rows about module indexes
RUNS, RUNS_OF_DEPMOD = 5, 3
TAKEN_MS = 200  # for 500 files
NVIDIAS_MS = 250  # for NVIDIA's layer, either way


def bench(ground: Ground) -> list[Row]:
    """Rows in milliseconds."""
    rows = [found for count in SIZES for found in _made_up(ground, count)]
    for kver in _kernels(ground):
        rows += _indexes(ground, kver)
    return rows + stored(ground, "the stand-in's layer", _name_of(ground))


def _made_up(ground: Ground, count: int) -> list[Row]:
    found = ground.python("onlayer", "made-up", str(RUNS), ground.kver, str(count), str(TOTAL_MB))
    seconds = found["seconds"]
    what = f"{found['files']} files, {TOTAL_MB} MB"
    copying = f"copy {what} with cp, and sync"
    budget = TAKEN_MS if count == BUDGETED else None
    return [
        row(f"activate {what}, without hashing", seconds["activate_apart"], budget=budget, compared_with=copying),
        row(f"activate {what}, with modules hashed", seconds["activate"], compared_with=copying),
        row(f"deactivate {what}, with all files hashed", seconds["deactivate"], compared_with=copying),
        row(f"verify {what} in the store", seconds["verify"], compared_with=copying),
        row(copying, seconds["copy"]),
    ]


def _indexes(ground: Ground, kver: str) -> list[Row]:
    files, size = SMALL
    seconds = ground.python("onlayer", "indexes", str(RUNS_OF_DEPMOD), kver, str(files), str(size))["seconds"]
    what = f"activate {files} files, {size} MB, for {kver}"
    by_depmod = f"{what}, with a run of depmod"
    return [
        row(f"{what}, with the indexes of the bake", seconds["activate_apart"], compared_with=by_depmod),
        row(by_depmod, seconds["activate_depmod_apart"]),
        row(f"depmod {kver} alone", seconds["depmod"]),
    ]


def _kernels(ground: Ground) -> list[str]:
    """The kernels of the node, and also the generic one, which has the most modules, if the lab has made its base."""
    if cache.has("base", base.key_parts(base.GENERIC)):
        modules = base.root(base.GENERIC) / "usr/lib/modules"
        host.run(["cp", "-a", f"{modules}/.", str(ground.node.root / "usr/lib/modules")], timeout_s=600)
    return sorted(path.name for path in (ground.node.root / "usr/lib/modules").iterdir())


def _name_of(ground: Ground) -> str:
    return layers.read_all(ground.node.root)[0][0].layer


def stored(ground: Ground, what: str, name: str, budget: int = TAKEN_MS) -> list[Row]:
    """Rows of a layer in the node's store: its activation and deactivation, both with the budget in milliseconds, and `dkms remove`, which
    removes less."""
    found: dict[str, Any] = ground.python("onlayer", "stored", str(RUNS), name)
    seconds = found["seconds"]
    size = f"{found['files']} files, {found['bytes'] // 1000**2} MB, {round(found['copied'] / 1000**2)} MB of it copied"
    by_dkms = f"dkms remove --all of {what}: modules and registration only"
    return [
        row(f"activate {what} ({size}), without hashing", seconds["activate_apart"], budget=budget, compared_with=by_dkms),
        row(f"activate {what}, with modules hashed", seconds["activate"], compared_with=by_dkms),
        row(f"deactivate {what}", seconds["deactivate"], budget=budget, compared_with=by_dkms),
        row(by_dkms, seconds["dkms_remove"]),
        row(f"verify the modules of {what}", seconds["verify_modules"], budget=250),
    ]
