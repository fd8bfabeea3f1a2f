"""Power cuts in one VM, one after the other: after each boot the node recovers from the last cut and is compared, then it is cut again.

The node runs ``python3 -m gpunode.command`` with its progress on the serial console. After the chosen step appears there, QEMU is killed
with a delay of up to 50 ms.
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
AGAIN = 0.25  # of the cuts that leave a journal, this part is followed by a cut in the run that recovers
SLOWEST_S = 900.0  # for one command, on a busy machine
ENDED = "power: the command has ended"
# Before the journal is written nothing has begun; after it is deleted, only unneeded files are still to be deleted.
NOT_INSIDE = (
    *("", "activate: check", "activate: read", "activate: keep", "activate: done"),
    *("take-away: drop", "take-away: done", "discard: done"),
)
_STEP = re.compile(rf"^((?:{'|'.join(STEPS)}): (?:{'|'.join({s for steps in STEPS.values() for s in steps})}))\r?$", re.MULTILINE)


@dataclass
class Cut:
    """One power cut: the step that was chosen, the last step before the cut, what was found after power-on, and how the next run ended."""

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
        """Whether the cut was provably inside a transaction: the journal exists, or a step was printed and not the last one."""
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


HEAD = ("command", "cut after", "delay", "last step", "transaction", "found after power-on", "then run", "end state")


class Bench:
    """A VM whose store contains one layer, its filesystem in each state in which a run may end, and the cuts that were made."""

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
        """Runs one activation to its end: records the states for comparison, and the steps for cuts. Leaves the layer active."""
        inert = self.looks[INERT] = self.filesystem.look()
        offset = self._console_size()
        self._run(ACTIVATE)
        said = self._steps_printed(offset)
        self.looks[ACTIVE] = self.filesystem.look()
        assert differences(self.looks[ACTIVE], inert)
        gone = (f"{STORE}/layers/{self.layer}", OBJECTS)
        self.looks[ABSENT] = {path: thing for path, thing in inert.items() if not path.startswith(gone)}
        # The indexes and the loader's cache are restored from backups: neither depmod nor ldconfig runs during a deactivation.
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
        """After a discard: puts the layer back into the store, as it was after the bake."""
        self.vm.ssh(f"rm -rf /{STORE} && cp -a /{HERE}/store /{STORE} && sync", timeout_s=SLOWEST_S)

    # --- cut ----------------------------------------------------------------------------------------------------------

    def cut(self, command: str, recovering: bool = False) -> Cut:
        """Cuts the power during a command, or while that rolls back or finishes what the last cut has left."""
        # Most steps take a few milliseconds. Shorter delays are more frequent, so that the cut is in the step itself or soon after.
        delay_s = MOST_DELAY_S * self.random.random() ** 2
        made = Cut(command, self._aim(TAKE_AWAY if recovering else command), delay_s, recovering)
        offset = self._console_size()
        line = f"{self._shell(command)}; echo '{ENDED}' >/dev/console"
        with subprocess.Popen(ssh.argv(self.vm.target, line), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            self._await(offset, made.step)
            time.sleep(made.delay_s)
            self.vm.kill()
            process.kill()
        said = self._steps_printed(offset)
        made.last_step = said[-1] if said else ""
        self.cuts.append(made)
        return made

    def _aim(self, operation: str) -> str:
        """A step at which there was no cut yet, as long as there are such."""
        aims = self._aims.setdefault(operation, [])
        if not aims:
            aims += self.random.sample(self.steps[operation], len(self.steps[operation]))
        return aims.pop()

    def _await(self, offset: int, step: str) -> None:
        end = time.monotonic() + SLOWEST_S
        while step not in self._steps_printed(offset) and ENDED not in self._console(offset):
            assert time.monotonic() < end, f"{step} was never printed; see {self.vm.serial}"
            time.sleep(0.0005)

    def power_on(self, cut: Cut) -> None:
        """Powers on, and records what the cut has left."""
        self.vm.layer_disk()
        self.vm.start()
        cut.found = json.loads(self.vm.ssh(f"python3 /{HERE}/onnode.py found {self.layer}").stdout)

    def finish(self, cut: Cut) -> str:
        """Runs the command again, or its opposite, and compares the result. Returns the state of the node afterwards."""
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
        """Makes that many cuts after a rehearsal, each during a command that has something to do in the node's state."""
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

    def _console_size(self) -> int:
        return self.vm.serial.stat().st_size

    def _console(self, offset: int) -> str:
        with self.vm.serial.open("rb") as stream:
            stream.seek(offset)
            return stream.read().decode(errors="replace")

    def _steps_printed(self, offset: int) -> list[str]:
        return _STEP.findall(self._console(offset))


def table(cuts: Iterable[Cut]) -> str:
    """The cuts as a table of text."""
    rows = [("no.", *HEAD), *((str(number), *cut.row) for number, cut in enumerate(cuts, 1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows) + "\n"


def _archive() -> str:
    """The library and the script onnode.py, as a tar file in base64."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        library = paths.TOP / "plugins/module_utils/gpunode"
        tar.add(library, "gpunode", filter=lambda member: None if "__pycache__" in member.name else member)
        tar.add(Path(__file__).with_name("onnode.py"), "onnode.py")
    return base64.b64encode(packed.getvalue()).decode()
