"""Uninstall after a real bake on a native node: the whole listing of files equals the one from before the bake."""

from __future__ import annotations

import json
import shutil
from typing import Any

from lab.machine import host, paths
from lab.nodes import inventory
from tests.lab.bakery import ENVIRONMENT, Bakery, Ran

STORE, LOGS = "var/lib/gpu-prebake", "var/log/gpu-prebake"
EDITED = "usr/bin/nvidia-smi"


def remove(bakery: Bakery, *options: str, **variables: Any) -> Ran:
    """Runs playbooks/remove.yml with -v, so that the output contains the module's whole result."""
    hosts = inventory.write(bakery.folder / "inventory.json", [(bakery.node.state.name, bakery.node.target)])
    argv = ["ansible-playbook", "-v", "-i", str(hosts), "-e", json.dumps(variables), *options, str(paths.TOP / "playbooks/remove.yml")]
    done = host.run(argv, timeout_s=300, check=False, env=ENVIRONMENT)
    return Ran(done.rc, done.stdout + done.stderr)


def different(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def test_a_bake_in_place_is_removed_without_a_trace_and_the_second_run_finds_nothing(bakery: Bakery) -> None:
    remove(bakery)  # what earlier tests left: logs, and the list of the driver images that they pulled
    shutil.rmtree(bakery.root / LOGS, ignore_errors=True)
    before = bakery.files()
    never = remove(bakery)
    assert (never.rc, "changed=0" in never.out) == (0, True), never.out
    assert "nothing of ours is here" in never.message
    assert different(before, bakery.files()) == set()

    assert bakery.bake_in_place().rc == 0
    baked = bakery.files()
    assert f"usr/lib/modules/{bakery.kver}/updates/dkms/nvidia.ko" in baked
    planned = remove(bakery, "--check", "--diff")
    assert planned.rc == 0, planned.out
    assert "-/usr/bin/nvidia-smi" in planned.out
    assert different(baked, bakery.files()) == set()

    removed = remove(bakery)
    assert removed.rc == 0, removed.out
    assert "driver image" in removed.message
    assert different(before, bakery.files()) == set()
    assert not (bakery.root / STORE).exists()
    assert not (bakery.root / LOGS).exists()
    assert bakery.ssh("dkms status").strip() == ""
    assert bakery.ssh("ldconfig -p | grep -cE 'libcuda|libnvidia-ml' || true").strip() == "0"
    assert bakery.ssh(f"modinfo -k {bakery.kver} nvidia 2>&1 || true").startswith("modinfo: ERROR")
    assert bakery.ssh("ctr -n k8s.io images ls -q").split() != []

    again = remove(bakery, gpu_remove_images=True)
    assert (again.rc, "changed=0" in again.out) == (0, True), again.out


def test_an_edited_file_stays_and_is_named_and_the_driver_image_is_removed_on_request(bakery: Bakery) -> None:
    before = bakery.files()
    assert bakery.bake_in_place().rc == 0
    (bakery.root / EDITED).write_text("#!/bin/sh\n# mine\n")
    try:
        removed = remove(bakery, gpu_remove_images=True, gpu_remove_scope="driver")
        assert removed.rc == 0, removed.out
        assert f"/{EDITED}" in removed.message
        assert different(before, bakery.files()) >= {EDITED}
        assert {path for path in different(before, bakery.files()) if not path.startswith("/")} == {EDITED}
        assert (bakery.root / STORE / "bake-report.json").exists()
        assert bakery.reference("standin") not in bakery.ssh("ctr -n k8s.io images ls -q").split()
    finally:
        bakery.restore(before)


def test_a_bake_of_an_image_that_does_all_that_the_public_images_do_is_removed_without_a_trace(bakery: Bakery) -> None:
    remove(bakery)
    shutil.rmtree(bakery.root / LOGS, ignore_errors=True)
    before = bakery.files()
    baked = bakery.capture("standin-public")
    assert baked.rc == 0, baked.out
    assert "| + " not in baked.out  # its traces are shown only with -v, and the log keeps them
    log = next((bakery.root / LOGS).glob("gpuprebuild-*.log")).read_text()
    assert " + " in log
    assert [layer.identity.version for layer in bakery.layers()] == ["580.126.09"]
    assert bakery.mounts() == ""
    removed = remove(bakery)
    assert removed.rc == 0, removed.out
    assert different(before, bakery.files()) == set()
