"""Baked images, from the cache: a native node is baked by a real `packer build`, and its root becomes a disk. Also images that were
prepared for a bake in the same way and not baked.

The folder of an image holds a VM's disk (lab/nodes/disk.py), `report.json` (the role's), `seal.json` (the seal's), `gpu-prebake.json`
(docs/cli.md), `packer.log`, `containers.log` and `bake.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.driverimages import containersteps, driverimage, registry
from lab.machine import cache, host, paths, ssh
from lab.machine.follow import following
from lab.machine.progress import say, step
from lab.nodes import base, disk, inventory
from lab.nodes.disk import Disk
from lab.nodes.native import NativeNode

PACKER_TIMEOUT_S = 3000.0  # for a busy machine, as is TRY_S; on an idle one a real driver takes 130
TRY_S = 2400
SEAL = "seal.json"
IN_PLACE, CAPTURED = "in_place", "captured"
BUILD_TAG = "nvidia_prebake_build"
"""The role's tag for the build and its report: without these tasks, a machine is prepared and nothing is built."""
_CODE = (
    "ansible.cfg",
    "packer/existing-machine.pkr.hcl",
    "playbooks/prebake.yml",
    "playbooks/seal.yml",
    "plugins",
    "roles/nvidia_prebake",
)


@dataclass(frozen=True)
class BakedImage:
    """A baked disk and the report of its bake; `packer_s` is the whole `packer build` in native seconds, `made` its date and time."""

    disk: Disk
    folder: Path
    report: dict[str, Any]
    packer_s: float
    made: str

    @property
    def seal(self) -> dict[str, Any]:
        """The report of the seal, which is the last provisioner."""
        found: dict[str, Any] = json.loads((self.folder / SEAL).read_text())
        return found

    @property
    def steps(self) -> list[tuple[str, float]]:
        """The driver container's own steps during the build: name and native seconds."""
        return containersteps.parse((self.folder / "containers.log").read_text(errors="replace"))


def bake(image: str, series: str = "6.1", variant: base.Variant = base.CLOUD, mode: str = CAPTURED, nouveau: bool = False) -> BakedImage:
    """A base with driver image `image` baked into it for the kernel of `series`, in one of the role's modes, from the cache. With
    `nouveau`, the bake does not blacklist nouveau. Needs a session."""
    driver = driverimage.build(image)
    root = base.root(variant)
    kver = base.choose(base.kernels(root / "boot"), series).kver
    parts = [*base.key_parts(variant), driver.digest, kver, mode, str(nouveau), _code_hash(), Path(__file__).read_text()]
    folder = cache.entry("baked", parts, lambda out: _bake(out, driver, variables(driver.reference, kver, mode, nouveau), root), keep=12)
    kept = json.loads((folder / "bake.json").read_text())
    return BakedImage(disk.load(folder), folder, json.loads((folder / "report.json").read_text()), **kept)


def _bake(out: Path, driver: driverimage.ImageDir, role_variables: dict[str, Any], source: Path) -> None:
    registry.push(driver.layout, driver.reference)
    node = NativeNode.create(f"bake-{driver.name}-{os.getpid()}", source)
    try:
        packer_s = packer_build(node, out, role_variables)
        logs = sorted((node.root / "var/log/gpu-prebake").glob("gpuprebuild-*.log"))
        (out / "containers.log").write_text("".join(log.read_text(errors="replace") for log in logs))
        with step(f"disk of the baked {driver.name}"):
            disk.make(node.stop(), out)
    finally:
        node.destroy()
    made = time.strftime("%Y-%m-%d %H:%M")
    (out / "bake.json").write_text(json.dumps({"packer_s": round(packer_s, 1), "made": made}) + "\n")


