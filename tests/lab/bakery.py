"""A native node of the lab on which tests bake, one after the other."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import footprint
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.layers import read_all
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, objects_of

from lab.driverimages import driverimage, registry
from lab.machine import host, paths
from lab.nodes import base, inventory
from lab.nodes.native import NativeNode
from lab.nodes.vm import VM


@dataclass
class Ran:
    """One run of a playbook: exit status and what it printed."""

    rc: int
    out: str

    @property
    def message(self) -> str:
        """The output as one line, without Ansible's line breaks."""
        return " ".join(self.out.split())


@dataclass
class Bakery:
    """A node on which tests bake. Methods that read its root from outside need a native node."""

    node: NativeNode | VM
    folder: Path
    series: str = "6.1"
    images: dict[str, str] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        assert isinstance(self.node, NativeNode)
        return self.node.root

    @property
    def kver(self) -> str:
        return base.choose(base.kernels(self.root / "boot"), self.series).kver

    def reference(self, name: str) -> str:
        """Builds a driver image and pushes it to the registry; returns its reference."""
        if name not in self.images:
            driver = driverimage.build(name)
            registry.push(driver.layout, driver.reference)
            self.images[name] = driver.reference
        return self.images[name]

    def argv(self, variables: dict[str, Any], playbook: str = "prebake") -> list[str]:
        """The command line of a playbook, a bake by default, with variables of its role."""
        hosts = inventory.write(self.folder / "inventory.json", [(self.node.state.name, self.node.target)])
        extra = self.folder / f"vars-{len(list(self.folder.iterdir()))}.json"
        all_of_it = {"nvidia_prebake_enabled": True, "nvidia_prebake_delay_s": 0, **variables}
        if "nvidia_prebake_kernels" not in all_of_it:
            all_of_it["nvidia_prebake_kernels"] = [self.kver]
        extra.write_text(json.dumps(all_of_it))
        return ["ansible-playbook", "-i", str(hosts), "-e", f"@{extra}", str(paths.TOP / f"playbooks/{playbook}.yml")]

    def bake(self, image: str = "standin", **variables: Any) -> Ran:
        """Runs playbooks/prebake.yml with a driver image of the lab."""
        full = {"nvidia_prebake_image": self.reference(image), **variables}
        self.asked = full
        limit_s = 600 + variables.get("nvidia_prebake_try_s", 0)
        done = host.run(self.argv(full), timeout_s=limit_s, check=False, env=ENVIRONMENT)
        return Ran(done.rc, done.stdout + done.stderr)

    def capture(self, image: str = "standin", **variables: Any) -> Ran:
        """A bake with the mode `captured` given explicitly."""
        return self.bake(image, nvidia_prebake_mode="captured", **variables)

    def bake_in_place(self, image: str = "standin", **variables: Any) -> Ran:
        """A bake whose layer is active in the image at its end."""
        return self.bake(image, nvidia_prebake_mode="in_place", **variables)

    def seal(self, **variables: Any) -> tuple[Ran, dict[str, Any]]:
        """Runs playbooks/seal.yml with the variables of the last bake; returns the report that it leaves on the controller too."""
        file = self.folder / "reports/seal.json"  # the role makes the folder
        file.unlink(missing_ok=True)
        argv = self.argv({**self.asked, "nvidia_prebake_seal_report_path": str(file), **variables}, "seal")
        done = host.run(argv, timeout_s=600, check=False, env=ENVIRONMENT)
        return Ran(done.rc, done.stdout + done.stderr), json.loads(file.read_text()) if file.exists() else {}

    def layers(self) -> tuple[Manifest, ...]:
        """The layers in the store; checks that their objects are complete."""
        found, problems = read_all(self.root)
        assert problems == ()
        for layer in found:
            assert Store(self.root).problems(objects_of(layer)) == ()
        return found

    def report(self) -> dict[str, Any]:
        """The report of the last bake that changed something."""
        found: dict[str, Any] = json.loads((self.root / STORE / "bake-report.json").read_text())
        return found

    def start(self, image: str, **variables: Any) -> subprocess.Popen[str]:
        """Starts a bake in the background."""
        argv = self.argv({"nvidia_prebake_image": self.reference(image), **variables})
        env = host.environment(ENVIRONMENT)
        return subprocess.Popen(argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ssh(self, command: str) -> str:
        return self.node.ssh(command).stdout

    def files(self) -> dict[str, tuple[int, ...]]:
        """The store's files, and all files in the places where a driver could write, as the library lists them."""
        found = footprint.listing(self.root)
        store = self.root / "var/lib/gpu-prebake"
        return found | {str(p): (p.stat().st_size,) for p in store.rglob("*") if p.is_file() and p.name not in NOT_COMPARED}

    def restore(self, before: dict[str, tuple[int, ...]]) -> None:
        """Removes the files that were added since ``before``, for the next test."""
        shutil.rmtree(self.root / "var/lib/gpu-prebake", ignore_errors=True)
        for path in sorted(footprint.listing(self.root).keys() - before.keys(), reverse=True):
            file = self.root / path
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            else:
                file.unlink()

    def processes(self) -> str:
        return self.ssh("ps -e -o comm= | grep -E 'cc1|make|dkms|install.sh' || true").strip()

    def captures(self) -> list[str]:
        """What a running captured bake has on the machine: a folder, mounts, its watcher and its sandbox's PID 1."""
        shown = "ls /var/lib/gpu-prebake/captures; findmnt -rn -o TARGET | grep gpu-prebake/captures; pgrep -a '^(flock|unshare)$'"
        return self.ssh(f"({shown}) 2>/dev/null || true").splitlines()

    def mounts(self) -> str:
        return self.ssh("findmnt -rn -o TARGET | grep -E '^/usr/lib|^/tmp/overlay|^/opt' || true").strip()


ENVIRONMENT = {"ANSIBLE_CONFIG": str(paths.TOP / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
# Lines for a person, and the list of the images in containerd: a bake that is refused leaves the image that it has pulled.
NOT_COMPARED = ("release-notes.txt", "driver-images.json")
