#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/removal/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_remove
short_description: Uninstall the NVIDIA driver that was baked or brought up here
version_added: 0.1.0
description:
  - Removes what M(gpu.prebake.prebake_layer) and M(gpu.prebake.gpu_boot) put on this node or into this image, and lists what it left.
  - Removes only files that our own documents list, and only if their hashes are unchanged since we placed them. Files that were edited,
    drivers that are not ours, and packages that a driver container installed stay, and are listed in RV(left).
  - First stops the driver's own services and unloads the modules, dependents first and never by force. If something else uses the driver,
    the module fails with the code C(driver_in_use), names the user, and has removed nothing.
  - After an interruption at any point, the next run continues. A second run changes nothing.
# BEGIN options of module gpu_remove: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
options:
  scope:
    description:
      - What to remove. V(everything) removes the driver, the records and reports of bakes and boots, captured layers, and the logs.
      - V(driver) removes the driver and the records that say what is ours. Captured layers stay inert in the store for a later boot.
        Reports, release notes in the store and logs stay too.
    type: str
    choices: [everything, driver]
    default: everything
  images:
    description:
      - Whether to remove from containerd also the driver images that we have pulled or that our documents mention, under every name that
        they have there. A later boot or bake then pulls again.
      - With V(false) they stay. If everything else is removed, they are no longer pinned, so kubelet may delete them.
    type: bool
    default: false
  in_use:
    description:
      - What to do if the driver is in use and a module therefore cannot be unloaded. V(refuse) fails, names who uses it, and removes
        nothing.
      - V(until_reboot) removes the files all the same. The module stays until the node reboots, and work that uses it may fail until then.
    type: str
    choices: [refuse, until_reboot]
    default: refuse
  restart_containerd:
    description:
      - What to do if containerd's configuration has changed. V(auto) restarts containerd, once.
      - V(never) does not restart it and reports that a restart is needed.
    type: str
    choices: [auto, never]
    default: auto
  deadline_s:
    description: Seconds for stopping services and unloading modules, and as many again for a restart of containerd.
    type: float
    default: 300
  marker_path:
    description:
      - Absolute path on the machine at which the driver container writes its marker. Bake, seal, boot and removal need the same one.
      - The default is where the aks-gpu driver images write it.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  release_notes:
    description:
      - Absolute path of a file in the image that gets one line for each layer that is baked.
      - The next bake replaces these lines, and a removal of everything deletes them. Other lines of the file stay.
    type: str
    default: /var/lib/gpu-prebake/release-notes.txt
# END options of module gpu_remove
attributes:
  check_mode:
    support: full
    description: Returns what would be removed and what would stay. Changes nothing.
  diff_mode:
    support: full
    description: Shows the paths that are removed, and what is left.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Uninstall everything that is ours
  gpu.prebake.gpu_remove:

- name: Uninstall the driver and its images, keep reports and logs
  gpu.prebake.gpu_remove:
    scope: driver
    images: true
"""

RETURN = r"""
result:
  description: What came of it, C(removed), C(nothing) if nothing of ours is here, or C(planned) in check mode.
  returned: success
  type: str
  sample: removed
reason:
  description: The same in words.
  returned: success
  type: str
  sample: 57 paths were removed, 3 things are left
removed:
  description: Paths that were removed. A folder stands for everything that was in it.
  returned: success
  type: list
  elements: str
  sample: ["/usr/bin/nvidia-smi", "/var/lib/dkms/nvidia/580.126.09"]
restored:
  description: Paths of the system's own files that a captured layer had replaced or deleted, and that were restored.
  returned: success
  type: list
  elements: str
  sample: []
left:
  description: What stays, each with what it is and why it stays.
  returned: success
  type: list
  elements: dict
  sample: [{"what": "/etc/modprobe.d/gpu-prebake-nouveau.conf", "why": "changed since a bake wrote it: it is no longer ours"}]
services:
  description: Services that were stopped.
  returned: success
  type: list
  elements: str
  sample: [nvidia-persistenced]
modules:
  description: Modules that were unloaded, in the order of unloading.
  returned: success
  type: list
  elements: str
  sample: [nvidia-uvm, nvidia]
images:
  description: Names of driver images that were removed from containerd.
  returned: success
  type: list
  elements: str
  sample: []
containerd_restarted:
  description: Whether containerd was restarted.
  returned: success
  type: bool
  sample: true
reboot_needed:
  description: Whether a module stays in the kernel until the next reboot.
  returned: success
  type: bool
  sample: false
steps:
  description: The steps that were taken, each with name, seconds and outcome.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "remove-files", "seconds": 0.2, "outcome": "ok"}]
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: driver_in_use
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils import options
from ansible_collections.gpu.prebake.plugins.module_utils.answer import plain, run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.flow import remove
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import Removed, RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import ProgressLog
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

ARGUMENTS = options.argument_spec("gpu_remove")


def body(module: AnsibleModule) -> dict[str, Any]:
    request = RemoveRequest(**module.params)
    if module.check_mode:
        done = remove(SystemRunner(), request, True)
    else:
        done = remove(SystemRunner(), request, False, ProgressLog(Path("/"), "remove.log"))
    done.removed, done.restored = [f"/{path}" for path in done.removed], [f"/{path}" for path in done.restored]
    result: dict[str, Any] = {"changed": done.result != "nothing", **plain(done)}
    if module._diff:
        result["diff"] = diff(done)
    return result


def diff(done: Removed) -> dict[str, str]:
    """What goes and what is left, as something that Ansible shows."""
    left = "".join(f"left: {item.what}: {item.why}\n" for item in done.left)
    gone = [*(f"module {name}" for name in done.modules), *(f"driver image {name}" for name in done.images), *done.removed]
    return {"before": "".join(f"{line}\n" for line in gone) + left, "after": left, "before_header": "node", "after_header": "gpu_remove"}


def main() -> None:
    run_module(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
