#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/boot/flow.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_boot
short_description: Bring up the NVIDIA driver of a GPU node, baked or not
version_added: 0.1.0
description:
  - Looks at the node, decides with a reason code and a sentence, and carries that out under one deadline. C(install-skip-build) where
    what was baked matches exactly, C(install) where it does not or was never baked, nothing where no driver belongs.
  - Loads the modules, checks that the driver answers, restarts containerd if and only if its configuration changed, writes the node
    record. A second run changes nothing and runs no container.
  - While it runs, C(/var/log/gpu-prebake/boot.log) on the node can be followed.
options:
  managed:
    description: Whether this node's driver is managed here; where not, nothing is done.
    type: bool
    default: true
  expected_gpus:
    description: How many GPUs the node must have, or C(auto) for as many as there are. Late ones are waited for.
    type: raw
    default: auto
  flavour:
    description: Which kernel modules are accepted.
    type: str
    choices: [any, open, proprietary]
    default: any
  require_digest:
    description: Whether a baked layer whose image digest is unknown on either side is refused.
    type: bool
    default: true
  accept_no_device:
    description: Whether nvidia-smi finding no device is accepted, where the image's marker accepts it too; for tests on a fake GPU.
    type: bool
    default: false
  deadline_s:
    description: Seconds for everything.
    type: float
    default: 780
  tries:
    description: Runs of the driver container, at most.
    type: int
    default: 5
  delay_s:
    description: Seconds between two runs.
    type: float
    default: 10
  try_s:
    description: Seconds that one run may take; cut to what the deadline leaves.
    type: float
    default: 600
  fallback_s:
    description: Seconds of the deadline that are kept for a full install while the fast path is tried.
    type: float
    default: 240
  late_gpus_s:
    description: Seconds to wait for GPUs that are expected and not yet on the bus.
    type: float
    default: 30
  restart_containerd:
    description: C(auto) restarts containerd once if its configuration changed, C(never) says so and leaves it.
    type: str
    choices: [auto, never]
    default: auto
  marker_path:
    description: Where the driver container writes its marker.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  progress:
    description: Whether the lines of the log are shown as they come, which takes a few more calls than one.
    type: bool
    default: false
extends_documentation_fragment:
  - gpu.prebake.options.image
  - gpu.prebake.options.source
attributes:
  check_mode:
    support: full
    description: Shows the plan and touches nothing.
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

- name: Bring up the driver of a node that reaches no registry, and whose image does not hold the driver image
  gpu.prebake.gpu_boot:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
    image_archive: /srv/images/aks-gpu-cuda-580.126.09.tar
"""

RETURN = r"""
action:
  description: What the driver container was asked for.
  returned: success
  type: str
  sample: install-skip-build
reason_code:
  description: Why, as a word that never changes (docs/codes.md).
  returned: success
  type: str
  sample: baked_layer_matches
reason:
  description: Why, in words.
  returned: success
  type: str
  sample: >-
    cuda 580.126.09 (open) was baked for exactly kernel 6.1.0-45-cloud-amd64, and its files were verified; the build is skipped
result:
  description:
    - What came of it, C(fast), C(compiled), C(ready), C(nothing), or C(planned) in check mode.
    - C(removed) where a layer that was in place has been taken away, because no driver belongs on this node.
  returned: success
  type: str
  sample: fast
refused:
  description: The rungs of the ladder that were not taken, each with code and reason.
  returned: success
  type: list
  elements: dict
  sample:
    - rung: already-right
      code: never_initialised
      reason: this node has no node record, so nothing has been installed on it yet
planned_steps:
  description: Steps of the plan.
  returned: success
  type: list
  elements: str
  sample: [run-container, load-modules, check-driver, restart-containerd, write-record, start-services]
steps:
  description: Steps taken, each with name, seconds and outcome.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "load-modules", "seconds": 0.8, "outcome": "ok"}]
provisional:
  description: Whether the image must be pulled before the plan is final.
  returned: success
  type: bool
  sample: false
image_wanted:
  description: In check mode, whether the driver image would be fetched.
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
  description: Version of the module in the kernel; empty where there is none.
  returned: success
  type: str
  sample: 580.126.09
device_check:
  description: C(answered), C(waived), or empty where it was not asked.
  returned: success
  type: str
  sample: answered
node_warnings:
  description: What is worth knowing and no failure.
  returned: success
  type: list
  elements: str
  sample: []
code:
  description: On failure, the cause as a word that never changes (docs/codes.md).
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

ARGUMENTS: options.Spec = {
    **options.IMAGE,
    "managed": {"type": "bool", "default": True},
    "expected_gpus": {"type": "raw", "default": "auto"},
    "flavour": {"type": "str", "choices": ["any", "open", "proprietary"], "default": "any"},
    "require_digest": {"type": "bool", "default": True},
    "accept_no_device": {"type": "bool", "default": False},
    "deadline_s": {"type": "float", "default": 780},
    "tries": {"type": "int", "default": 5},
    "delay_s": {"type": "float", "default": 10},
    "try_s": {"type": "float", "default": 600},
    "fallback_s": {"type": "float", "default": 240},
    "late_gpus_s": {"type": "float", "default": 30},
    "restart_containerd": {"type": "str", "choices": ["auto", "never"], "default": "auto"},
    "marker_path": {"type": "str", "default": "/opt/azure/aks-gpu/dkms-marker"},
    "progress": {"type": "bool", "default": False},
    **options.SOURCE,
}
_POLICY_OPTIONS = (
    "managed",
    "flavour",
    "require_digest",
    "accept_no_device",
    "deadline_s",
    "tries",
    "delay_s",
    "try_s",
    "fallback_s",
    "late_gpus_s",
    "restart_containerd",
)


def body(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    policy = Policy(
        wanted=reference.wanted(params["image"], params["pull_image"], params["kind"], params["version"]),
        expected_gpus=expected_gpus(params["expected_gpus"]),
        **{name: params[name] for name in _POLICY_OPTIONS},
    )
    source = registry.source_from(params)
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
