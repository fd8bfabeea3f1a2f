#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/seal/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_seal
short_description: Prove that an image is what a bake says it is
version_added: 0.1.0
description:
  - Checks a finished image, as the last step of its build, or mounted on another machine.
  - The image must be inert, which means that nothing of a driver is live outside the store; covered, which means that the kernel that
    boots has a layer; usable, which means that a node finds the driver image, the tools to compile for itself, and space; and right, which
    means that the decision, replayed for each kernel and GPU generation, takes the fast path.
  - Fails if one of these is not the case. The report stays in the image, as C(/var/lib/gpu-prebake/seal-report.json).
  - The files of a layer that a bake in mode C(in_place) activated are live on purpose. The seal verifies them; no other activation passes.
# BEGIN options of module image_seal: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
options:
  root:
    description:
      - Root filesystem of the image to seal. V(/) is the running system.
      - Any other path is an image that is mounted there, also read-only. Its containerd is not asked, and nothing in it is run. The machine
        needs C(lsinitramfs) or C(lsinitrd) to read its initramfs images, and C(modinfo) if a layer is in place.
    type: path
    default: /
  image:
    description:
      - The value that the bake had. The seal refuses an image with a layer that was baked from another driver image, as after a change of
        this value that no bake has followed.
      - It may be empty only where nothing need be baked.
    type: raw
    default: ""
    version_added: 0.2.0
  pull_image:
    description: The value that the bake had. If it has a digest, the driver image in containerd must have it.
    type: raw
    default: ""
    version_added: 0.2.0
  kind:
    description: The value that the bake had. The layers must be of this driver kind.
    type: str
    default: ""
    version_added: 0.2.0
  version:
    description: The value that the bake had. The layers must be of this driver version.
    type: raw
    default: ""
    version_added: 0.2.0
  flavour:
    description: The value that the bake had. The layers' modules must be V(open) or V(proprietary) as it says, and may be both with V(any).
    type: str
    choices: [any, open, proprietary]
    default: any
    version_added: 0.2.0
  mode:
    description: The value that the bake had. With V(captured) no layer may be live in the image, with V(in_place) the layer must be.
    type: str
    choices: [captured, in_place]
    default: captured
    version_added: 0.2.0
  signed:
    description: Whether the layers' modules must be signed. The role sets it if a signing key is given.
    type: bool
    default: false
    version_added: 0.2.0
  signing_certificate:
    description: The value that the bake had. The seal refuses a layer whose modules were signed with the key of another certificate, as
      after a change of key that no bake has followed.
    type: str
    default: ""
    version_added: 0.2.0
  signing_remote_src:
    description: The value that the bake had. If the certificate was on the machine and is no longer there, the seal does not compare it,
      and says so.
    type: bool
    default: false
    version_added: 0.2.0
  signer:
    description: SHA-256 of the certificate whose key must have signed the layers' modules, in hexadecimal. Set automatically from
      O(signing_certificate) if that file is on the controller.
    type: str
    default: ""
    version_added: 0.2.0
  kernels:
    description:
      - Kernels that must have a layer, besides the kernel that the boot loader takes by default. Give the value that the bake had.
      - V(newest) names no further kernel, V(all) every installed one. Otherwise give a kernel release as C(uname -r) prints it, or a list
        of releases.
    type: raw
    default: newest
  uncovered:
    description: What the seal does if the image can also boot a kernel that has no layer and that O(kernels) does not name. V(report)
      reports that kernel, V(fail) refuses the image.
    type: str
    choices: [report, fail]
    default: report
  gpu_generations:
    description:
      - GPU generations that the image is meant for, such as V(ampere). V(kepler) is the oldest and V(rubin) the newest.
      - The seal refuses an image if the modules of a layer do not drive one of them. Empty means all that the modules drive.
    type: list
    elements: str
    default: []
  marker_path:
    description:
      - Absolute path on the machine at which the driver container writes its marker. Bake, seal, boot and removal need the same one.
      - The default is where the aks-gpu driver images write it.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  min_free_mb:
    description: Space in MB that the seal wants free in the image, for a node that has to build the driver itself.
    type: int
    default: 1024
  baked:
    description: Whether the image must hold a layer. With V(false), an image without one is not looked at; an image with one is.
    type: bool
    default: true
  blacklist_nouveau:
    description: The value that the bake had. With V(true), the bake's blacklist files must be there, unchanged and in every initramfs,
      unless the image needs none. With V(false), it must be nowhere.
    type: bool
    default: true
# END options of module image_seal
attributes:
  check_mode:
    support: full
    description: Checks everything and writes no report.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Seal the image
  gpu.prebake.image_seal:
    uncovered: fail
    gpu_generations: [ampere, hopper]

- name: Seal an image that is mounted on this machine
  gpu.prebake.image_seal:
    root: /mnt/image
"""

RETURN = r"""
report:
  description: What was found, also if the image is refused.
  returned: always
  type: dict
  sample: {"kernels": ["6.1.0-45-cloud-amd64"], "refusals": [], "notes": [], "replayed": [{"gpu": "hopper", "code": "baked_layer_matches"}]}
summary:
  description: What was proven, in one line.
  returned: success
  type: str
  sample: "sealed: inert, kernel 6.1.0-45-cloud-amd64 covered, fast path for turing, ampere, hopper, ada"
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: seal_refused
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils import options
from ansible_collections.gpu.prebake.plugins.module_utils.answer import run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal import flow, request
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import host
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

ARGUMENTS = options.argument_spec("image_seal")


def body(module: AnsibleModule) -> dict[str, Any]:
    host.require_root()
    root = Path(module.params["root"])
    runner = SystemRunner()
    containerd = Containerd(runner) if root == Path("/") else None
    found = flow.seal(root, runner, containerd, request.request_from(module.params), write=not module.check_mode)
    return {"changed": False, "report": asdict(found), "summary": found.summary, "notes": found.notes}


def main() -> None:
    run_module(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
