"""The filter ``file_name``: see plugin_utils/hostfile.py."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.gpu.prebake.plugins.plugin_utils.hostfile import file_name

DOCUMENTATION = r"""
name: file_name
short_description: A file name for a host
version_added: 0.2.0
author: gpu-prebake maintainers
description:
  - Returns a file name for a host of the inventory. It is the host's own name, if that can be one.
  - Names that lead to another folder, such as V(../x), are written as in a URL. No two hosts have the same file name.
positional: _input
options:
  _input:
    description: The host's name, such as the value of C(inventory_hostname).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write a file for each node
  ansible.builtin.copy:
    content: "{{ gpu_boot_result | to_nice_json }}"
    dest: "/srv/boots/{{ inventory_hostname | gpu.prebake.file_name }}.json"
    mode: "0644"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: The file name, without a suffix.
  type: str
"""


class FilterModule:
    """The collection's filter of this name."""

    def filters(self) -> dict[str, Callable[[str], str]]:
        return {"file_name": file_name}