def prepare(image: str) -> Disk:
    """The base, prepared for a captured bake of driver image `image` and not baked; from the cache. Needs a session."""
    driver = driverimage.build(image)
    root = base.root()
    kver = base.choose(base.kernels(root / "boot"), "6.1").kver
    parts = [*base.key_parts(), driver.digest, kver, _code_hash(), Path(__file__).read_text()]
    role_variables = variables(driver.reference, kver, CAPTURED)
    return disk.load(cache.entry("prepared", parts, lambda out: _prepare(out, driver, role_variables, root), keep=4))


def _prepare(out: Path, driver: driverimage.ImageDir, role_variables: dict[str, Any], source: Path) -> None:
    registry.push(driver.layout, driver.reference)
    node = NativeNode.create(f"prepare-{driver.name}-{os.getpid()}", source)
    try:
        hosts = inventory.write(out / "inventory.json", [(node.state.name, node.target)])
        vars_file = out / "vars.json"
        vars_file.write_text(json.dumps(role_variables) + "\n")
        argv = ["ansible-playbook", "-i", str(hosts), "-e", f"@{vars_file}", "--skip-tags", BUILD_TAG]
        with step(f"{node.state.name}: playbooks/prebake.yml, without the build"):
            env = {"ANSIBLE_CONFIG": str(paths.TOP / "ansible.cfg")}
            playbook = str(paths.TOP / "playbooks/prebake.yml")
            host.run([*argv, playbook], timeout_s=PACKER_TIMEOUT_S, log=out / "ansible.log", env=env)
        with step(f"disk of the prepared {driver.name}"):
            disk.make(node.stop(), out)
    finally:
        node.destroy()


def variables(reference: str, kver: str, mode: str = CAPTURED, nouveau: bool = False) -> dict[str, Any]:
    """The role's variables for a bake in the lab."""
    return {
        "nvidia_prebake_enabled": True,
        "nvidia_prebake_image": reference,
        "nvidia_prebake_kernels": [kver],
        "nvidia_prebake_mode": mode,
        "nvidia_prebake_blacklist_nouveau": not nouveau,
        "nvidia_prebake_try_s": TRY_S,
    }


def playbook_program() -> str:
    """The program that Packer runs in place of ansible-playbook: it also shows the node's progress lines."""
    return str(paths.TOP / "bin/gpu-prebake")


def packer_build(node: NativeNode, out: Path, role_variables: dict[str, Any]) -> float:
    """Runs `packer build` against a node and shows its output; returns the seconds that it took. Raises LabError with the end of its
    log."""
    vars_file, log = out / "vars.json", out / "packer.log"
    reports = {"nvidia_prebake_report_path": str(out / "report.json"), "nvidia_prebake_seal_report_path": str(out / SEAL)}
    vars_file.write_text(json.dumps({**role_variables, **reports}) + "\n")
    options = {
        "host": node.target.address,
        "port": str(node.target.port),
        "private_key": str(ssh.key()),
        "ansible_playbook": playbook_program(),
        "vars_file": str(vars_file),
    }
    words = [word for name, value in options.items() for word in ("-var", f"{name}={value}")]
    argv = ["packer", "build", "-color=false", *words, str(paths.TOP / "packer/existing-machine.pkr.hcl")]
    log.touch()
    name = node.state.name
    say(f"{name}: packer build")
    begin = time.monotonic()
    with following(log, f"{name}: packer"):
        env = {"CHECKPOINT_DISABLE": "1", "GPU_PREBAKE_REPORT": str(out / "gpu-prebake.json"), **ssh.UNKNOWN_HOST}
        host.run(argv, timeout_s=PACKER_TIMEOUT_S, log=log, env=env)
    return time.monotonic() - begin


def _code_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(_code_files()):
        digest.update(f"{path.relative_to(paths.TOP)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _code_files() -> Iterator[Path]:
    for name in _CODE:
        top = paths.TOP / name
        if top.is_file():
            yield top
        for folder, _, names in os.walk(top):
            yield from (Path(folder) / n for n in names if not n.endswith((".pyc", ".md")))
