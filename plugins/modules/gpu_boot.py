#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/boot/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_boot
short_description: Bring up the NVIDIA driver of a GPU node, whether its image was baked or not
version_added: 0.1.0
description:
  - Looks at the node, decides what to do, and does it under one deadline. The decision has a reason code and a reason in words.
  - If what was baked matches this node exactly, the driver container runs with C(install-skip-build). If it does not match, or if nothing
    was baked, the driver container runs with C(install). If this node should have no driver, nothing is installed.
  - Then loads the modules, checks that the driver answers, restarts containerd only if its configuration changed, and writes the node
    record. A second run changes nothing and runs no container.
  - While the module runs, C(/var/log/gpu-prebake/boot.log) on the node can be followed.
# BEGIN options of module gpu_boot: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
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
  managed:
    description: Whether the driver of this node is managed here. With V(false), nothing is done, except that a layer that this node has
      used before is deactivated.
    type: bool
    default: true
  expected_gpus:
    description:
      - Number of GPUs that the node must have. GPUs that are late are waited for (O(late_gpus_s)), and a missing one is an error.
      - V(auto) means as many as there are. A node that has lost one of eight GPUs is then still reported as healthy.
    type: raw
    default: auto
  flavour:
    description: Kernel modules that are accepted, V(open) or V(proprietary). V(any) accepts both.
    type: str
    choices: [any, open, proprietary]
    default: any
  require_digest:
    description:
      - Whether to refuse a baked layer if the config digest of the driver image is unknown, in the manifest or in containerd.
      - V(false) also accepts a driver container's marker without a manifest.
    type: bool
    default: true
  accept_no_device:
    description: Whether C(nvidia-smi) may find no device, if the driver image's marker accepts that too. For tests on a fake GPU.
    type: bool
    default: false
  deadline_s:
    description: Seconds that the whole run may take, all tries and waits included.
    type: float
    default: 780
  tries:
    description: Maximum number of times that the driver container is run.
    type: int
    default: 5
  delay_s:
    description: Seconds to wait between two runs of the driver container.
    type: float
    default: 10
  try_s:
    description: Seconds that one run of the driver container may take, or what O(deadline_s) leaves if that is less.
    type: float
    default: 600
  fallback_s:
    description: Seconds of O(deadline_s) that are reserved for a full install while the fast path is tried. They must be fewer than
      O(deadline_s).
    type: float
    default: 240
  late_gpus_s:
    description: Seconds to wait for GPUs that are expected and not yet on the PCI bus. With O(expected_gpus=auto), there is no wait.
    type: float
    default: 30
  fabric_s:
    description:
      - Seconds that each GPU may take, on a node with NVSwitches, until C(nvidia-smi) says that it has joined the NVLink fabric.
      - Until all have, CUDA ends with error 802. GPUs join one after the other, so the limit grows with their number.
      - V(0) does not look at it.
    type: float
    default: 30
    version_added: 0.2.0
  restart_containerd:
    description:
      - What to do if containerd's configuration has changed. V(auto) restarts containerd, once.
      - V(never) does not restart it and reports that a restart is needed.
    type: str
    choices: [auto, never]
    default: auto
  marker_path:
    description:
      - Absolute path on the machine at which the driver container writes its marker. Bake, seal, boot and removal need the same one.
      - The default is where the aks-gpu driver images write it.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  progress:
    description: Whether to show the lines of the node's log as they come. This takes a few more calls to the node than one.
    type: bool
    default: false
  hosts_dir:
    description:
      - Folder on the machine in which containerd's registry hosts are configured, mirrors among them. It is used as it is.
      - If this is empty, no such folder is used.
    type: str
    default: /etc/containerd/certs.d
  registry_username:
    description:
      - User of the registry that the image is pulled from. O(registry_password) is then needed too.
      - The login is given to every host that asks for one, also to a mirror from O(hosts_dir).
      - By default, there is no login.
    type: str
    default: ""
  registry_password:
    description:
      - Password or token of O(registry_username), in one line of at most 4094 bytes. Keep it in a vault.
      - It appears on no command line of the machine, in no file and in no result.
    type: str
    default: ""
  registry_ca:
    description:
      - Certificate of the authority that issued the registry's certificate, as PEM text, or the absolute path of a PEM file on the machine.
      - It is trusted for this pull only, in addition to the authorities that the machine trusts.
      - By default, only those are trusted.
    type: str
    default: ""
  registry_plain_http:
    description: Whether to talk plain HTTP to the registry. Whoever listens on the network can then read the login and the image.
    type: bool
    default: false
  image_archive:
    description:
      - >-
        File that holds the driver image: a docker or OCI archive, not compressed, with exactly this image under its canonical reference or
        under the reference to pull by. No registry is asked.
      - The file is on the controller unless O(image_archive_remote_src) is set. It is copied to the machine only if the image is not there
        yet, and the copy is removed afterwards.
      - By default, the image is pulled from a registry.
    type: str
    default: ""
  image_archive_remote_src:
    description: Whether O(image_archive) is already on the machine. It is then used where it is, and stays there.
    type: bool
    default: false
