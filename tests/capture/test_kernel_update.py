"""A node's kernel is updated, then removed, while a layer is active: what DKMS's hook has built from its sources is removed with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lab.machine import paths
from lab.nodes import base
from lab.nodes.native import NativeNode
from tests.lab.bakery import Bakery
from tests.lab.snapshot import difference, snapshot
from tests.lab.test_layer import CACHE, LIBRARY, command


@pytest.fixture
def newer() -> str:
    """The base's other kernel, from backports."""
    kernels = base.kernels(base.root() / "boot")
    return base.choose(kernels, kernels[-1].kver).kver


def test_a_layer_is_deactivated_with_what_dkmss_hook_has_built_and_also_after_its_kernel_was_removed(tmp_path: Path, newer: str) -> None:
    node = NativeNode.create(f"kernel-update-{os.getpid()}")
    try:
        bakery = Bakery(node, tmp_path)
        assert bakery.kver != newer
        packages = f"linux-image-{newer} linux-headers-{newer}"
        apt = "DEBIAN_FRONTEND=noninteractive apt-get -y -q"
        # The image has one kernel. dpkg keeps no archives, so the other one is downloaded for the update.
        node.ssh(f"{apt} purge {packages} && rm -rf /lib/modules/{newer}", timeout_s=300)
        ran = bakery.capture()
        assert ran.rc == 0, ran.out
        (layer,) = bakery.layers()
        shutil.copytree(paths.TOP / "plugins/module_utils/gpunode", bakery.root / LIBRARY / "gpunode")
        command(bakery, f"activate {layer.layer}")
        assert newer not in bakery.ssh("dkms status")

        node.ssh(f"apt-get -q update && {apt} install --no-install-recommends {packages}", timeout_s=900)
        built = [line for line in bakery.ssh("dkms status").splitlines() if f", {newer}, " in line]
        assert len(built) == 1, bakery.ssh("dkms status")
        assert built[0].startswith("nvidia/580.126.09, ")
        assert built[0].endswith(": installed")
        assert "updates/dkms/nvidia.ko" in bakery.ssh(f"modprobe --show-depends -S {newer} nvidia-uvm")
        assert bakery.ssh(f"modinfo -k {newer} -F vermagic nvidia").startswith(newer)

        gone = command(bakery, "deactivate")
        assert gone["kept"] == []
        assert f"/var/lib/dkms/nvidia/kernel-{newer}-x86_64" in gone["removed"]
        assert bakery.ssh("dkms status").strip() == ""
        for kver in (bakery.kver, newer):
            assert bakery.ssh(f"find /lib/modules/{kver}/ -name 'nvidia*.ko*' -path '*updates*'") == ""
            assert not (bakery.root / "usr/lib/modules" / kver / "updates").exists()
            assert bakery.ssh(f"grep -c '^updates/' /lib/modules/{kver}/modules.dep || true").strip() == "0"
        assert not [path for path in ("var/lib/dkms/nvidia", "usr/src/nvidia-580.126.09") if (bakery.root / path).exists()]
        # A later update finds no registration whose sources are missing.
        bakery.ssh(f"/usr/lib/dkms/dkms_autoinstaller start {newer}")

        before = snapshot(bakery.root)
        command(bakery, f"activate {layer.layer}")
        command(bakery, "deactivate")
        assert [path for path in difference(before, snapshot(bakery.root)) if path != CACHE] == []

        # The layer's kernel is removed while the layer is active, as happens when old kernels are removed.
        kver = bakery.kver
        command(bakery, f"activate {layer.layer}")
        node.ssh(f"{apt} purge linux-image-{kver} linux-headers-{kver}", timeout_s=300)
        gone = command(bakery, "deactivate")
        assert gone["kept"] == []
        assert bakery.ssh("dkms status").strip() == ""
        assert not [path for path in ("var/lib/dkms/nvidia", "usr/src/nvidia-580.126.09") if (bakery.root / path).exists()]
        assert not (bakery.root / "usr/lib/modules" / kver).exists()
        assert command(bakery, "deactivate")["changed"] is False
        assert "updates/" not in bakery.ssh(f"cat /lib/modules/{newer}/modules.dep")
    finally:
        node.destroy()
