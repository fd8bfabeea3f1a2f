"""Runs Molecule scenarios, two at a time: `python -m lab.scenarios [--part PART] [NAME …]`.

Without names, all scenarios of a part are run. A scenario's `vars/main.yml` says which part it belongs to (`lab_part`, by default core)
and what it needs. One line is printed for each scenario; CI reads the last line, "N passed, N failed". Logs are in build/scenarios.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab.builds import bakedimage
from lab.driverimages import driverimage, registry
from lab.machine import host, paths, session
from lab.machine.errors import LabError
from lab.machine.progress import say
from lab.nodes import base, disk

OUT = paths.TOP / "build/scenarios"
SIDE_BY_SIDE = 2  # each VM has one processor, the machines that run the tests have two
TIMEOUT_S = 3000.0
CORE = "core"
"""The part that `make test` runs."""


@dataclass(frozen=True)
class Scenario:
    """A folder of molecule/. `base` is the base of the VM's disk, `baked` the driver image baked into it (or none), `mode` the mode of
    that bake, `nouveau` whether the bake leaves nouveau alone, `image` the driver image that the node is to run."""

    name: str
    part: str
    base: str
    baked: str
    mode: str
    nouveau: bool
    image: str
    boots_twice: bool


@dataclass(frozen=True)
class Ended:
    """How a scenario ended."""

    name: str
    passed: bool
    seconds: float
    log: Path


def main(words: Sequence[str]) -> int:
    """Runs the scenarios in a lab session; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.scenarios", description="Runs Molecule scenarios, two at a time.")
    parser.add_argument("--part", default=CORE, help="part whose scenarios are run if none is named; default: %(default)s")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args(words)
    try:
        wanted = choose(found(), options.names, options.part)
        session.reexec([sys.executable, "-m", "lab.scenarios", *words])
        prepare(wanted)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        ended = list(pool.map(run, (scenario.name for scenario in wanted)))
    failed = [one for one in ended if not one.passed]
    for one in failed:
        print(f"--- {one.name} failed; the end of {one.log}:\n{host.read_tail(one.log, 80)}")
    for one in ended:
        print(f"{'PASSED' if one.passed else 'FAILED'} {one.name} {one.seconds:.0f} s")
    print(f"scenarios: {len(ended) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def found(folder: Path = paths.TOP / "molecule") -> list[Scenario]:
    """The scenarios in a folder, by name."""
    return [_read(path.parent) for path in sorted(folder.glob("*/molecule.yml"))]


def _read(folder: Path) -> Scenario:
    said = yaml.safe_load((folder / "vars/main.yml").read_text())
    return Scenario(
        name=folder.name,
        part=said.get("lab_part", CORE),
        base=said.get("lab_base", base.CLOUD.name),
        baked=said["lab_baked"],
        mode=said.get("lab_mode", bakedimage.CAPTURED),
        nouveau=said.get("lab_nouveau", False),
        image=said["lab_image"],
        boots_twice=(folder / "after_reboot.yml").exists(),
    )


def choose(known: Sequence[Scenario], names: Sequence[str], part: str) -> list[Scenario]:
    """The named scenarios, or else all of the part. Those that boot twice come first, because they take longest. Raises LabError for an
    unknown name or part."""
    strange = set(names) - {scenario.name for scenario in known}
    if strange:
        raise LabError(f"no scenario {', '.join(sorted(strange))}; there are {', '.join(scenario.name for scenario in known)}")
    wanted = [scenario for scenario in known if (scenario.name in names if names else scenario.part == part)]
    if not wanted:
        raise LabError(f"no scenario belongs to part {part}; there are {', '.join(sorted({scenario.part for scenario in known}))}")
    return sorted(wanted, key=lambda scenario: not scenario.boots_twice)


def prepare(wanted: Iterable[Scenario]) -> None:
    """Makes the driver images and disks that scenarios share, so that no scenario waits for another one's, and their times can be
    compared."""
    wanted = list(wanted)
    for name in sorted({scenario.image for scenario in wanted}):
        driver = driverimage.build(name)
        registry.push(driver.layout, driver.reference)
    for variant, name, mode, nouveau in sorted({(one.base, one.baked, one.mode, one.nouveau) for one in wanted}):
        if name == "none":
            disk.of_base(base.VARIANTS[variant])
        else:
            bakedimage.bake(name, variant=base.VARIANTS[variant], mode=mode, nouveau=nouveau)


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
