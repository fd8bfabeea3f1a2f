"""Captured bakes that are ended at one of their steps, by SIGKILL or by a broken store: what they leave, and how the next one continues.

tests/capture/onnode.py runs the bake and names its steps. tests/unit/gpunode/bake/test_interrupted.py does the same on trees of files,
where each change of a file is a step.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import LAYERS, STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import key

from lab.machine import host
from lab.machine.host import Result
from tests import library
from tests.lab.bakery import Bakery
from tests.lab.snapshot import difference, snapshot

LIBRARY = "/run/library"
OLD, NEW = "standin-other-version", "standin"
GONE_S = 60


@dataclass
class Killable:
    """A native node whose store contains a layer of another version; ``wanted`` is the store after an undisturbed bake."""

    bakery: Bakery
    aside: Path
    wanted: dict[str, Any]

    @property
    def store(self) -> Path:
        return self.bakery.root / STORE

    def begin(self) -> None:
        """Puts the store into the state that it has before each bake."""
        shutil.rmtree(self.store, ignore_errors=True)
        host.run(["cp", "-a", str(self.aside), str(self.store)], timeout_s=60)

    def bake(self, image: str = NEW, step: str = "", number: int = 1, command: str = "", **more: Any) -> Result:
        """Runs one bake on the node, and ``command`` at one of its steps."""
        parameters = {
            "image": self.bakery.reference(image),
            "mode": "captured",
            "kernels": [self.bakery.kver],
            "delay_s": 0,
            "try_s": 1200,
            "tries": 1,
            **more,
        }
        words = shlex.join([json.dumps(parameters), step, str(number), command])
        run = f"cd {LIBRARY} && python3 -B onnode.py {words}; exit $?"  # a shell that waits, because ssh does not report the signal
        return self.bakery.node.ssh(run, check=False, timeout_s=1800)

    def left(self) -> list[str]:
        """What bakes have left on the machine: folders, mounts, processes, containers."""
        containers = self.bakery.ssh("ctr -n k8s.io containers ls -q; ctr -n k8s.io snapshots ls | grep gpu || true").split()
        return [*self.bakery.captures(), *self.bakery.mounts().split(), *self.bakery.processes().split(), *containers]


def stored(root: Path) -> dict[str, Any]:
    """Everything in the store: names, contents, modes, owners; without times and durations, and without DKMS's log, which contains them."""
    found: dict[str, Any] = {path: what for path, what in snapshot(root / STORE).items() if not re.fullmatch("objects/..", path)}
    for path in (root / LAYERS).glob("*/manifest.json"):
        layer = layers.read(path)
        logs = [entry for entry in layer.files if entry.path.endswith("/make.log")]
        for entry in logs:
            found.pop(f"objects/{key(entry)[:2]}/{key(entry)}")
        files = tuple((e.path, e.type, e.mode, e.uid, e.gid, e.target, "" if e in logs else e.sha256) for e in layer.files)
        text = (layer.identity, layer.image, files, layer.replaced, layer.deleted, layer.originals, layer.indexes)
        found[str(path.relative_to(root / STORE))] = text
    report = root / STORE / "bake-report.json"
    if report.exists():
        found["bake-report.json"] = [layer["layer"] for layer in json.loads(report.read_text())["layers"]]
    return found


