"""An Ansible inventory (YAML form) of a session's nodes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.machine import ssh


def render(targets: Mapping[str, ssh.Target]) -> str:
    """Inventory text: every node by its name, in group `all`. JSON, which is YAML too."""
    hosts = {name: ssh.ansible_vars(target) for name, target in targets.items()}
    return json.dumps({"all": {"hosts": hosts}}, indent=2) + "\n"


def render_script(targets: Mapping[str, ssh.Target]) -> str:
    """The same in the form that an inventory script prints for `--list`."""
    hosts = {name: ssh.ansible_vars(target) for name, target in targets.items()}
    return json.dumps({"all": {"hosts": list(hosts)}, "_meta": {"hostvars": hosts}}, indent=2) + "\n"


def write(path: Path, nodes: Iterable[tuple[str, ssh.Target]]) -> Path:
    """Write the inventory of `nodes` (name and ssh address) to `path`."""
    path.write_text(render(dict(nodes)))
    return path
