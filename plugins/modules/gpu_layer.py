#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/activation/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_layer
short_description: Activate, deactivate or discard a captured driver layer
version_added: 0.1.0
description:
  - A captured layer is inert in the store of the image. This module activates it (puts its files in their places), deactivates it (takes
    exactly these files away again), or discards it (deletes it from the store).
  - Each of these is a transaction. After an interruption at any point, the next run rolls an activation back, and completes a deactivation.
  - An activation replaces only files that are what they were at the bake. If such a file has changed, if another file is in the way, or if
    the store is damaged, the module fails, names the file, and has changed nothing.
  - A deactivation removes only files that the activation put there and that are unchanged since, by content, mode and owner. It restores
    what they had replaced.
  - A deactivation first stops the driver's own services and unloads the modules of the layer's version, and no others. To load modules, use
    M(gpu.prebake.gpu_boot).
# BEGIN options of module gpu_layer: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
options:
  layer:
    description:
      - Name of the layer, which is the name of its folder in the store. Needed for O(state=active) and O(state=absent).
      - With O(state=inactive), an active layer of another name stays. Without a name, whatever layer is active is deactivated.
    type: str
  state:
    description:
      - V(active) activates the layer, V(inactive) deactivates it, V(absent) discards it from the store.
      - An active layer cannot be discarded. A layer that version 0.1.0 baked in place can neither be activated nor discarded.
    type: str
    choices: [active, inactive, absent]
    default: active
  in_use:
    description:
      - What to do with O(state=inactive) if the driver is in use. V(refuse) fails, names who uses it, and touches nothing.
      - V(until_reboot) removes the files all the same. The modules stay until the node reboots, and work that uses them may fail until
        then.
      - If a GPU operator or a distribution also has a driver on the node, modules that are in use stay in any case.
    type: str
    choices: [refuse, until_reboot]
    default: refuse
# END options of module gpu_layer
attributes:
  check_mode:
    support: full
    description: Reports whether it would change something, and fails if the change would be refused. Changes nothing.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Activate a layer
  gpu.prebake.gpu_layer:
    layer: cuda-580.126.09-open-6.1.0-45-cloud-amd64

- name: Deactivate the layer that is active
  gpu.prebake.gpu_layer:
    state: inactive

- name: Discard a layer from the store
  gpu.prebake.gpu_layer:
    layer: cuda-580.126.09-open-6.1.0-45-cloud-amd64
    state: absent
"""

RETURN = r"""
layer:
  description: The layer that the module worked on. Empty if nothing was active.
  returned: success
  type: str
  sample: cuda-580.126.09-open-6.1.0-45-cloud-amd64
how:
  description: How many files were put in place in which way, as C(link), C(reflink), C(copy), or C(made) for symbolic links.
  returned: success
  type: dict
  sample: {"copy": 441, "link": 31, "made": 12}
indexes_swapped:
  description: Whether the kernel's module indexes were taken from the bake, instead of running depmod.
  returned: success
  type: bool
  sample: true
removed:
  description: Paths of the layer that were removed.
  returned: success
  type: list
  elements: str
  sample: ["/usr/bin/nvidia-smi"]
restored:
  description: Paths of the node's own files that the layer had replaced or deleted, and that were restored.
  returned: success
  type: list
  elements: str
  sample: ["/usr/lib/modules/6.1.0-45-cloud-amd64/modules.dep"]
second_copies:
  description: Copies of the layer's libraries that a driver container had made in the loader's folder, and that were removed.
  returned: success
  type: list
  elements: str
  sample: ["/usr/lib/x86_64-linux-gnu/libcuda.so.580.126.09"]
kept:
  description: What stays because it was changed since the activation or is not the layer's, with the reason.
  returned: success
  type: list
  elements: str
  sample: ["/etc/modprobe.d/nvidia.conf: its sha256 was changed after the layer was put in place"]
left:
  description: What else of a driver stays, such as packages that a driver container installed, with the reason.
  returned: success
  type: list
  elements: str
  sample: ["package nvidia-container-toolkit: a driver container may have installed it; apt-get purge it where nothing else needs it"]
modules:
  description: Kernel modules that were unloaded.
  returned: success
  type: list
  elements: str
  sample: ["nvidia-uvm", "nvidia"]
services:
  description: Services of the driver that were stopped.
  returned: success
  type: list
  elements: str
  sample: ["nvidia-persistenced"]
resident:
  description: Modules of the layer's version that are still in the kernel. A reboot unloads them.
  returned: success
  type: list
  elements: str
  sample: []
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: path_taken
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils import options
from ansible_collections.gpu.prebake.plugins.module_utils.answer import plain, run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import ProgressLog
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

ARGUMENTS = options.argument_spec("gpu_layer")


def body(module: AnsibleModule) -> dict[str, Any]:
    say = ProgressLog(Path("/"), "layer.log")
    result: dict[str, Any] = plain(
        flow.set_state(
            SystemRunner(), module.params["state"], module.params["layer"] or "", module.check_mode, say, in_use=module.params["in_use"]
        )
    )
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("state", "active", ["layer"]), ("state", "absent", ["layer"])],
        supports_check_mode=True,
    )
    run_module(module, body)


if __name__ == "__main__":
    main()
