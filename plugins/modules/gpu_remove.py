#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/removal/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_remove
short_description: Take away the NVIDIA driver that was baked or brought up here
version_added: 0.1.0
description:
  - Takes away what M(gpu.prebake.prebake_layer) and M(gpu.prebake.gpu_boot) put on this node or into this image, and says what it left.
  - Goes by our own documents. Only what we placed goes, and only while it is unchanged since, by hash. A file that was edited, a driver
    that is not ours, and packages that a driver container installed stay and are named.
  - The driver's own services are stopped, and modules are unloaded, dependents first, never by force. Where somebody else uses the driver,
    it fails with the code C(driver_in_use), names who, and has removed nothing.
  - Interrupted at any point, the next run goes on. A second run changes nothing.
options:
  scope:
    description:
      - C(everything) takes the driver, the records and reports of bakes and boots, and the logs.
      - C(driver) takes the driver and the records that say what is ours; captured layers stay inert in the store, and so do reports,
        release notes in the store and logs.
    type: str
    choices: [everything, driver]
    default: everything
  images:
    description: Whether the driver images that our documents mention go from containerd too, by every name that they have there.
    type: bool
    default: false
  in_use:
    description:
      - What to do where a module cannot be unloaded. C(refuse) removes nothing.
      - C(until_reboot) removes the files all the same. Until the node reboots the module stays, and what runs on it may fail.
    type: str
    choices: [refuse, until_reboot]
    default: refuse
  restart_containerd:
    description: C(auto) restarts containerd once if its configuration changed, C(never) says so and leaves it.
    type: str
    choices: [auto, never]
    default: auto
  deadline_s:
    description: Seconds for stopping services and unloading, and again for containerd's restart.
    type: float
    default: 300
  marker_path:
    description: Where the driver container writes its marker.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  release_notes:
    description: File in the image that got one line of what was baked; that line goes, others stay.
    type: str
    default: /var/lib/gpu-prebake/release-notes.txt
attributes:
  check_mode:
    support: full
    description: Says what would go and what would stay, and touches nothing.
  diff_mode:
    support: full
    description: Shows the paths that go and what is left.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Take away all that is ours
  gpu.prebake.gpu_remove:

- name: Take away the driver and its images, keep reports and logs
  gpu.prebake.gpu_remove:
    scope: driver
    images: true
"""

RETURN = r"""
result:
  description: What came of it, C(removed), C(nothing) where nothing of ours is here, or C(planned) in check mode.
  returned: success
  type: str
  sample: removed
reason:
  description: The same in words.
  returned: success
  type: str
  sample: 57 paths went, 3 things are left and named
removed:
  description: Paths that went; a folder stands for all that was in it.
  returned: success
  type: list
  elements: str
  sample: ["/usr/bin/nvidia-smi", "/var/lib/dkms/nvidia/580.126.09"]
restored:
  description: Paths of the system's own files that a captured layer had replaced or deleted, and that are back.
  returned: success
  type: list
  elements: str
  sample: []
left:
  description: What stays, each with what it is and why.
  returned: success
  type: list
  elements: dict
  sample: [{"what": "/etc/modprobe.d/blacklist-nouveau.conf", "why": "changed since it was placed: it is yours now"}]
services:
  description: Services that were stopped.
  returned: success
  type: list
  elements: str
  sample: [nvidia-persistenced]
modules:
  description: Modules that were unloaded, in this order.
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
  description: Steps taken, each with name, seconds and outcome.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "remove-files", "seconds": 0.2, "outcome": "ok"}]
code:
  description: On failure, the cause as a word that never changes (docs/codes.md).
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

ARGUMENTS: options.Spec = {
    "scope": {"type": "str", "choices": ["everything", "driver"], "default": "everything"},
    "images": {"type": "bool", "default": False},
    "in_use": {"type": "str", "choices": ["refuse", "until_reboot"], "default": "refuse"},
    "restart_containerd": {"type": "str", "choices": ["auto", "never"], "default": "auto"},
    "deadline_s": {"type": "float", "default": 300},
    "marker_path": {"type": "str", "default": "/opt/azure/aks-gpu/dkms-marker"},
    "release_notes": {"type": "str", "default": "/var/lib/gpu-prebake/release-notes.txt"},
}


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
