"""The shell lines that a followed module needs on its node: make the jobs' folder, look once, stop.

Plain sh and coreutils, since each look costs the node something while it compiles. Job files are those of Ansible's async_wrapper: while
the module runs they begin with ``{"started":``, afterwards they hold its result.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

JOBS = "/run/gpu-prebake/jobs"
"""Where job files lie on a node: gone with a reboot, and never part of an image."""

MOST_BYTES = 65536
"""How much of a log one look fetches."""

_MARK = "gpu-prebake-look"

# Sets `alive` to 1 if a process runs a file of the job's temporary folder: the wrapper, or the module. Shells that only mention that
# folder, as this one does, have it further back in their command line.
_ALIVE = """
alive=0
for p in $(grep -lsaF -- "$tmp/" /proc/[0-9]*/cmdline); do
  case $({ tr '\\0' '\\n' <"$p"; } 2>/dev/null | sed -n 2p) in "$tmp"/*) alive=1; [ -z "$signal" ] || end ;; esac
done
"""


@dataclass(frozen=True)
class Look:
    """What one look at the node found."""

    state: str
    """``running``, ``done`` (its result is there) or ``dead`` (it ended without one)."""
    inode: str
    """Which file the log is; empty where there is none."""
    data: str
    """What is new in it."""


def begin(log: str) -> str:
    """Makes the jobs' folder, removes what ended jobs of lost callers left there, and prints the inode of the log that is there."""
    return (
        f"umask 077; mkdir -p {JOBS} && chmod 0700 {JOBS} && cd {JOBS} || exit 1; "
        'for f in *; do [ -f "$f" ] || continue; case $(head -c 11 "$f") in \'{"started":\') ;; *) rm -f "$f" ;; esac; done; '
        f"echo {_MARK}; stat -c %i {shlex.quote(log)} 2>/dev/null || true"
    )


def begun(output: str) -> str | None:
    """The inode that ``begin`` printed, empty without a log; None where it did not get that far."""
    _before, mark, rest = output.partition(_MARK)
    return rest.strip() if mark else None


def look(log: str, passed_inode: str, offset: int, jid: str, tmp: str) -> str:
    """Prints the job's state, the log's inode, and what the log has from ``offset`` bytes on, unless it still is the file that was there
    before the run (``passed_inode``)."""
    return (
        f"log={shlex.quote(log)}; job={shlex.quote(f'{JOBS}/{jid}')}; tmp={shlex.quote(tmp)}; signal=; "
        'state=running; case $(head -c 11 "$job" 2>/dev/null) in \'{"started":\'|"") '
        f'{_ALIVE} [ "$alive" = 1 ] || state=dead ;; *) state=done ;; esac; '
        'if [ $state = dead ]; then case $(head -c 11 "$job" 2>/dev/null) in \'{"started":\'|"") ;; *) state=done ;; esac; fi; '
        'inode=$(stat -c %i "$log" 2>/dev/null); '
        f'echo "{_MARK} $state $inode."; '
        f'if [ -n "$inode" ] && [ "$inode" != "{passed_inode}" ]; then tail -c +{offset + 1} "$log" | head -c {MOST_BYTES}; fi'
    )


def looked(output: str) -> Look | None:
    """What ``look`` printed; None where it cannot be read."""
    _before, mark, rest = output.partition(_MARK)
    head, newline, data = rest.partition("\n")
    words = head.strip().rstrip(".").split()
    if not mark or not newline or not words:
        return None
    return Look(words[0], words[1] if len(words) > 1 else "", data)


def stop(jid: str, tmp: str, wait_s: int) -> str:
    """Tells the module to stop, waits until it has, prints the result that it left, and removes the job's file.

    It goes on to its end when the connection, or who called, is gone.
    """
    return (
        f"trap '' HUP PIPE; job={shlex.quote(f'{JOBS}/{jid}')}; tmp={shlex.quote(tmp)}; signal=TERM; "
        'end() { case $({ tr "\\0" "\\n" <"$p"; } 2>/dev/null | sed -n 2p) in *async_wrapper*) ;; '
        '*) kill -TERM "$(basename "$(dirname "$p")")" ;; esac; }; '
        f"{_ALIVE} signal=; n=0; "
        f'while [ "$alive" = 1 ] && [ $n -lt {wait_s} ]; do sleep 1; n=$((n+1)); {_ALIVE} done; '
        f'echo {_MARK}; cat "$job"; rm -f "$job"'
    )


def stopped(output: str) -> str:
    """The module's result as JSON that ``stop`` printed; empty where it left none."""
    return output.partition(_MARK)[2].strip()
