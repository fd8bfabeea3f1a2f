#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/bake/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prebake_layer
short_description: Bake an NVIDIA driver into this image
version_added: 0.1.0
description:
  - Runs the driver container with C(build-only), checks what it built, and, as the last step, records it in a manifest. With
    O(mode=captured), it can do so for several kernels, one after the other.
  - If the build fails, what it added is removed again. Another run with the same options changes nothing.
  - The driver image (M(gpu.prebake.driver_image)), a compiler and kernel headers must be there already.
  - Nouveau is blacklisted too, see O(blacklist_nouveau). This may need new initramfs images, which takes seconds for each kernel.
  - While the module runs, C(/var/log/gpu-prebake/bake.log) on the machine can be followed.
# BEGIN options of module prebake_layer: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
options:
  image:
    description:
      - Canonical reference of the driver image, by tag or digest.
      - >-
        There is no default image: a bake and a boot need one.
    type: raw
    required: true
  pull_image:
    description:
      - Reference to pull the driver image by, if the registry has it under another name. The image is then tagged with O(image).
      - By default, the image is pulled by O(image).
    type: raw
    default: ""
  kind:
    description:
      - Driver kind, V(cuda) or V(grid).
      - By default, it is taken from the name of O(image). Set it only if that name does not say it.
    type: str
    default: ""
  version:
    description:
      - Driver version, in quotes. Without quotes, YAML reads it as a number and may drop digits.
      - By default, it is taken from the tag of O(image). Set it only if that tag does not say it.
    type: raw
    default: ""
  kernels:
    description:
      - Kernels to bake for. Each needs its headers, which the role nvidia_prebake installs.
      - V(newest) is the kernel that the boot loader (GRUB) takes by default. If several kernels are installed and that one cannot be
        determined, the bake fails. If its kernel flavour (such as V(azure)) is not that of the running kernel, the bake warns.
      - V(all) means every installed kernel. Otherwise give a kernel release as C(uname -r) prints it, or a list of releases.
      - With O(mode=in_place), only one kernel is possible.
    type: raw
    default: newest
  flavour:
    description:
      - Kernel modules that the build must produce, V(open) or V(proprietary). V(any) accepts both.
      - >-
        An unmodified driver image makes its own choice, so this does not select a flavour: if the build produced another one, the bake
        fails.
    type: str
    choices: [any, open, proprietary]
    default: any
  mode:
    description:
      - >-
        How to bake. V(captured) does not change the image itself: the driver becomes an inert layer in a store that only root can enter.
      - >-
        V(in_place) bakes in the same way, and then activates the layer in the image: the driver is live there. It is for images that serve
        GPU nodes only.
    type: str
    choices: [captured, in_place]
    default: captured
  blacklist_nouveau:
    description:
      - Whether to blacklist nouveau, by the file C(/etc/modprobe.d/gpu-prebake-nouveau.conf) in the image and in every initramfs; and Nova,
        the kernel's newer driver (C(nova_core)), by C(gpu-prebake-nova.conf).
      - Nothing is written about a driver of which no installed kernel has a module, or which another file already blacklists.
      - V(false) removes what an earlier bake wrote. The seal expects the image to be as this option says.
    type: bool
    default: true
  marker_path:
    description:
      - Absolute path on the machine at which the driver container writes its marker. Bake, seal, boot and removal need the same one.
      - The default is where the aks-gpu driver images write it.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  min_free_mb:
    description: Space in MB that must be free before the bake, on each filesystem that the bake writes to. On C(/boot) and C(/tmp), 64 MB
      are enough.
    type: int
    default: 3072
  signing_key:
    description:
      - >-
        Private key that signs every kernel module of the bake: the path of a PEM or DER file on the controller, or a C(pkcs11:) URI of a
        key in a token of the machine, such as V(pkcs11:token=fleet;object=modules). O(signing_certificate) is then needed too.
      - A key file from the controller is on the machine only while the module runs, in memory, in a folder below C(/run) that only root can
        enter.
      - By default, nothing is signed, and nodes that enforce module signatures refuse the modules.
    type: str
    default: ""
  signing_certificate:
    description: X.509 certificate that belongs to O(signing_key), as the path of a PEM or DER file on the controller. Set both or neither.
    type: str
    default: ""
  signing_pin:
    description:
      - PIN of the token, or passphrase of the key. Keep it in a vault. V(file:) followed by an absolute path names a file on the machine
        that holds it.
      - It appears in no argument of any program, and in no file except in memory.
      - By default, there is none.
    type: str
    default: ""
  signing_remote_src:
    description: Whether the files of O(signing_key) and O(signing_certificate) are already on the machine. They are used there, and stay.
    type: bool
    default: false
  tries:
    description: Number of tries to build, for each kernel. A failure that another try cannot mend, such as a compile error or a full disk,
      is not tried again.
    type: int
    default: 3
  delay_s:
    description: Seconds to wait between two tries to build.
    type: float
    default: 10
  try_s:
    description: Seconds that one try to build may take. After that, everything that runs in the driver container is killed.
    type: float
    default: 600
  release_notes:
    description:
      - Absolute path of a file in the image that gets one line for each layer that is baked.
      - The next bake replaces these lines, and a removal of everything deletes them. Other lines of the file stay.
    type: str
    default: /var/lib/gpu-prebake/release-notes.txt
# END options of module prebake_layer
attributes:
  check_mode:
    support: full
    description: Reports, from the layers that are there, whether it would bake. Builds nothing.
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
  description:
    - What was baked. The image has it as C(/var/lib/gpu-prebake/bake-report.json). Empty in check mode.
    - C(image_growth) is how much larger the image is by all bakes, in bytes, C(store_bytes) in the store, and C(copied_bytes) outside
      of it, which are the files that an activation copied. Files that it linked to the store need no space of their own.
  returned: success
  type: dict
  sample:
    layer: cuda-580.126.09-open-6.1.0-45-cloud-amd64
    build_seconds: 92.1
    image_growth: {store_bytes: 412000000, copied_bytes: 0}
release_note:
  description: The lines for the image's release notes, one for each layer.
  returned: success, not in check mode
  type: str
  sample: "nvidia-prebake: cuda 580.126.09 (open) for kernel 6.1.0-45-cloud-amd64, from reg/aks-gpu-cuda:580.126.09-20260430040408"
container_output:
  description: The last lines of the container's output.
  returned: failure of a build
  type: str
  sample: "make: *** [Makefile:3: all] Error 2"
dkms_log:
  description: The last lines of DKMS's log.
  returned: failure of a build
  type: str
  sample: "nvidia.c:12:5: error: implicit declaration of function 'foo'"
log:
  description: The path of the container's log on the machine.
  returned: failure of a build
  type: str
  sample: /var/log/gpu-prebake/gpuprebuild-1.log
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
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

ARGUMENTS = options.argument_spec("prebake_layer")


def body(module: AnsibleModule) -> dict[str, Any]:
    request = request_from(module.params)
    runner = SystemRunner()
    if module.check_mode:
        return {"changed": flow.would_change(runner, request), "report": {}}
    baked = flow.bake(runner, request, ProgressLog(Path("/"), "bake.log"))
    notes = [report.release_note(layer, request) for layer in baked.layers]
    return {"changed": baked.changed, "report": baked.report, "release_note": "\n".join(notes)}


def main() -> None:
    run_module(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
