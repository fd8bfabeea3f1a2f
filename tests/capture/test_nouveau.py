"""Blacklisting nouveau, on a native node with a generic kernel and the real update-initramfs and lsinitramfs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import nouveau_blacklist
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers

from lab.machine import host, paths
from lab.nodes import base
from lab.nodes.native import NativeNode
from tests.capture.test_captured import wait
from tests.lab.bakery import ENVIRONMENT, Bakery, Ran
from tests.lab.snapshot import difference, snapshot


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bakery]:
    node = NativeNode.create(f"nouveau-{os.getpid()}", base.root(base.GENERIC))
    try:
        yield Bakery(node, tmp_path_factory.mktemp("nouveau"))
    finally:
        node.destroy()


def played(bakery: Bakery, playbook: str, **variables: Any) -> Ran:
    argv = bakery.argv({"nvidia_prebake_image": bakery.reference("standin"), **variables})
    done = host.run([*argv[:-1], str(paths.TOP / "playbooks" / playbook)], timeout_s=600, check=False, env=ENVIRONMENT)
    return Ran(done.rc, done.stdout + done.stderr)


def in_initramfs(bakery: Bakery) -> str:
    """The content of the blacklist file in the initramfs; empty if the file is not in it."""
    name = f"/boot/initrd.img-{bakery.kver}"
    find = f"find /root/x -path '*/{nouveau_blacklist.PATH}' -exec cat {{}} +"
    return bakery.ssh(f"rm -rf /root/x && unmkinitramfs {name} /root/x && {find}; rm -rf /root/x")


def test_the_file_is_written_sealed_completed_after_a_kill_and_removed(generic: Bakery) -> None:
    own = generic.root / nouveau_blacklist.PATH
    image = f"boot/initrd.img-{generic.kver}"
    before = snapshot(generic.root)
    ran = generic.capture()
    assert ran.rc == 0, ran.out
    assert set(difference(before, snapshot(generic.root))) == {nouveau_blacklist.PATH, image}
    assert own.read_text() == in_initramfs(generic) == nouveau_blacklist.TEXT
    assert "blacklist nouveau" in generic.ssh(f"modprobe --showconfig -S {generic.kver}")
    assert generic.report()["nouveau"]["initramfs"] == [generic.kver]
    assert not [entry for layer in generic.layers() for entry in layer.files if "nouveau" in entry.path]

    with_file, store = snapshot(generic.root), snapshot(generic.root / STORE)
    again = generic.capture()
    assert "changed=0" in again.out, again.out
    assert snapshot(generic.root) == with_file
    assert snapshot(generic.root / STORE) == store

    sealed = played(generic, "seal.yml")
    assert sealed.rc == 0, sealed.out
    refused = played(generic, "seal.yml", nvidia_prebake_blacklist_nouveau=False)
    assert f"/{nouveau_blacklist.PATH}: must not be here" in refused.message

    generic.ssh(f"rm /{nouveau_blacklist.PATH} && update-initramfs -u")
    process = generic.start("standin", nvidia_prebake_mode="captured")
    wait(lambda: own.exists() and generic.ssh("pgrep -f /usr/sbin/mkinitramfs || true"))
    generic.ssh("kill -9 $(sed 's/.*process //; s/).*//' /run/gpu-prebake/lock) $(pgrep -f '[m]kinitramfs|[u]pdate-initramfs')")
    process.kill()
    process.wait()
    assert in_initramfs(generic) == ""
    refused = played(generic, "seal.yml")
    assert f"/{image}: lacks /{nouveau_blacklist.PATH}: run update-initramfs -u -k {generic.kver}" in refused.message
    completed = generic.capture()
    assert completed.rc == 0, completed.out
    assert in_initramfs(generic) == nouveau_blacklist.TEXT
    generic.ssh("rm -rf /var/tmp/mkinitramfs*")  # left by the killed program

    off = generic.capture(nvidia_prebake_blacklist_nouveau=False)
    assert off.rc == 0, off.out
    assert in_initramfs(generic) == ""
    assert set(difference(before, snapshot(generic.root))) <= {image}
    assert played(generic, "seal.yml", nvidia_prebake_blacklist_nouveau=False).rc == 0


def test_the_file_of_a_bake_in_place_is_removed_with_everything_else(generic: Bakery) -> None:
    before = snapshot(generic.root)
    ran = generic.bake(nvidia_prebake_mode="in_place")
    assert ran.rc == 0, ran.out
    (layer,) = layers.read_all(generic.root)[0]
    assert not [entry.path for entry in layer.files if entry.path.endswith("blacklist-nouveau.conf")], "that concerns only nouveau"
    assert in_initramfs(generic) == nouveau_blacklist.TEXT
    assert "changed=0" in generic.bake(nvidia_prebake_mode="in_place").out

    removed = played(generic, "remove.yml")
    assert removed.rc == 0, removed.out
    assert in_initramfs(generic) == ""
    assert not [path for path in difference(before, snapshot(generic.root)) if "modprobe.d" in path]
