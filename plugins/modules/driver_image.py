#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin module: see gpunode/container/pull.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: driver_image
short_description: Fetch a driver image into containerd under its canonical reference
version_added: 0.1.0
description:
  - Makes sure that a driver image is in containerd's C(k8s.io) namespace, under exactly the reference by which driver containers are run.
    If it is not there, the module fetches it, from a registry or from an archive.
  - Labels the image as pinned, so that kubelet's image garbage collection does not remove it.
# BEGIN options of module driver_image: written by make docs from plugins/module_utils/gpunode/options.py, do not edit
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
  tries:
    description:
      - Number of tries to pull the driver image, at least one.
      - A failure that another try cannot mend, such as a registry's refusal, is not tried again. An archive is imported once.
    type: int
    default: 3
  delay_s:
    description: Seconds to wait between two tries to pull.
    type: float
    default: 10
  timeout_s:
    description: Seconds that one try to pull, or the import of an archive, may take.
    type: float
    default: 120
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
# END options of module driver_image
attributes:
  check_mode:
    support: full
    description: Reports whether the image would be fetched. Fetches nothing.
author:
  - gpu-prebake maintainers (@gpu-prebake)
"""

EXAMPLES = r"""
- name: Fetch the driver image
  gpu.prebake.driver_image:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408

- name: Fetch it from a private registry, with a login and a private certificate authority
  gpu.prebake.driver_image:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
    pull_image: registry.example.com:5000/aks/aks-gpu-cuda:580.126.09-20260430040408
    registry_username: puller
    registry_password: "{{ vault_registry_password }}"
    registry_ca: "{{ lookup('ansible.builtin.file', 'registry-ca.pem') }}"

- name: Fetch it without a network
  gpu.prebake.driver_image:
    image: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
    image_archive: /srv/images/aks-gpu-cuda-580.126.09.tar
"""

RETURN = r"""
image:
  description: The canonical reference of the image.
  returned: success
  type: str
  sample: mcr.microsoft.com/aks/aks-gpu-cuda:580.126.09-20260430040408
digest:
  description: Digest of what the reference names in containerd. Empty in check mode if the image is not there.
  returned: success
  type: str
  sample: "sha256:0f1e2d"
config_digest:
  description: Config digest of the image for this machine's architecture, the same in every registry and archive. Empty if unknown.
  returned: success
  type: str
  sample: "sha256:4b5a69"
image_wanted:
  description: Whether the image would be fetched.
  returned: in check mode
  type: bool
  sample: true
code:
  description: On failure, the cause as a word whose meaning never changes (docs/codes.md).
  returned: failure
  type: str
  sample: registry_login
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpu.prebake.plugins.module_utils import options
from ansible_collections.gpu.prebake.plugins.module_utils.answer import run_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference, registry
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.pull import Tries
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import driver_images
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import host
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

ROOT = Path("/")
ARGUMENTS = options.argument_spec("driver_image")


def body(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    wanted = reference.wanted(params["image"], params["pull_image"], params["kind"], params["version"], "nvidia_prebake")
    source = registry.source_from(params, "nvidia_prebake")
    tries = Tries(params["tries"], params["delay_s"], params["timeout_s"])
    tries.require_possible()
    host.require_root()
    containerd = Containerd(SystemRunner())
    if not containerd.is_ready():
        raise PreflightError("containerd does not answer: install and start it", code="containerd_unavailable")
    name, result = wanted.image.text, {}
    if module.check_mode:
        changed = containerd.target_digest(name, wanted.pin) is None
        result = {"image_wanted": changed}
    else:
        with files.locked(paths.LOCK, "a fetch of the driver image"):
            changed = driver_images.fetch(
                ROOT, containerd, wanted, Deadline(tries.number * (tries.timeout_s + tries.delay_s)), source, tries
            )
            driver_images.pin(ROOT, containerd, name)
    arch = host.normal_arch(os.uname().machine) or ""
    digests = {"digest": containerd.target_digest(name) or "", "config_digest": containerd.config_digest(name, arch) or ""}
    return {"changed": changed, "image": name, **digests, **result}


def main() -> None:
    run_module(AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True), body)


if __name__ == "__main__":
    main()
