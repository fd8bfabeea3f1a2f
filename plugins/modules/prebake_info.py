#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/preflight.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prebake_info
short_description: Tell whether a bake may begin here, and what it still needs
version_added: 0.1.0
description:
  - Looks at inputs, machine, kernels, space, foreign drivers and containerd, and fails with what to do when a bake must not begin.
  - Changes nothing.
options:
  image:
    description: Canonical reference of the driver image, by tag or digest.
    type: raw
    required: true
  pull_image:
    description: Reference to pull by, where it is another one.
    type: str
  kind:
    description: Driver kind, C(cuda) or C(grid); needed where the name of I(image) does not say it.
    type: str
  version:
    description: Driver version in quotes; needed where the tag of I(image) does not say it.
    type: raw
  kernels:
    description:
      - C(newest) is the one that the boot loader takes by default. Or C(all) that are installed, a kernel release, or a list of releases.
      - In I(mode) C(in_place) they must come to one.
    type: raw
    default: newest
  flavour:
    description: Which kernel modules the build must give; asserted, since an unmodified image chooses by itself.
    type: str
    choices: [any, open, proprietary]
    default: any
  mode:
    description:
      - How to bake. C(in_place) leaves the driver live in the image.
      - C(captured) leaves the image as it is, and the driver as an inert layer in a store that only root may enter.
    type: str
    choices: [in_place, captured]
    default: in_place
  marker_path:
    description: Where the driver container writes its marker.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  min_free_mb:
    description: Space in MB that must be free before the bake, on each filesystem that it writes to.
    type: int
    default: 3072
  hosts_dir:
    description: containerd's folder of registry hosts.
    type: str
    default: /etc/containerd/certs.d
attributes:
  check_mode:
    support: full
    description: It changes nothing in either mode.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Look before baking
  gpu.prebake.prebake_info:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
  register: found
"""

RETURN = r"""
kernels:
  description: The kernel releases that would be baked for.
  returned: success
  type: list
  elements: str
  sample: [6.1.0-45-cloud-amd64]
arch:
  description: Architecture of the machine.
  returned: success
  type: str
  sample: x86_64
missing_packages:
  description: Packages that a compile needs and that are not installed.
  returned: success
  type: list
  elements: str
  sample: [libc6-dev]
notes:
  description: What is worth saying and no reason to refuse.
  returned: success
  type: list
  elements: str
  sample: []
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils.answer import run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import preflight
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.runner import SystemRunner


def body(module: AnsibleModule) -> dict[str, Any]:
    runner = SystemRunner()
    request = preflight.request_from(module.params)
    found = preflight.check(Path("/"), runner, Containerd(runner, module.params["hosts_dir"]), request)
    return {
        "changed": False,
        "kernels": list(found.kernels),
        "arch": found.arch,
        "missing_packages": list(found.missing_packages),
        "notes": list(found.warnings),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "raw", "required": True},
            "pull_image": {"type": "str"},
            "kind": {"type": "str"},
            "version": {"type": "raw"},
            "kernels": {"type": "raw", "default": "newest"},
            "flavour": {"type": "str", "choices": ["any", "open", "proprietary"], "default": "any"},
            "mode": {"type": "str", "choices": ["in_place", "captured"], "default": "in_place"},
            "marker_path": {"type": "str", "default": "/opt/azure/aks-gpu/dkms-marker"},
            "min_free_mb": {"type": "int", "default": 3072},
            "hosts_dir": {"type": "str", "default": "/etc/containerd/certs.d"},
        },
        supports_check_mode=True,
    )
    run_module(module, body)


if __name__ == "__main__":
    main()
