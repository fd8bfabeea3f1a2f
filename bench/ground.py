"""Where native rows are measured: a native node of the lab with a captured bake of the stand-in, which decides to use the baked layer.

Only two things on the node are fake: the PCI bus in its sysfs (a folder with the ids of one H100), because the machine has no GPU, and the
kernel release that Python's os.uname returns, because the node runs the machine's own kernel, for which nothing can be baked. Without them
a look would end after its first lines, or find nothing to hash, and the figures would be too good.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.builds import bakedimage
from lab.driverimages import driverimage, registry
from lab.machine import host, paths
from lab.machine.progress import step
from lab.nodes import base, inventory
from lab.nodes.native import NativeNode

CODE, OTHER = "srv/bench", "srv/bench-other"
"""The node's folders for the library and bench/onnode.py, this clone's and another one's. A look does not read them."""

_FAKE_GPU = """
set -e
mount -t tmpfs none /sys/bus/pci
mkdir -p /sys/bus/pci/devices/0000:01:00.0 && cd /sys/bus/pci/devices/0000:01:00.0
echo 0x10de >vendor; echo 0x2330 >device; echo 0x030200 >class
"""
_FAKE_KERNEL = """import os

_real = os.uname()
os.uname = lambda: os.uname_result((_real.sysname, _real.nodename, {kver!r}, _real.version, _real.machine))
"""


@dataclass(frozen=True)
class Ground:
    """A node to measure on, its driver image, the kernel that it is baked for, and a folder on this machine for the benchmarks' files."""

    node: NativeNode
    image: str
    kver: str
    hosts: Path
    folder: Path
    has_other: bool = False
    """Whether the node also has the code of another clone, at OTHER, to be measured in the same run."""

    def play(self, playbook: Path, *arguments: str, **variables: str) -> str:
        """Runs a playbook against the node and returns its output. Raises LabError if it fails."""
        words = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        argv = ["ansible-playbook", "-i", str(self.hosts), *words, *arguments, str(playbook)]
        return host.run(argv, timeout_s=600, env={"ANSIBLE_CONFIG": str(paths.TOP / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}).stdout

    def python(self, module: str, *words: str) -> Any:
        """Runs a module of bench/ on the node and returns the JSON that it printed."""
        return json.loads(self.node.ssh(f"cd /{CODE} && exec python3 -m bench.{module} {' '.join(words)}", timeout_s=1800).stdout)


@contextmanager
def ground(folder: Path, other: Path | None = None) -> Iterator[Ground]:
    """Creates and bakes a node, and destroys it afterwards. Needs a lab session. ``other`` is another clone of this project."""
    driver = driverimage.build("standin")
    registry.push(driver.layout, driver.reference)
    kver = base.choose(base.kernels(base.root() / "boot"), "6.1").kver
    node = NativeNode.create(f"bench-{os.getpid()}")
    try:
        hosts = inventory.write(folder / "inventory.json", [(node.state.name, node.target)])
        found = Ground(node, driver.reference, kver, hosts, folder, other is not None)
        variables = folder / "bake.json"
        variables.write_text(json.dumps(bakedimage.variables(driver.reference, kver, bakedimage.CAPTURED)))
        with step(f"{node.state.name}: bake"):
            found.play(paths.TOP / "playbooks/prebake.yml", "-e", f"@{variables}")
        _prepare(node, kver)
        _copy(paths.TOP, node.root / CODE)
        if other:
            _copy(other, node.root / OTHER)
        yield found
    finally:
        node.destroy()


def _prepare(node: NativeNode, kver: str) -> None:
    """Puts the two fakes on the node."""
    node.ssh(_FAKE_GPU)
    site = node.ssh("python3 -c 'import site; print(site.getsitepackages()[0])'").stdout.strip()
    folder = node.root / site.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "usercustomize.py").write_text(_FAKE_KERNEL.format(kver=kver))


def _copy(clone: Path, code: Path) -> None:
    """Puts a clone's measuring code on the node."""
    for name in ("bench", "plugins/module_utils/gpunode"):
        shutil.copytree(clone / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
