"""A kernel that enforces module signatures, and an image whose modules are signed by a key that it does not know."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, key

from lab.machine import host, paths
from lab.nodes import disk, inventory
from lab.nodes.disk import Disk
from lab.nodes.native import NativeNode
from lab.nodes.vm import VM
from tests.kit.signer import make_pair
from tests.lab.bakery import ENVIRONMENT, Bakery, Ran


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Disk, str, str]]:
    """A disk with a signed layer, the reference of its driver image, and the path of the signed nvidia.ko in the store."""
    node = NativeNode.create(f"enforced-{os.getpid()}")
    try:
        bakery = Bakery(node, tmp_path_factory.mktemp("enforced"))
        pair = make_pair(bakery.folder, "Fleet modules")
        ran = bakery.capture(nvidia_prebake_signing_key=str(pair.key), nvidia_prebake_signing_certificate=str(pair.certificate))
        assert ran.rc == 0, ran.out
        (layer,) = bakery.layers()
        module = next(e for e in layer.files if e.path.endswith("/updates/dkms/nvidia.ko"))
        inside = "/" + str(Store(bakery.root).path(key(module)).relative_to(bakery.root))
        folder = tmp_path_factory.mktemp("disk")
        yield disk.make(node.stop(), folder), bakery.reference("standin"), inside
    finally:
        node.destroy()


def boot(vm: VM, image: str, folder: Path) -> Ran:
    """Runs playbooks/boot.yml on the VM."""
    hosts = inventory.write(folder / "inventory.json", [(vm.state.name, vm.target)])
    variables: dict[str, Any] = {"gpu_boot_image": image, "gpu_boot_expected_gpus": 1}
    extra = folder / "vars.json"
    extra.write_text(json.dumps(variables))
    argv = ["ansible-playbook", "-v", "-i", str(hosts), "-e", f"@{extra}", str(paths.TOP / "playbooks/boot.yml")]
    done = host.run(argv, timeout_s=1200, check=False, env=ENVIRONMENT)
    return Ran(done.rc, done.stdout + done.stderr)


def test_an_untrusted_layer_is_refused_by_name_where_the_kernel_would_refuse_it_and_used_elsewhere(
    signed: tuple[Disk, str, str], tmp_path: Path
) -> None:
    source, image, module = signed
    vm = VM.create(f"enforced-vm-{os.getpid()}", source, kernel="6.1", gpu="h100", smp=1, append="module.sig_enforce=1")
    try:
        vm.ssh(f"cp {module} /tmp/signed.ko; strip --strip-debug -o /tmp/unsigned.ko /tmp/signed.ko")
        for name in ("signed", "unsigned"):
            refused = vm.ssh(f"insmod /tmp/{name}.ko", check=False)
            assert refused.rc != 0
            assert "Key was rejected by service" in refused.stderr + refused.stdout, "the kernel itself must refuse it"
        ran = boot(vm, image, tmp_path)
        assert ran.rc != 0
        assert "reason_code: signatures_enforced" in ran.message, ran.out
        assert "code: module_untrusted" in ran.message
        assert "signed by Fleet modules" in ran.message
        assert "which this kernel does not trust" in ran.message
        left = vm.ssh(
            "ls /var/lib/gpu-prebake/activation.json /var/log/gpu-prebake/gpuinstall-1.log /proc/driver/nvidia 2>/dev/null || true"
        )
        assert left.stdout == "", "nothing may be activated, run or loaded"

        vm.reboot(append="")
        ran = boot(vm, image, tmp_path)
        assert ran.rc == 0, ran.out
        assert "reason_code: baked_layer_matches" in ran.message, ran.out
        assert "Fleet modules" in vm.ssh("modinfo -F signer nvidia").stdout
        assert vm.ssh("dkms status").stdout.strip().endswith(": installed"), "DKMS's copies must have the same signatures"
    finally:
        vm.destroy()