@pytest.fixture(scope="module")
def made(bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Killable:
    library.send(bakery.node, LIBRARY, Path(__file__).with_name("onnode.py"))
    for image in (OLD, NEW):
        bakery.ssh(f"ctr -n k8s.io images pull --hosts-dir /etc/containerd/certs.d {bakery.reference(image)}")
    killable = Killable(bakery, Path(bakery.node.state.folder) / "store", {})
    before = killable.bake(OLD)
    assert before.rc == 0, before
    shutil.move(killable.store, killable.aside)
    killable.begin()
    ran = killable.bake()
    assert ran.rc == 0, ran
    killable.wanted = stored(bakery.root)
    assert [layer.identity.version for layer in bakery.layers()] == ["580.126.09"]
    return killable


@pytest.fixture
def killable(made: Killable, pristine: Bakery) -> Killable:
    """The node with its store prepared; ``pristine`` of tests/lab/conftest.py checks the rest of the node after each test."""
    made.begin()
    return made


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + GONE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(
            [
                ("begin ctr run", 1, "die"),  # the image is asked for its actions
                ("start flock", 1, "die"),  # there is a folder, and no watcher yet that would remove it
                ("begin mount overlay gpu-prebake", 1, "die"),  # timers are stopped
                ("start unshare", 1, "die"),
                ("start unshare", 1, "die all"),
                ("event open-sandbox", 1, "die all"),
            ],
            id="before the build",
        ),
        pytest.param(
            [
                ("end ctr run", 2, "die"),
                ("begin nsenter depmod", 1, "die all"),
                ("write objects/…/… (new)", 1, "die"),
                ("write objects/…/… (new)", 8, "die all"),
                ("replace objects/…/… (new)", 6, "die"),
                ("event store", 1, "die all"),
                ("fsync layers/…/… (new)", 1, "die"),
                ("replace layers/…/… (new)", 1, "die"),
            ],
            id="between the build and the record",
        ),
        pytest.param(
            [
                ("event record", 1, "die"),
                ("unlink layers/…/…", 1, "die"),  # the old layer's manifest
                ("unlink objects/…/…", 5, "die"),
                ("replace bake-report.json (new)", 1, "die"),
                ("fsync release-notes.txt (new)", 1, "die"),
            ],
            id="from the record on",
        ),
    ],
)
def test_after_a_kill_at_each_step_the_next_bake_ends_like_an_undisturbed_one(
    killable: Killable, kills: list[tuple[str, int, str]]
) -> None:
    """Each bake follows the killed one before it, and gets further."""
    before = snapshot(killable.bakery.root)
    for step, number, how in kills:
        ran = killable.bake(NEW, step, number, how)
        assert (ran.rc, ran.stdout.splitlines()[-1:]) == (137, [step]), ran
        if how == "die" and step != "start flock":
            wait(lambda: not killable.left())
        assert difference(before, snapshot(killable.bakery.root)) == []
    last = killable.bake()
    assert last.rc == 0, last
    assert difference(killable.wanted, stored(killable.bakery.root)) == []
    assert killable.left() == []


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        pytest.param("head -c 60m /dev/zero > /var/lib/gpu-prebake/ballast || true", "no_space", "No space left on device", id="full"),
        pytest.param("mount -o remount,ro,bind /var/lib/gpu-prebake", "read_only", "Read-only file system", id="read-only"),
    ],
)
def test_a_store_that_breaks_during_the_capture_is_named(killable: Killable, command: str, code: str, said: str) -> None:
    """The store is on a filesystem of its own, in memory; what is captured needs less space than the build."""
    bakery = killable.bakery
    bakery.ssh("mount -t tmpfs -o mode=0700,size=40m tmpfs /var/lib/gpu-prebake")
    try:
        ran = killable.bake(NEW, "event capture", 1, command, min_free_mb=0)
        answer = json.loads(ran.stdout.splitlines()[-1])
        assert (ran.rc, answer["code"]) == (1, code), ran
        assert "the bake stopped in step store: /var/lib/gpu-prebake" in answer["message"]
        assert said in answer["message"]
        bakery.ssh("mount -o remount,rw,bind /var/lib/gpu-prebake; rm -f /var/lib/gpu-prebake/ballast")
        assert bakery.ssh("find /var/lib/gpu-prebake/layers /var/lib/gpu-prebake/objects -type f 2>/dev/null || true") == ""
        again = killable.bake(min_free_mb=0)
        assert again.rc == 0, again
        assert killable.left() == []
    finally:
        bakery.ssh("umount /var/lib/gpu-prebake")


def test_a_second_bake_meanwhile_is_refused_and_names_the_first(killable: Killable) -> None:
    second = f"cd {LIBRARY} && python3 -B onnode.py \"$(cat parameters)\" '' 1 '' > second || true"
    parameters = {"image": killable.bakery.reference(NEW), "mode": "captured", "kernels": [killable.bakery.kver]}
    killable.bakery.ssh(f"echo {shlex.quote(json.dumps(parameters))} > {LIBRARY}/parameters")
    ran = killable.bake(NEW, "event open-sandbox", 1, second)
    assert ran.rc == 0, ran
    answer = json.loads(killable.bakery.ssh(f"tail -n 1 {LIBRARY}/second"))
    assert answer["code"] == "busy"
    assert "a bake cannot begin: a bake (process" in answer["message"]
    assert difference(killable.wanted, stored(killable.bakery.root)) == []


def test_a_corrupted_object_is_built_again_and_a_foreign_file_is_kept(killable: Killable) -> None:
    assert killable.bake().rc == 0
    (layer,) = killable.bakery.layers()
    module = next(entry for entry in layer.files if entry.path.endswith("/updates/dkms/nvidia.ko"))
    spoilt = killable.store / "objects" / key(module)[:2] / key(module)
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"x")
    (killable.store / "somebodys").write_text("notes")
    again = killable.bake()
    assert again.rc == 0, again
    assert "event build" in again.stdout.splitlines()
    assert (killable.store / "somebodys").read_text() == "notes"
    (killable.store / "somebodys").unlink()
    assert difference(killable.wanted, stored(killable.bakery.root)) == []
