#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/bake/flow.py."""

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
  - Nouveau is settled too, see O(blacklist_nouveau); making an initramfs anew takes seconds for each kernel.
  - While it runs, C(/var/log/gpu-prebake/bake.log) on the machine can be followed.
options:
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
extends_documentation_fragment:
  - gpu.prebake.options.image
  - gpu.prebake.options.bake
  - gpu.prebake.options.signing
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
container_output:
  description: On a failed build, the last lines of the container's output.
  returned: failure of a build
  type: str
  sample: "make: *** [Makefile:3: all] Error 2"
dkms_log:
  description: On a failed build, the last lines of DKMS's log.
  returned: failure of a build
  type: str
  sample: "nvidia.c:12:5: error: implicit declaration of function 'foo'"
log:
  description: On a failed build, the path of the container's log on the machine.
  returned: failure of a build
  type: str
  sample: /var/log/gpu-prebake/gpuprebuild-1.log
code:
  description: On failure, the cause as a word that never changes (docs/codes.md).
  returned: failure
  type: str
  sample: compile_failed
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils import options
from ansible_collections.gpu.prebake.plugins.module_utils.answer import run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow, report
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.request import request_from
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import ProgressLog
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

ARGUMENTS: options.Spec = {
    **options.IMAGE,
    **options.BAKE,
    **options.SIGNING,
    "tries": {"type": "int", "default": 3},
    "delay_s": {"type": "float", "default": 10},
    "try_s": {"type": "float", "default": 600},
    "release_notes": {"type": "str", "default": "/var/lib/gpu-prebake/release-notes.txt"},
}


def body(module: AnsibleModule) -> dict[str, Any]:
    request = request_from(module.params)
    runner = SystemRunner()
    if module.check_mode:
        return {"changed": flow.would_bake(runner, request), "report": {}}
    baked = flow.bake(runner, request, ProgressLog(Path("/"), "bake.log"))
    notes = [report.release_note(layer) for layer in baked.layers]
    return {"changed": baked.changed, "report": baked.report, "release_note": "\n".join(notes)}


def main() -> None:
    run_module(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
