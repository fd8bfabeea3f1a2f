#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/bake/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prebake_info
short_description: Tell whether a bake may begin here, and what it still needs
version_added: 0.1.0
description:
  - Looks at inputs, machine, kernels, space, foreign drivers and containerd, and fails with what to do when a bake must not begin.
  - Changes nothing.
extends_documentation_fragment:
  - gpu.prebake.options.image
  - gpu.prebake.options.bake
  - gpu.prebake.options.signing
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
nouveau:
  description: What the bake makes of nouveau, in words.
  returned: success
  type: str
  sample: "no installed kernel has a module nouveau: nothing is written"
notes:
  description: What is worth saying and no reason to refuse.
  returned: success
  type: list
  elements: str
  sample: []
code:
  description: On failure, the cause as a word that never changes (docs/codes.md).
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

ARGUMENTS: options.Spec = {
    **options.IMAGE,
    **options.BAKE,
    **options.SIGNING,
}


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
