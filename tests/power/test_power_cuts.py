"""Power cuts during a layer's transactions: the next run finishes or rolls them back, and the node is as if nothing had happened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.builds import bakedimage
from lab.machine import host, paths
from lab.nodes import disk
from lab.nodes.vm import VM
from tests.power.cutting import Bench, table

# So that nothing else writes in the background, and boots are short.
QUIET = "systemd.mask=timers.target systemd.mask=containerd.service"
REPORT = paths.TOP / "build/power/report.txt"


@contextmanager
def bench(image: str, seed: int) -> Iterator[Bench]:
    """A VM with a captured layer of ``image``. At the end, also after a failure, the cuts so far are reported."""
    baked = bakedimage.bake(image, mode=bakedimage.CAPTURED)
    vm = VM.create(f"power-{os.getpid()}", baked.disk, kernel="6.1", append=QUIET)
    try:
        made = Bench(vm, seed)
        try:
            yield made
        finally:
            report = f"{image}, seed {seed}: {len(made.cuts)} power cuts\n{table(cut for cut in made.cuts if cut.found)}"
            print(f"\n{report}")
            REPORT.parent.mkdir(parents=True, exist_ok=True)
            REPORT.write_text(report)
    finally:
        vm.destroy()


@pytest.mark.parametrize(
    ("commands", "left"),
    [
        pytest.param(["write -P 0x42 0 64k"], "AA", id="not flushed: lost"),
        pytest.param(["write -P 0x42 0 64k", "flush"], "42", id="flushed"),
        pytest.param(["write -P 0x42 0 64k", "flush", "write -P 0x43 0 64k"], "43", id="again, not flushed"),
    ],
)
def test_a_cut_loses_what_the_guest_had_not_flushed(tmp_path: Path, commands: list[str], left: str) -> None:
    """This holds for what is written into a new overlay for the first time; VM.layer_disk relies on it."""
    base, overlay = tmp_path / "base.qcow2", tmp_path / "overlay.qcow2"
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "64M"], timeout_s=60)
    host.run(["qemu-io", "-c", "write -P 0xAA 0 64k", str(base)], timeout_s=60)
    disk.overlay(base, overlay)
    words = [word for command in (*commands, "sigraise 9") for word in ("-c", command)]
    host.run(["qemu-io", "-t", "writeback", *words, str(overlay)], timeout_s=60, check=False)
    found = host.run(["qemu-io", "-r", "-c", "read -v 0 1", str(overlay)], timeout_s=60).stdout
    assert found.split()[1].upper() == left


def test_three_cuts(seed: int) -> None:
    with bench("standin", seed) as node:
        node.rehearse()
        node.chain(3)
    assert len(node.cuts) == 3


def test_twenty_cuts(seed: int) -> None:
    with bench("standin", seed) as node:
        node.rehearse()
        node.chain(20)
    inside = [cut for cut in node.cuts if cut.is_inside]
    assert len(inside) >= 15
    assert len({cut.last_step for cut in inside}) >= 8
