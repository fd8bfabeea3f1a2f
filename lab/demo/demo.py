"""The demo: bakes with real Packer, boots three nodes, and shows side by side what each did. `make demo` runs it.

It writes to build/demo: report.json (described in docs/demo.md), the same as a picture (timeline.svg) and as a page (report.html), and
the logs of each node.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import time
from dataclasses import dataclass
from typing import Any

from lab.builds import bakedimage, booting
from lab.builds.bakedimage import BakedImage
from lab.demo import demopage, demoreport, picture
from lab.driverimages import driverimage, registry
from lab.machine import host, paths, session
from lab.machine.errors import LabError
from lab.machine.progress import say
from lab.nodes import disk
from lab.nodes.disk import Disk
from lab.nodes.vm import VM

OUT = paths.TOP / "build/demo"
GPU = "h100"


@dataclass(frozen=True)
class Node:
    """One node of the demo: its name, the driver image it is to run, and whether its disk is baked with it."""

    name: str
    image: str
    driver: str
    is_baked: bool


NODES = (
    Node("baked-nvidia", "nvidia", "nvidia", True),
    Node("baked-stand-in", "standin", "stand-in", True),
    Node("never-baked-stand-in", "standin", "stand-in", False),
)


def main() -> int:
    """Runs the demo in a lab session and prints its report; returns the exit status."""
    try:
        session.reexec([sys.executable, "-m", "lab.demo"])
        begin = time.monotonic()
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        report = {"schema": 1, "gpu": f"fake ({GPU}), on a real PCI bus of QEMU", "nodes": [run(node) for node in NODES]}
        report["versions"] = versions()
        report["made"] = time.strftime("%Y-%m-%d %H:%M")
        report["seconds"] = round(time.monotonic() - begin, 1)
        (OUT / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        (OUT / "timeline.svg").write_text(picture.wide(report))
        (OUT / "report.html").write_text(demopage.render(report))
        demoreport.show(report)
        for name in ("report.json", "timeline.svg", "report.html"):
            say(f"written: {OUT / name}")
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def run(node: Node) -> dict[str, Any]:
    """Bakes the node's disk if it is to be baked, boots the node and reads its state; returns its part of the report."""
    say(f"--- {node.name}: driver image {node.image}")
    driver = driverimage.build(node.image)
    registry.push(driver.layout, driver.reference)
    baked = bakedimage.bake(node.image) if node.is_baked else None
    source: Disk = baked.disk if baked else disk.of_base()
    begin = time.monotonic()
    vm = VM.create(node.name, source, kernel="6.1", gpu=GPU)
    up_s = time.monotonic() - begin
    try:
        before = booting.look(vm)
        variables = {"gpu_boot_image": driver.reference, "gpu_boot_expected_gpus": 1}
        if node.driver == "nvidia":  # the fake GPU never answers nvidia-smi, which both the test image and its caller must allow
            variables["gpu_boot_accept_no_device"] = True
        boot = booting.boot(vm, variables, OUT)
        if baked:
            shutil.copy(baked.folder / bakedimage.SEAL, OUT / f"{node.name}.seal.json")
        return entry(node, vm, baked, boot, up_s, before)
    finally:
        vm.destroy()


def entry(node: Node, vm: VM, baked: BakedImage | None, boot: booting.Boot, up_s: float, before: dict[str, str]) -> dict[str, Any]:
    """A node's part of the report."""
    result = boot.result
    steps = [*_bake_steps(baked), _step("power-on to ssh", up_s, "emulated")]
    for step in result["steps"]:
        steps.append(_step(step["name"], step["seconds"], "emulated"))
        if step["name"] == "run-container":
            steps += [_step(f"container: {name}", seconds, "emulated") for name, seconds in boot.container_steps]
    return {
        "name": node.name,
        "driver": node.driver,
        "kernel": vm.state.kver,
        "action": result["action"],
        "reason_code": result["reason_code"],
        "reason": result["reason"],
        "result": result["result"],
        "device_check": result["device_check"],
        "containerd_restarted": result["containerd_restarted"],
        "warnings": result["node_warnings"],
        "versions": _node_versions(vm),
        "steps": steps,
        "module_loaded": "nvidia" in boot.node["modules"].split(),
        "module_version": boot.node["module_version"],
        "loaded_before_boot_step": "nvidia" in before["modules"].split(),
        "bound": boot.node["bound"].split(),
        "driver_says": boot.node["version"],
        "gpu_says": boot.node["gpus"],
        "baked_at": baked.made if baked else None,
        "seal": baked.seal["summary"] if baked else "",
    }


def versions() -> dict[str, str]:
    """The versions of the programs on this machine that bake and boot."""
    packer = host.run(["packer", "version"], timeout_s=60, env={"CHECKPOINT_DISABLE": "1"}).stdout.splitlines()[0]
    qemu = host.run(["qemu-system-x86_64", "--version"], timeout_s=60).stdout.splitlines()[0]
    ansible = importlib.metadata.version("ansible-core")
    return {"ansible-core": ansible, "Packer": packer.removeprefix("Packer v"), "QEMU": qemu.removeprefix("QEMU emulator version ")}


def _node_versions(vm: VM) -> dict[str, str]:
    """The versions of the node's programs that run the driver container and build its modules."""
    listed = vm.ssh("dpkg-query --show --showformat='${Package} ${Version}\\n' containerd runc dkms").stdout
    return dict(line.split(" ", 1) for line in listed.splitlines())


def _bake_steps(baked: BakedImage | None) -> list[dict[str, Any]]:
    if baked is None:
        return []
    inside = [_step(f"image build: container: {name}", seconds, "native") for name, seconds in baked.steps]
    return [_step("image build: packer build", baked.packer_s, "native"), *inside]


def _step(name: str, seconds: float, kind: str) -> dict[str, Any]:
    return {"name": name, "seconds": round(seconds, 3), "kind": kind}