# END options of module gpu_boot
attributes:
  check_mode:
    support: full
    description: Returns the plan and changes nothing.
  diff_mode:
    support: full
    description: Shows the planned steps.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Bring up the driver
  gpu.prebake.gpu_boot:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
    expected_gpus: 8

- name: Bring up the driver of a node that reaches no registry and has no driver image
  gpu.prebake.gpu_boot:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
    image_archive: /srv/images/aks-gpu-cuda-580.126.09.tar
"""

RETURN = r"""
action:
  description: What the driver container was asked to do, such as C(install), or C(none).
  returned: success
  type: str
  sample: install-skip-build
reason_code:
  description: The reason as a word whose meaning never changes (docs/codes.md).
  returned: success
  type: str
  sample: baked_layer_matches
reason:
  description: The reason in words.
  returned: success
  type: str
  sample: >-
    cuda 580.126.09 (open) was baked for exactly kernel 6.1.0-45-cloud-amd64, and its files were verified; the build is skipped
result:
  description:
    - What came of it. C(fast) means without a compile, C(compiled) with one, C(ready) that the driver was right already, C(nothing) that
      nothing was done, and C(planned) is the answer of check mode.
    - C(removed) means that an active layer was deactivated because this node should have no driver.
  returned: success
  type: str
  sample: fast
refused:
  description: The ways to a driver (rungs of the ladder) that were not taken, each with its code and reason.
  returned: success
  type: list
  elements: dict
  sample:
    - rung: already-right
      code: never_initialised
      reason: this node has no node record, so nothing has been installed on it yet
planned_steps:
  description: The steps of the plan.
  returned: success
  type: list
  elements: str
  sample: [run-container, load-modules, check-driver, restart-containerd, write-record, start-services]
steps:
  description: The steps that were taken, each with name, seconds and outcome.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "load-modules", "seconds": 0.8, "outcome": "ok"}]
provisional:
  description: Whether the driver image must be pulled before the plan is final.
  returned: success
  type: bool
  sample: false
image_wanted:
  description: Whether the driver image would be fetched.
  returned: in check mode
  type: bool
  sample: false
containers:
  description: How many driver containers ran.
  returned: success
  type: int
  sample: 1
containerd_restarted:
  description: Whether containerd was restarted.
  returned: success
  type: bool
  sample: true
module_version:
  description: Version of the driver module in the kernel. Empty if none is loaded.
  returned: success
  type: str
  sample: 580.126.09
device_check:
  description: C(answered) if the driver answered, C(waived) if its answer was not required, empty if it was not asked.
  returned: success
  type: str
  sample: answered
node_warnings:
  description: Warnings that are not failures.
  returned: success
  type: list
  elements: str
  sample: []
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: no_device
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils import options
from ansible_collections.gpu.prebake.plugins.module_utils.answer import outcome_result, run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.flow import boot, may_need_image
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy, expected_gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference, registry
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import ProgressLog
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

ARGUMENTS = options.argument_spec("gpu_boot")
_POLICY_OPTIONS = [name for name in options.fields_of("gpu_boot", "Policy") if name != "expected_gpus"]


def body(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    policy = Policy(
        wanted=reference.wanted(params["image"], params["pull_image"], params["kind"], params["version"], "gpu_boot"),
        expected_gpus=expected_gpus(params["expected_gpus"]),
        **{name: params[name] for name in _POLICY_OPTIONS},
    )
    source = registry.source_from(params, "gpu_boot")
    say = (lambda _line: None) if module.check_mode else ProgressLog(Path("/"), "boot.log")
    facts, outcome = boot(SystemRunner(), policy, module.check_mode, params["marker_path"], source, say)
    result = outcome_result(outcome)
    if module.check_mode:
        result["image_wanted"] = may_need_image(facts, outcome.plan)
    if module._diff:
        result["diff"] = diff(outcome)
    return result


def diff(outcome: Outcome) -> dict[str, str]:
    """The planned steps as something that Ansible shows."""
    plan = outcome.plan
    lines = [f"{plan.action.value}: {plan.code}: {plan.reason}", *(f"  {step.value}" for step in plan.steps)]
    return {"before": "", "after": "\n".join(lines) + "\n" if plan.steps else "", "after_header": "gpu_boot"}


def main() -> None:
    run_module(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
