"""Runs Packer's qemu builder under TCG, on a disk like a cloud's image, whose login is a user who may use sudo.

As for the lab's VMs, QEMU loads the kernel, not a boot loader. The folder of a result is a VM's disk (lab/nodes/disk.py)
with `report.json` (the role's), `seal.json` (the seal's) and `packer.log`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.builds.bakedimage import SEAL, playbook_program, variables
from lab.driverimages import driverimage, registry
from lab.machine import cache, host, paths, ssh
from lab.machine.errors import LabError
from lab.machine.follow import following
from lab.machine.progress import say, step
from lab.nodes import base, disk, vm
from lab.nodes.disk import Disk
from lab.nodes.native import NativeNode

USER = "packer"
MEMORY_MB = 2048
TIMEOUT_S = 2400.0

# cloud-init is installed so that it can be cleaned, and disabled: without a cloud, its search would cost each emulated boot half a minute.
PREPARE = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q && apt-get install -q -y --no-install-recommends cloud-init sudo
touch /etc/cloud/cloud-init.disabled
useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
chmod 440 /etc/sudoers.d/{USER}
install -d -m 700 -o {USER} -g {USER} /home/{USER}/.ssh
install -m 600 -o {USER} -g {USER} /root/.ssh/authorized_keys /home/{USER}/.ssh/authorized_keys
apt-get clean
"""


@dataclass(frozen=True)
class Built:
    """What `packer build` made: a disk, the report and the log of its bake; `packer_s` is in emulated seconds."""

    disk: Disk
    folder: Path
    report: dict[str, Any]
    log: str
    packer_s: float


def prepare(node: NativeNode) -> None:
    """Makes a native node like a cloud's image: with cloud-init, and a user `USER` who logs in with the lab's key and may use sudo."""
    node.ssh(PREPARE, timeout_s=600)


def source() -> Disk:
    """The disk that the builder starts from, from the cache."""
    return disk.load(cache.entry("cloudlike", [*base.key_parts(), PREPARE, str(disk.FREE_BYTES)], _source, keep=1))


def _source(folder: Path) -> None:
    node = NativeNode.create(f"cloudlike-{os.getpid()}")
    try:
        with step("a disk like a cloud's image: sudo and cloud-init"):
            prepare(node)
        disk.make(node.stop(), folder)
    finally:
        node.destroy()


def build(image: str, folder: Path, series: str = "6.1") -> Built:
    """Bakes driver image `image` with the qemu builder, after a reboot; the disk is left in `folder`. Raises LabError with the end of
    the log."""
    driver = driverimage.build(image)
    registry.push(driver.layout, driver.reference)
    begin_with = source()
    kernel = base.choose(begin_with.kernels, series)
    folder.mkdir(parents=True, exist_ok=True)
    log, vars_file, values = folder / "packer.log", folder / "vars.json", folder / "lab.pkrvars.json"
    reports = {"nvidia_prebake_report_path": str(folder / "report.json"), "nvidia_prebake_seal_report_path": str(folder / SEAL)}
    vars_file.write_text(json.dumps({**variables(driver.reference, kernel.kver), **reports}) + "\n")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        output = Path(temporary) / "image"
        values.write_text(json.dumps(packer_values(begin_with, kernel, vars_file, output, folder / "serial.log"), indent=2) + "\n")
        argv = [
            "packer",
            "build",
            "-color=false",
            "-timestamp-ui",
            "-only=qemu.image",
            f"-var-file={values}",
            str(paths.TOP / "packer/image"),
        ]
        log.touch()
        say(f"packer build: {image} with the qemu builder, emulated; serial console: {folder / 'serial.log'}")
        began = time.monotonic()
        environment = {"CHECKPOINT_DISABLE": "1", "PACKER_CACHE_DIR": f"{temporary}/cache"}
        with following(log, "packer"):
            host.run(argv, timeout_s=TIMEOUT_S, log=log, env=environment)
        packer_s = time.monotonic() - began
        made = list(output.iterdir())
        if len(made) != 1:
            raise LabError(f"the qemu builder left {[p.name for p in made]} in its output folder, expected one disk; see {log}")
        made[0].rename(folder / "disk.qcow2")
    shutil.copytree(begin_with.path.parent / "boot", folder / "boot", dirs_exist_ok=True)
    report = json.loads((folder / "report.json").read_text())
    return Built(disk.load(folder), folder, report, log.read_text(errors="replace"), packer_s)


def packer_values(begin_with: Disk, kernel: base.Kernel, vars_file: Path, output: Path, serial: Path) -> dict[str, Any]:
    """The template's variables for a build in the lab."""
    return {
        "vars_file": str(vars_file),
        "private_key": str(ssh.key()),
        "user": USER,
        "ansible_playbook": playbook_program(),
        # No upgrade: a new kernel would not be booted (QEMU loads one from outside), and packages would change from day to day. The
        # reboot is done nevertheless.
        "upgrade": False,
        "reboot": "always",
        "qemu_image": str(begin_with.path),
        "qemu_output": str(output),
        "qemu_accelerator": "tcg",
        "qemu_cpus": 1,
        "qemu_memory_mb": MEMORY_MB,
        "qemu_boot_wait": "1s",
        "qemu_arguments": [
            ["-cpu", vm.CPU],
            ["-kernel", str(kernel.vmlinuz)],
            ["-initrd", str(kernel.initrd)],
            ["-append", vm.APPEND],
            ["-serial", f"file:{serial}"],
        ],
    }


def read_files(source: Disk, *names: str) -> dict[str, str | None]:
    """The texts of files on a disk from which no VM runs, None for a file that does not exist. Reads with debugfs, without a mount."""
    with tempfile.TemporaryDirectory(dir=source.path.parent) as temporary:
        raw = Path(temporary) / "raw"
        host.run(["qemu-img", "convert", "-q", "-O", "raw", str(source.path), str(raw)], timeout_s=300)
        said = {name: host.run(["debugfs", "-R", f"cat {name}", str(raw)], timeout_s=60) for name in names}
    return {name: None if "File not found" in result.stderr else result.stdout for name, result in said.items()}
