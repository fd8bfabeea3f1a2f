"""`python -m bench [NAME …]`: runs the benchmarks of BENCHES on one node, prints the table and writes build/bench/report.json.

A benchmark is a function that takes a Ground and returns rows. To add one, write a file like bench/boot_look.py and name it in BENCHES.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bench import bake, boot_look, controller, layer, report
from bench.ground import Ground, ground
from bench.rows import Row
from lab.machine import paths, session
from lab.machine.errors import LabError
from lab.machine.progress import say, step

OUT = paths.TOP / "build/bench"
BENCHES: dict[str, Callable[[Ground], list[Row]]] = {
    "boot-look": boot_look.bench,
    "controller": controller.bench,
    "layer": layer.bench,
    "bake": bake.bench,
}


def main() -> int:
    """Runs the benchmarks in a lab session and returns the exit status, which does not depend on the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks on a native node of the lab.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks to run, of {', '.join(BENCHES)}; default: all")
    parser.add_argument(
        "--against", metavar="CLONE", type=Path, help="another clone, whose look boot-look measures in turn with this one's"
    )
    options = parser.parse_args()
    names = options.names or list(BENCHES)
    unknown = sorted(set(names) - set(BENCHES))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}: choose from {', '.join(BENCHES)}")
    try:
        against = ["--against", str(options.against.resolve())] if options.against else []
        session.reexec([sys.executable, "-m", "bench", *names, *against])
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        rows: list[Row] = []
        load = [os.getloadavg()[0]]
        with ground(OUT, options.against) as place:
            for name in names:
                with step(f"benchmark {name}"):
                    rows += BENCHES[name](place)
                load.append(os.getloadavg()[0])
        found = report.document(rows, f"{os.cpu_count()} cores, Linux {os.uname().release}", load)
        report.show(found)
        say(f"report: {report.write(found, OUT)}")
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
