"""``python3 -m gpunode.command``: activate, deactivate or discard a layer by hand.

The result is JSON on standard output, progress on standard error.
Exit status: 0 done or nothing to do, 1 refused or failed (``code`` says why, docs/codes.md), 2 wrong usage, 75 another run is in progress.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from .activation import flow
from .driver.control import REFUSE, UNTIL_REBOOT
from .errors import BusyError, GpuNodeError
from .util.plaintext import clean_text
from .util.run import Runner, SystemRunner

_STATES = {"activate": flow.ACTIVE, "deactivate": flow.INACTIVE, "discard": flow.ABSENT}
_FAILED, _BUSY = 1, 75


def main(argv: Sequence[str], runner: Runner, out: TextIO = sys.stdout, err: TextIO = sys.stderr, live: bool | None = None) -> int:
    """Does what the command line asks; returns the exit status. ``live`` says whether the running kernel is that of the system that is
    worked on (None: only if that is this system)."""
    arguments = _parser().parse_args(argv)

    def say(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody may listen any more, and what was begun must be finished all the same
            err.write(f"{clean_text(line)}\n")
            err.flush()

    root = Path(arguments.root)
    in_use = UNTIL_REBOOT if getattr(arguments, "until_reboot", False) else REFUSE
    live = root.resolve() == Path("/") if live is None else live
    try:
        done = flow.set_state(runner, _STATES[arguments.command], arguments.layer or "", arguments.check, say, root, in_use, live)
    except GpuNodeError as error:
        say(f"{error.code}: {error}")
        out.write(json.dumps({"code": error.code, "error": str(error)}) + "\n")
        return _BUSY if isinstance(error, BusyError) else _FAILED
    out.write(json.dumps(vars(done), sort_keys=True) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpunode.command", description="Activate, deactivate or discard a captured driver layer.")
    parser.add_argument("--root", default="/", help="the root of the system to work on (default: this system)")
    parser.add_argument("--check", action="store_true", help="report whether anything would change; change nothing")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text, needs_layer in (
        ("activate", "put a layer's files in place", True),
        ("deactivate", "take the active layer's files away again", False),
        ("discard", "delete a layer from the store", True),
    ):
        command = commands.add_parser(name, help=text, description=text)
        if name == "deactivate":
            command.add_argument("--until-reboot", action="store_true", help="take the files away even if a process has the driver open")
        command.add_argument("layer", nargs=None if needs_layer else "?", help="the layer's folder name in the store")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], SystemRunner()))
