#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/containerd.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: driver_image
short_description: Have a driver image in containerd under its canonical name
version_added: 0.1.0
description:
  - Sees that a driver image is in containerd's C(k8s.io) namespace under exactly the reference by which driver containers are run,
    and pulls it only if it is not.
  - Labels it as pinned, so that image garbage collection leaves it.
options:
  image:
    description: Canonical reference, by tag or digest.
    type: raw
    required: true
  pull_image:
    description: Reference to pull by, where it is another one; the image is then tagged with I(image).
    type: str
  kind:
    description: Driver kind, C(cuda) or C(grid); needed where the name of I(image) does not say it.
    type: str
  version:
    description: Driver version in quotes; needed where the tag of I(image) does not say it.
    type: raw
  tries:
    description: Tries to pull.
    type: int
    default: 3
  delay_s:
    description: Seconds between two tries.
    type: float
    default: 10
  timeout_s:
    description: Seconds that one try may take.
    type: float
    default: 120
  hosts_dir:
    description: containerd's folder of registry hosts; mirrors, plain HTTP and certificates are configured there.
    type: str
    default: /etc/containerd/certs.d
attributes:
  check_mode:
    support: full
    description: Says whether the image would be pulled.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Have the driver image
  gpu.prebake.driver_image:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
"""

RETURN = r"""
image:
  description: The canonical reference.
  returned: success
  type: str
  sample: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
digest:
  description: Digest of what the reference names in containerd; empty in check mode where it is not there.
  returned: success
  type: str
  sample: "sha256:0f1e2d"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils.answer import run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import host, imageref
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.containerd import Containerd, ensure_image
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.deadline import Deadline
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.runner import SystemRunner


def body(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    wanted = imageref.wanted(params["image"], params["pull_image"], params["kind"], params["version"])
    host.require_root()
    containerd = Containerd(SystemRunner(), params["hosts_dir"])
    if not containerd.is_ready():
        raise PreflightError("containerd does not answer: install and start it", code="containerd_unavailable")
    if module.check_mode:
        digest = containerd.target_digest(wanted.image.text)
        return {"changed": digest is None, "image": wanted.image.text, "digest": digest or ""}
    total = params["tries"] * (params["timeout_s"] + params["delay_s"])
    changed = ensure_image(containerd, wanted, Deadline(total), params["tries"], params["delay_s"], params["timeout_s"])
    containerd.pin(wanted.image.text)
    return {"changed": changed, "image": wanted.image.text, "digest": containerd.target_digest(wanted.image.text) or ""}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "raw", "required": True},
            "pull_image": {"type": "str"},
            "kind": {"type": "str"},
            "version": {"type": "raw"},
            "tries": {"type": "int", "default": 3},
            "delay_s": {"type": "float", "default": 10},
            "timeout_s": {"type": "float", "default": 120},
            "hosts_dir": {"type": "str", "default": "/etc/containerd/certs.d"},
        },
        supports_check_mode=True,
    )
    run_module(module, body)


if __name__ == "__main__":
    main()
