"""Runs Molecule scenarios, two side by side, with one line each; `python -m lab.scenarios [NAME …]`, all by default.

The last line, "N passed, N failed", is what CI reads. Logs go to build/scenarios.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import bakedimage, disk, driverimage, host, paths, registry, session
from lab.errors import LabError
from lab.progress import say

OUT = paths.TOP / "build/scenarios"
SIDE_BY_SIDE = 2  # each VM has one processor, the machines two
TIMEOUT_S = 1200.0
BAKED = ("standin", "standin-refuses-skip")
PUSHED = ("standin-grid", "standin-other-version")


@dataclass(frozen=True)
class Ended:
    """How a scenario ended."""

    name: str
    passed: bool
    seconds: float
    log: Path


def main(names: Sequence[str]) -> int:
    """Runs the scenarios in a lab session; returns the exit status."""
    known = sorted(path.parent.name for path in (paths.TOP / "molecule").glob("*/molecule.yml"))
    strange = set(names) - set(known)
    if strange:
        print(f"lab: no scenario {', '.join(sorted(strange))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        session.reexec([sys.executable, "-m", "lab.scenarios", *names])
        prepare()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        ended = list(pool.map(run, names or by_length(known)))
    failed = [one for one in ended if not one.passed]
    for one in failed:
        print(f"--- {one.name} failed; the end of {one.log}:\n{host.read_tail(one.log, 80)}")
    for one in ended:
        print(f"{'PASSED' if one.passed else 'FAILED'} {one.name} {one.seconds:.0f} s")
    print(f"scenarios: {len(ended) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def prepare() -> None:
    """What scenarios share is made before them, so that none waits for another's and their times compare."""
    for name in (*BAKED, *PUSHED):
        driver = driverimage.build(name)
        registry.push(driver.layout, driver.reference)
    for name in BAKED:
        bakedimage.bake(name)
    disk.of_base()


def by_length(names: Sequence[str]) -> list[str]:
    """The longest first: those that boot twice."""
    return sorted(names, key=lambda name: not (paths.TOP / "molecule" / name / "after_reboot.yml").exists())


def run(name: str) -> Ended:
    """Runs one scenario to its end; its node is gone afterwards."""
    OUT.mkdir(parents=True, exist_ok=True)
    log = OUT / f"{name}.log"
    log.unlink(missing_ok=True)
    say(f"scenario {name}: begins")
    begin = time.monotonic()
    env = {"ANSIBLE_CONFIG": str(paths.TOP / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1"}
    try:
        rc = host.run(["molecule", "test", "-s", name], timeout_s=TIMEOUT_S, check=False, env=env, log=log).rc
    except LabError as error:
        with log.open("a") as file:
            file.write(f"{error}\n")
        rc = 1
    seconds = time.monotonic() - begin
    say(f"scenario {name}: {'passed' if rc == 0 else 'FAILED'}: {seconds:.0f} s")
    return Ended(name, rc == 0, seconds, log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
