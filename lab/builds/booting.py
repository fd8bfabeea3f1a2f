"""Runs the boot playbook against a VM of the lab, and reads the state of the node afterwards."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.driverimages import containersteps
from lab.machine import host, paths
from lab.machine.errors import LabError
from lab.machine.progress import step
from lab.nodes import inventory
from lab.nodes.vm import VM

TIMEOUT_S = 900.0
_LOOK = """
echo "== version"; cat /proc/driver/nvidia/version 2>/dev/null
echo "== gpus"; cat /proc/driver/nvidia/gpus/*/information 2>/dev/null
echo "== modules"; grep -oE '^nvidia[a-z_]*' /proc/modules
echo "== module_version"; cat /sys/module/nvidia/version 2>/dev/null
echo "== bound"; ls /sys/bus/pci/drivers/nvidia 2>/dev/null | grep :
echo "== container"; cat $(ls -1 /var/log/gpu-prebake/gpuinstall-*.log 2>/dev/null)
true
"""


@dataclass(frozen=True)
class Boot:
    """One run of the boot playbook: the module's result, the seconds that the playbook took, and what `look` found afterwards."""

    result: dict[str, Any]
    play_s: float
    node: dict[str, str]

    @property
    def container_steps(self) -> list[tuple[str, float]]:
        """The driver container's own steps, name and seconds."""
        return containersteps.parse(self.node["container"])


def boot(vm: VM, variables: dict[str, Any], folder: Path, timeout_s: float = TIMEOUT_S) -> Boot:
    """Runs playbooks/boot.yml against `vm` with `variables`; files go to `folder`. Raises LabError with the end of the log."""
    name = vm.state.name
    folder.mkdir(parents=True, exist_ok=True)
    hosts = inventory.write(folder / f"{name}.inventory.json", [(name, vm.target)])
    extra = folder / f"{name}.vars.json"
    extra.write_text(json.dumps({**variables, "gpu_boot_report_folder": str(folder)}) + "\n")
    argv = ["ansible-playbook", "-i", str(hosts), "-e", f"@{extra}", str(paths.TOP / "playbooks/boot.yml")]
    log = folder / f"{name}.ansible.log"
    log.unlink(missing_ok=True)
    begin = time.monotonic()
    with step(f"{name}: playbooks/boot.yml"):
        host.run(argv, timeout_s=timeout_s, log=log, env={"ANSIBLE_CONFIG": str(paths.TOP / "ansible.cfg")})
    result = json.loads((folder / f"{name}.json").read_text())
    return Boot(result, time.monotonic() - begin, look(vm))


def look(vm: VM) -> dict[str, str]:
    """What the node's kernel and the driver container's log say about the driver, by section."""
    sections: dict[str, str] = {}
    for part in vm.ssh(_LOOK).stdout.split("== ")[1:]:
        name, _, text = part.partition("\n")
        sections[name] = text.strip()
    if "container" not in sections:
        raise LabError(f"{vm.state.name}: the node's answer is cut off, it has only the sections {sorted(sections)}")
    return sections
