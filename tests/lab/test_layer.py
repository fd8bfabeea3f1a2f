"""A captured layer on a native node: activated and deactivated from the command line, with the real depmod, ldconfig and DKMS."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from lab.machine import paths
from tests.lab.bakery import Bakery
from tests.lab.snapshot import difference, snapshot

LIBRARY = "srv/gpu-prebake-library"
# ldconfig's own cache of the libraries that it has read; the loader does not use it.
CACHE = "var/cache/ldconfig/aux-cache"


@pytest.fixture
def captured(bakery: Bakery) -> Iterator[tuple[Bakery, str]]:
    """The node with a captured layer and with the library, and the layer's name; both are removed afterwards."""
    # In-place bakes of earlier tests have left indexes that name their modules, and a build would find nothing to change in them.
    bakery.ssh(f"depmod {bakery.kver}")
    ran = bakery.capture()
    assert ran.rc == 0, ran.out
    (layer,) = bakery.layers()
    shutil.copytree(paths.TOP / "plugins/module_utils/gpunode", bakery.root / LIBRARY / "gpunode")
    yield bakery, layer.layer
    command(bakery, "deactivate")
    bakery.ssh(f"rm -rf /var/lib/gpu-prebake /{LIBRARY}")


def command(bakery: Bakery, words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        bakery.ssh(f"cd /{LIBRARY} && PYTHONDONTWRITEBYTECODE=1 python3 -m gpunode.command {words} 2>/dev/null")
    )
    return found


def test_a_captured_layer_is_activated_as_a_build_would_leave_it_and_deactivated_without_a_trace(captured: tuple[Bakery, str]) -> None:
    bakery, layer = captured
    kver = bakery.kver
    before = snapshot(bakery.root)
    done = command(bakery, f"activate {layer}")
    assert done["changed"] is True
    assert done["indexes_swapped"] is True
    assert done["how"]["link"] >= 4

    assert f", {kver}, x86_64: installed" in bakery.ssh("dkms status")
    assert "Diff" not in bakery.ssh("dkms status")
    assert bakery.ssh(f"modinfo -k {kver} -F vermagic nvidia-uvm").startswith(kver)
    assert "updates/dkms/nvidia.ko" in bakery.ssh(f"modprobe --show-depends -S {kver} nvidia-uvm")
    assert "libcuda.so.1" in bakery.ssh("ldconfig -p")
    assert (bakery.root / "usr/bin/nvidia-modprobe").stat().st_mode & 0o7777 == 0o4755

    active = snapshot(bakery.root)
    bakery.ssh(f"depmod {kver} && ldconfig")
    assert [path for path in difference(active, snapshot(bakery.root)) if path != CACHE] == []

    again = command(bakery, f"activate {layer}")
    assert again["changed"] is False
    gone = command(bakery, "deactivate")
    assert gone["kept"] == []
    assert [path for path in difference(before, snapshot(bakery.root)) if path != CACHE] == []
    assert command(bakery, f"discard {layer}")["changed"] is True
    assert not [path for path in (bakery.root / "var/lib/gpu-prebake/objects").rglob("*") if path.is_file()]
