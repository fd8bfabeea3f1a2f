"""Power cuts in one VM, chained: each boot first recovers from the last cut and is compared, then the next cut follows.

The node runs ``python3 -m gpunode.command`` with its progress on the serial console. Once the chosen step is said there, QEMU is killed
after a delay of up to 50 ms.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import subprocess
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation.steps import ACTIVATE, DEACTIVATE, DISCARD, STEPS, TAKE_AWAY

from lab.machine import paths, ssh
from lab.nodes.vm import VM
from tests.power.listing import HERE, OBJECTS, STORE, Filesystem, Thing, differences

INERT, ACTIVE, ABSENT, BETWEEN = "inert", "active", "absent", "between"
ENDS = {ACTIVATE: ACTIVE, DEACTIVATE: INERT, DISCARD: ABSENT}
MOST_DELAY_S = 0.05
AGAIN = 0.25  # of the cuts that leave a journal are followed by one in the run that recovers
SLOWEST_S = 900.0  # one command, on a machine that does much else
ENDED = "power: the command has ended"
# Before the journal nothing has begun; once it has gone, what is left to do is to drop garbage.
NOT_INSIDE = (
    *("", "activate: check", "activate: read", "activate: keep", "activate: done"),
    *("take-away: drop", "take-away: done", "discard: done"),
)
_STEP = re.compile(rf"^((?:{'|'.join(STEPS)}): (?:{'|'.join({s for steps in STEPS.values() for s in steps})}))\r?$", re.MULTILINE)


@dataclass
class Cut:
    """One power cut: what was aimed at, where it fell, what was there after power-on, and what the next run made of it."""

    command: str
    step: str
    delay_s: float
    recovering: bool
    last_step: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    then: str = ""
    end: str = ""

    @property
    def is_inside(self) -> bool:
        """Whether it provably fell inside a transaction: its journal is there, or a step was said and not that all is done."""
        return bool(self.found["journal"]) or self.last_step not in NOT_INSIDE

    @property
    def row(self) -> tuple[str, ...]:
        found = self.found
        documents = [f"journal of {found['journal']}"] if found["journal"] else []
        documents += [name for name in ("record", "manifest") if found[name]]
        there = f"{', '.join(documents) or 'no document'}; {found['in_place']} of {found['files']} files in place"
        where = "inside" if self.is_inside else "outside"
        command = f"{self.command}, recovering" if self.recovering else self.command
        return (command, self.step, f"{self.delay_s * 1000:.1f} ms", self.last_step, where, there, self.then, self.end)


HEAD = ("command", "cut after", "delay", "said last", "transaction", "found after power-on", "then run", "end state")


class Bench:
    """A VM whose store holds one layer, how it looks in each state that a run may end in, and the cuts that were made."""

    def __init__(self, vm: VM, seed: int) -> None:
        self.vm = vm
        self.random = random.Random(seed)
        self.cuts: list[Cut] = []
        self.looks: dict[str, dict[str, Thing]] = {}
        self.steps: dict[str, list[str]] = {}
        self._aims: dict[str, list[str]] = {}
        vm.ssh(f"mkdir -p /{HERE} && base64 -d | tar -C /{HERE} -xz && cp -a /{STORE} /{HERE}/store", stdin=_archive())
        self.layer = vm.ssh(f"ls /{STORE}/layers").stdout.strip()
        manifest = json.loads(vm.ssh(f"cat /{STORE}/layers/{self.layer}/manifest.json").stdout)
        touched = [entry["path"] for name in ("files", "originals") for entry in manifest[name]]
        indexes = vm.ssh(f"ls /usr/lib/modules/{vm.state.kver}/modules.*").stdout.split()
        self.filesystem = Filesystem(vm, frozenset([*touched, *(path.lstrip("/") for path in indexes), "etc/ld.so.cache"]))

    # --- uninterrupted ------------------------------------------------------------------------------------------------

    def rehearse(self) -> None:
        """An activation to its end: the states that are compared with, and the steps that can be cut at. Leaves the layer in place."""
        inert = self.looks[INERT] = self.filesystem.look()
        offset = self._said_so_far()
        self._run(ACTIVATE)
        said = self._steps_said(offset)
        self.looks[ACTIVE] = self.filesystem.look()
        assert differences(self.looks[ACTIVE], inert)
        gone = (f"{STORE}/layers/{self.layer}", OBJECTS)
        self.looks[ABSENT] = {path: thing for path, thing in inert.items() if not path.startswith(gone)}
        # The kept indexes and loader's cache come back by themselves: neither depmod nor ldconfig runs while a layer is taken away.
        away = [f"{TAKE_AWAY}: {step}" for step in STEPS[TAKE_AWAY] if step not in ("depmod", "ldconfig")]
        each = {ACTIVATE: said, DEACTIVATE: [f"{DEACTIVATE}: journal", *away], DISCARD: [f"{DISCARD}: {step}" for step in STEPS[DISCARD]]}
        self.steps = {command: [step for step in steps if step not in NOT_INSIDE] for command, steps in each.items()}
        self.steps[TAKE_AWAY] = [step for step in away if step not in NOT_INSIDE]

    def _run(self, command: str) -> None:
        self.vm.ssh(self._shell(command), timeout_s=SLOWEST_S)

    def _shell(self, command: str) -> str:
        layer = "" if command == DEACTIVATE else self.layer
        return f"cd /{HERE} && PYTHONDONTWRITEBYTECODE=1 python3 -m gpunode.command {command} {layer} 2>/dev/console"

    def _restore_store(self) -> None:
        """After a discard: the layer is put back into the store as it was baked."""
        self.vm.ssh(f"rm -rf /{STORE} && cp -a /{HERE}/store /{STORE} && sync", timeout_s=SLOWEST_S)

    # --- cut ----------------------------------------------------------------------------------------------------------

    def cut(self, command: str, recovering: bool = False) -> Cut:
        """Cuts the power during a command, or while it takes back or finishes what the last cut left."""
        # Most steps take a few milliseconds: shorter delays more often, so that the cut falls on the step itself or soon after.
        delay_s = MOST_DELAY_S * self.random.random() ** 2
        made = Cut(command, self._aim(TAKE_AWAY if recovering else command), delay_s, recovering)
        offset = self._said_so_far()
        line = f"{self._shell(command)}; echo '{ENDED}' >/dev/console"
        with subprocess.Popen(ssh.argv(self.vm.target, line), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            self._await(offset, made.step)
            time.sleep(made.delay_s)
            self.vm.kill()
            process.kill()
        said = self._steps_said(offset)
        made.last_step = said[-1] if said else ""
        self.cuts.append(made)
        return made

    def _aim(self, operation: str) -> str:
        """A step that was not cut at before while there is one."""
        aims = self._aims.setdefault(operation, [])
        if not aims:
            aims += self.random.sample(self.steps[operation], len(self.steps[operation]))
        return aims.pop()

    def _await(self, offset: int, step: str) -> None:
        end = time.monotonic() + SLOWEST_S
        while step not in self._steps_said(offset) and ENDED not in self._said(offset):
            assert time.monotonic() < end, f"{step} was never said; {self.vm.serial}"
            time.sleep(0.0005)

    def power_on(self, cut: Cut) -> None:
        """Power on, and look at what the cut has left."""
        self.vm.layer_disk()
        self.vm.start()
        cut.found = json.loads(self.vm.ssh(f"python3 /{HERE}/onnode.py found {self.layer}").stdout)

    def finish(self, cut: Cut) -> str:
        """Run it again, or the other way round, and compare. Returns the state that the node is in then."""
        other = {ACTIVATE: DEACTIVATE, DEACTIVATE: ACTIVATE, DISCARD: DISCARD}[cut.command]
        cut.then = self.random.choice([cut.command, other])
        self._run(cut.then)
        wanted = ENDS[cut.then]
        differing = differences(self.filesystem.look(), self.looks[wanted])
        cut.end = f"{wanted}, as uninterrupted" if not differing else f"NOT {wanted}: {len(differing)} paths differ"
        assert not differing, f"{HEAD}\n{cut.row}\n{dict(list(differing.items())[:20])}"
        complaints = self.vm.ssh("dmesg | grep -E 'EXT4-fs (error|warning)' || true").stdout
        assert complaints == ""
        if wanted == ABSENT:
            self._restore_store()
        return INERT if wanted == ABSENT else wanted

    def chain(self, number: int) -> None:
        """That many cuts after a rehearsal, one after the other: each of a command that has something to do then."""
        possible = {ACTIVE: [DEACTIVATE], INERT: [ACTIVATE, ACTIVATE, ACTIVATE, DISCARD], BETWEEN: [ACTIVATE, DEACTIVATE]}
        state = ACTIVE
        for left in reversed(range(number)):
            cut = self.cut(self.random.choice(possible[state]), recovering=state == BETWEEN)
            self.power_on(cut)
            if left and cut.found["journal"] and self.random.random() < AGAIN:
                cut.then, cut.end, state = "cut again", "next row", BETWEEN
            else:
                state = self.finish(cut)

    # --- the console --------------------------------------------------------------------------------------------------

    def _said_so_far(self) -> int:
        return self.vm.serial.stat().st_size

    def _said(self, offset: int) -> str:
        with self.vm.serial.open("rb") as stream:
            stream.seek(offset)
            return stream.read().decode(errors="replace")

    def _steps_said(self, offset: int) -> list[str]:
        return _STEP.findall(self._said(offset))


def table(cuts: Iterable[Cut]) -> str:
    """The cuts as text, in columns."""
    rows = [("no.", *HEAD), *((str(number), *cut.row) for number, cut in enumerate(cuts, 1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows) + "\n"


def _archive() -> str:
    """The library and the script that looks, as a tar file in base64."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        library = paths.TOP / "plugins/module_utils/gpunode"
        tar.add(library, "gpunode", filter=lambda member: None if "__pycache__" in member.name else member)
        tar.add(Path(__file__).with_name("onnode.py"), "onnode.py")
    return base64.b64encode(packed.getvalue()).decode()
