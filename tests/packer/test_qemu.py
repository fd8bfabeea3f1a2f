"""Packer's qemu builder: a user with sudo bakes the stand-in into a disk, which then boots with a GPU. `make test-all PART=packer`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal.report import SCHEMA as SEAL_SCHEMA

from lab.builds import booting, packerqemu
from lab.builds.bakedimage import SEAL
from lab.builds.packerqemu import Built
from lab.driverimages import driverimage
from lab.machine import paths
from lab.nodes.vm import VM

OUT = paths.TOP / "build/packer-qemu"


@pytest.fixture(scope="module")
def built() -> Built:
    shutil.rmtree(OUT, ignore_errors=True)
    return packerqemu.build("standin", OUT)


@pytest.fixture
def node(built: Built) -> Iterator[VM]:
    vm = VM.create("packer-qemu", built.disk, kernel="6.1", gpu="h100", smp=1)
    yield vm
    vm.destroy()


def test_the_machine_reboots_before_the_bake_and_is_generalised_after_it(built: Built) -> None:
    order = [
        "rebooting: the variable reboot is always",
        "settled: kernel",
        "default: Build the driver, check it and record the layer: changed",
        "default: Seal the image",
        "generalised",
    ]
    # The first "settled" is that of the boot before the reboot.
    found = [built.log.rindex(line) for line in order]
    assert found == sorted(found)
    up = [int(s) for s in re.findall(r"settled: kernel \S+, up for (\d+) s", built.log)]
    assert len(up) == 2
    gone = ("/var/lib/systemd/random-seed", "/var/lib/cloud/instance", "/root/.ansible_async", f"/home/{packerqemu.USER}/.ansible")
    files = packerqemu.read_files(built.disk, "/etc/machine-id", "/etc/sudoers.d/packer", *gone)
    assert files["/etc/machine-id"] == ""
    assert "NOPASSWD" in (files["/etc/sudoers.d/packer"] or "")  # shows that existing files are read
    assert [files[name] for name in gone] == [None] * len(gone)


def test_no_host_key_is_in_the_image_and_each_machine_makes_its_own(built: Built) -> None:
    """The next test logs in by ssh, which needs one."""
    kinds = ("rsa", "ecdsa", "ed25519")
    keys = [f"/etc/ssh/ssh_host_{kind}_key{end}" for kind in kinds for end in ("", ".pub")]
    unit, wanted = "/etc/systemd/system/ssh-host-keys.service", "/etc/systemd/system/ssh.service.wants/ssh-host-keys.service"
    files = packerqemu.read_files(built.disk, unit, wanted, "/etc/ssh/sshd_config", *keys)
    assert "ssh-keygen -A" in (files[unit] or "")
    assert files[wanted] is not None
    assert files["/etc/ssh/sshd_config"]  # shows that existing files are read
    assert [files[key] for key in keys] == [None] * len(keys)


def test_the_image_is_sealed_and_the_report_is_in_the_image_and_beside_it(built: Built) -> None:
    beside = json.loads((built.folder / SEAL).read_text())
    kept = json.loads(
        packerqemu.read_files(built.disk, "/var/lib/gpu-prebake/seal-report.json")["/var/lib/gpu-prebake/seal-report.json"] or ""
    )
    assert (beside["refusals"], beside["in_place"], beside["offline"]) == ([], [], False)
    assert {r["code"] for r in beside["replayed"]} == {"baked_layer_matches"}
    assert {**beside, "schema": SEAL_SCHEMA} == kept


def test_the_disk_boots_with_a_gpu_without_a_compile(built: Built, node: VM, tmp_path: Path) -> None:
    as_user: dict[str, Any] = {"gpu_boot_image": driverimage.build("standin").reference, "ansible_user": packerqemu.USER}
    done = booting.boot(node, as_user, tmp_path)
    assert (done.result["action"], done.result["result"]) == ("install-skip-build", "fast")
    assert done.result["reason_code"] == "baked_layer_matches"
    assert "nvidia" in done.node["modules"].split()
    assert "dkms-build" not in done.node["container"]
