#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/bake/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prebake_info
short_description: Check whether a bake can begin here, and what it still needs
version_added: 0.1.0
description:
  - Checks options, machine, kernels, free space, foreign drivers and containerd. If a bake must not begin, the module fails and says what
    to do.
  - Changes nothing.
# BEGIN options of module prebake_info: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
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
# END options of module prebake_info
attributes:
  check_mode:
    support: full
    description: Does the same as without check mode, since it changes nothing.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Check the machine before a bake
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
  description: Packages that the bake needs and that are not installed.
  returned: success
  type: list
  elements: str
  sample: [libc6-dev]
nouveau:
  description: What the bake will do about nouveau, in words.
  returned: success
  type: str
  sample: "no installed kernel has a nouveau module: nothing is written"
notes:
  description: Warnings that are no reason to refuse the bake.
  returned: success
  type: list
  elements: str
  sample: []
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: foreign_driver
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils import options
from ansible_collections.gpu.prebake.plugins.module_utils.answer import run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.request import request_from
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

ARGUMENTS = options.argument_spec("prebake_info")


def body(module: AnsibleModule) -> dict[str, Any]:
    found = flow.look(SystemRunner(), request_from(module.params))
    return {
        "changed": False,
        "kernels": list(found.kernels),
        "arch": found.arch,
        "missing_packages": list(found.missing_packages),
        "nouveau": found.nouveau,
        "notes": list(found.warnings),
    }


def main() -> None:
    run_module(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
