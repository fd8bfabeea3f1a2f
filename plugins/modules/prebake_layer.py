#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/bake.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prebake_layer
short_description: Bake an NVIDIA driver into this image
version_added: 0.1.0
description:
  - Runs the driver container's C(build-only), asserts what it left, and records it in a manifest, last; in I(mode) C(captured) for each
    of several kernels.
  - A failure takes back what the build added. The same inputs again change nothing.
  - The driver image must be there already (M(gpu.prebake.driver_image)), and so must compiler and headers.
  - While it runs, C(/var/log/gpu-prebake/bake.log) on the machine can be followed.
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
  tries:
    description: Tries to build.
    type: int
    default: 3
  delay_s:
    description: Seconds between two tries.
    type: float
    default: 10
  try_s:
    description: Seconds that one try may take; at the limit all of it is killed.
    type: float
    default: 600
  release_notes:
    description: File in the image that gets one line of what was baked.
    type: str
    default: /var/lib/gpu-prebake/release-notes.txt
attributes:
  check_mode:
    support: full
    description: Says whether it would bake, from the layers that are there; builds nothing.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Bake the driver
  gpu.prebake.prebake_layer:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
    kernels: newest
"""

RETURN = r"""
report:
  description: What was baked; also in C(/var/lib/gpu-prebake/bake-report.json) of the image. Empty in check mode.
  returned: success
  type: dict
  sample: {"layer": "cuda-580.126.09-open-6.1.0-45-cloud-amd64", "build_seconds": 92.1}
release_note:
  description: The line for the image's release notes.
  returned: success, not in check mode
  type: str
  sample: "nvidia-prebake: cuda 580.126.09 (open) for kernel 6.1.0-45-cloud-amd64, from reg/aks-gpu-cuda:580.126.09-20260430040408"
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils.answer import run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import bake, preflight
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.progress import ProgressLog
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.runner import SystemRunner


def body(module: AnsibleModule) -> dict[str, Any]:
    request = preflight.request_from(module.params)
    runner, hosts_dir = SystemRunner(), module.params["hosts_dir"]
    if module.check_mode:
        return {"changed": bake.would_bake(runner, request, hosts_dir), "report": {}}
    baked = bake.bake(runner, request, hosts_dir, ProgressLog(Path("/"), "bake.log"))
    notes = [bake.release_note(layer) for layer in baked.layers]
    return {"changed": baked.changed, "report": baked.report, "release_note": "\n".join(notes)}


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
            "tries": {"type": "int", "default": 3},
            "delay_s": {"type": "float", "default": 10},
            "try_s": {"type": "float", "default": 600},
            "release_notes": {"type": "str", "default": "/var/lib/gpu-prebake/release-notes.txt"},
        },
        supports_check_mode=True,
    )
    run_module(module, body)


if __name__ == "__main__":
    main()
