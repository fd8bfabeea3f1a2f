"""Captured bakes on a root of several filesystems of different kinds, on loop-mounted disks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.nodes import loopdisk
from lab.nodes.native import NativeNode
from tests.lab.bakery import Bakery
from tests.lab.snapshot import difference, snapshot


@pytest.mark.parametrize(
    "folders",
    [
        pytest.param({"boot": "ext4", "usr": "xfs", "var": "btrfs"}, id="boot on ext4, usr on xfs, var on btrfs"),
        pytest.param({"": "xfs"}, id="all on xfs"),
        pytest.param({"": "btrfs", "var/lib/dkms": "ext4"}, id="all on btrfs, DKMS's tree on ext4"),
    ],
)
def test_each_filesystem_is_unchanged_and_the_layer_is_complete(tmp_path: Path, folders: dict[str, str]) -> None:
    node = NativeNode.create(f"disks-{'-'.join(folders.values())}-{os.getpid()}")
    try:
        with loopdisk.separate(node, folders):
            kinds = node.ssh("findmnt -rn -o TARGET,FSTYPE").stdout
            for folder, kind in folders.items():
                assert f"/{folder} {kind}\n" in kinds
            node.ssh("sed -i 's/^update_initramfs=.*/update_initramfs=yes/' /etc/initramfs-tools/update-initramfs.conf")
            bakery = Bakery(node, tmp_path)
            before = snapshot(bakery.root)
            ran = bakery.capture()
            assert ran.rc == 0, ran.out
            assert difference(before, snapshot(bakery.root)) == []
            assert bakery.captures() == []
            (layer,) = bakery.layers()
            assert (layer.replaced, layer.deleted) == ((), ())
            paths = {e.path for e in layer.files}
            assert {f"usr/lib/modules/{bakery.kver}/updates/dkms/nvidia.ko", "usr/bin/nvidia-smi", "etc/ld.so.conf.d/nvidia.conf"} <= paths
            assert f"var/lib/dkms/nvidia/kernel-{bakery.kver}-x86_64" in paths
            assert "update-initramfs: Generating /boot/initrd.img-" in node.ssh("cat /var/log/gpu-prebake/gpuprebuild-1.log").stdout
            assert not any(path.startswith("boot/") for path in paths), "a layer contains nothing of an initramfs"
    finally:
        node.destroy()
