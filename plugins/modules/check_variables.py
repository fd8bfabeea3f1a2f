#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action of this name (plugins/action/check_variables.py), which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_variables
short_description: Refuse misspelled variables of a role
version_added: 0.2.0
description:
  - Each role of this collection calls it first. It fails if a variable begins with the role's name and is not one of the role's, and names
    the variable of the role that is nearest. A misspelled variable would otherwise have no effect.
  - The names come from everywhere that Ansible takes variables from, for the host of the task. Values are not looked at.
  - It warns of a variable whose beginning is almost the role's name, such as C(nvida_prebake_image).
# BEGIN options of module check_variables: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
options:
  role:
    description: >-
      The role whose variables are checked: V(nvidia_prebake), V(gpu_boot) or V(gpu_remove).
    type: str
    choices: [nvidia_prebake, gpu_boot, gpu_remove]
    required: true
  ignored_variables:
    description: Names that begin with the role's name and belong to another role or to you, not to the role. The role does not refuse them.
      A C(*) at the end of a name stands for anything.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
# END options of module check_variables
attributes:
  action:
    support: full
    description: It runs on the controller, and not on the node.
  check_mode:
    support: full
    description: It changes nothing.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Check the variables of the role
  gpu.prebake.check_variables:
    role: gpu_boot
    ignored_variables: [gpu_boot_wave]
"""

RETURN = r"""
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: unknown_variable
"""
