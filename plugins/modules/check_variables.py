#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action of this name (plugins/action/check_variables.py), which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_variables
short_description: Refuse misspelled variables of a role, and reports that cannot be written
version_added: 0.2.0
description:
  - Each role of this collection calls it first. It fails if a variable begins with the role's name and is not one of the role's, and names
    the variable of the role that is nearest. A misspelled variable would otherwise have no effect.
  - The names come from everywhere that Ansible takes variables from, for the host of the task. Values are not looked at.
  - It also fails if a report could not be written on the controller at the end of the run.
  - It warns of a variable whose beginning is almost the role's name, such as C(nvida_prebake_image).
# BEGIN options of module check_variables: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
options:
  role:
    description:
      - >-
        The role whose variables are checked: V(nvidia_prebake), V(gpu_boot) or V(gpu_remove).
      - Without a role, only O(report_files) are checked.
    type: str
    choices: [nvidia_prebake, gpu_boot, gpu_remove]
  ignored_variables:
    description: Names that begin with the role's name and belong to another role or to you, not to the role. The role does not refuse them.
      A C(*) at the end of a name stands for anything.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
  report_files:
    description:
      - Files on the controller that the run writes later, each by the variable that names it. An empty path stands for no file.
      - The action fails if one of them cannot be written. It writes nothing.
    type: dict
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

- name: Check before a boot that its result can be written
  gpu.prebake.check_variables:
    report_files:
      gpu_boot_report_folder: "{{ gpu_boot_report_folder }}/{{ inventory_hostname }}.json"
"""

RETURN = r"""
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: unknown_variable
"""
