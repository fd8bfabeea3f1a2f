"""PID 1 of a session's pid namespace: starts the registry and the command, reaps orphans, and ends when the command ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from lab.driverimages import registry
from lab.machine.errors import LabError


def main(argv: Sequence[str]) -> int:
    """Runs the command after `--` and returns its exit status. When this process ends, the kernel kills all others of the session."""
    if os.getpid() != 1:
        raise SystemExit("lab.session_init is started by `python -m lab session`: do not start it by hand")
    # The terminal sends Ctrl-C to the command too, so here it does nothing. Not SIG_IGN: the command would inherit that.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        registry.ensure()
        process = subprocess.Popen(list(argv[1:]))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"lab: cannot start {argv[1]}: {error.strerror}", file=sys.stderr)
        return 127
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            rc = os.waitstatus_to_exitcode(status)
            return 128 - rc if rc < 0 else rc


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
