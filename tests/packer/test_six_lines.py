"""The two provisioners of the README, word for word, in another template, on a native node whose login is a user with sudo."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, objects_of

from lab.builds import packerqemu
from lab.builds.bakedimage import variables
from lab.driverimages import driverimage, registry
from lab.machine import host, paths, ssh
from lab.machine.errors import LabError
from lab.nodes import base
from lab.nodes.native import NativeNode

CLONE = "/opt/gpu-prebake"
TEMPLATE = """
source "null" "machine" {{
  communicator         = "ssh"
  ssh_host             = "{host}"
  ssh_username         = "packer"
  ssh_private_key_file = "{key}"
}}
build {{
  sources = ["source.null.machine"]
  {provisioners}
}}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[NativeNode]:
    made = NativeNode.create(f"six-lines-{os.getpid()}")
    packerqemu.prepare(made)
    yield made
    made.destroy()


def build(node: NativeNode, folder: Path) -> None:
    """Runs the README's lines with this clone and a driver.json for the lab."""
    driver = driverimage.build("standin")
    registry.push(driver.layout, driver.reference)
    kver = base.choose(base.kernels(base.root() / "boot"), "6.1").kver
    values = folder / "driver.json"
    reports = {"nvidia_prebake_report_path": str(folder / "report.json"), "nvidia_prebake_seal_report_path": str(folder / "seal.json")}
    values.write_text(json.dumps({**variables(driver.reference, kver), **reports}))
    lines = re.findall(r'^provisioner "ansible" \{.*?^\}', (paths.TOP / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(lines) == 2
    provisioners = "\n".join(lines).replace(f"{CLONE}/driver.json", str(values)).replace(CLONE, str(paths.TOP))
    template = folder / "own.pkr.hcl"
    template.write_text(TEMPLATE.format(host=node.target.address, key=ssh.key(), provisioners=provisioners))
    # Only so that the host keys of lab nodes are not kept on this machine.
    env = {"CHECKPOINT_DISABLE": "1", "ANSIBLE_SSH_COMMON_ARGS": "-o UserKnownHostsFile=/dev/null"}
    host.run(["packer", "build", "-color=false", str(template)], timeout_s=900, log=folder / "packer.log", env=env)


def test_without_sudo_nothing_is_baked_and_the_log_says_why(node: NativeNode, tmp_path: Path) -> None:
    node.ssh("mv /etc/sudoers.d/packer /root/")
    try:
        with pytest.raises(LabError, match=r"[Pp]assword"):
            build(node, tmp_path)
    finally:
        node.ssh("mv /root/packer /etc/sudoers.d/")
    assert not (node.root / "var/lib/gpu-prebake").exists()


def test_the_six_lines_bake_and_the_next_six_seal_as_a_user_with_sudo(node: NativeNode, tmp_path: Path) -> None:
    build(node, tmp_path)
    identity = json.loads((tmp_path / "report.json").read_text())["identity"]
    sealed = json.loads((tmp_path / "seal.json").read_text())
    assert (sealed["refusals"], sealed["covered"]) == ([], [identity["kver"]])
    assert sealed["replayed"]
    (layer,), problems = layers.read_all(node.root)
    assert (problems, Store(node.root).problems(objects_of(layer))) == ((), ())
    assert (layer.stored, layer.identity.kver, layer.identity.version) == (True, identity["kver"], identity["version"])
