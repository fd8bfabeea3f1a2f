"""The shell scripts that a followed module needs on its node: create the jobs' folder, look once, stop the module.

They use only sh, coreutils and the like, because each look takes time from a node that compiles. Job files are those of Ansible's
async_wrapper: while the module runs they begin with ``{"started":``, afterwards they hold its result.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

JOBS = "/run/gpu-prebake/jobs"
"""The folder of the job files on a node. A reboot empties it, and it is never part of an image."""

MOST_BYTES = 65536
"""How much of a log one look fetches at most."""

_MARK = "gpu-prebake-look"

# Sets `alive` to 1 if a process runs a file of the job's temporary folder: the wrapper or the module. In such a process the file is the
# second word of the command line; shells that only mention the folder, such as this one, have it further back.
_ALIVE = """
alive=0
for p in $(grep -lsaF -- "$tmp/" /proc/[0-9]*/cmdline); do
  case $({ tr '\\0' '\\n' <"$p"; } 2>/dev/null | sed -n 2p) in "$tmp"/*) alive=1; [ -z "$signal" ] || end ;; esac
done
"""


@dataclass(frozen=True)
class Look:
    """The answer of one look at the node."""

    state: str
    """The job's: ``running``, ``done`` (its result is there) or ``dead`` (it ended without a result)."""
    inode: str
    """The log's inode, which identifies the file; empty without a log."""
    data: str
    """The new part of the log."""


def begin(log: str) -> str:
    """Creates the jobs' folder, removes the results of ended jobs that nobody fetched, and prints the inode of the existing log."""
    return (
        f"umask 077; mkdir -p {JOBS} && chmod 0700 {JOBS} && cd {JOBS} || exit 1; "
        'for f in *; do [ -f "$f" ] || continue; case $(head -c 11 "$f") in \'{"started":\') ;; *) rm -f "$f" ;; esac; done; '
        f"echo {_MARK}; stat -c %i {shlex.quote(log)} 2>/dev/null || true"
    )


def begun(output: str) -> str | None:
    """The inode that ``begin`` printed, empty without a log; None if ``begin`` failed earlier."""
    _before, mark, rest = output.partition(_MARK)
    return rest.strip() if mark else None


def look(log: str, passed_inode: str, offset: int, jid: str, tmp: str) -> str:
    """Prints the job's state, the log's inode, and the log from byte ``offset`` on, unless the log is still the file of an earlier run
    (``passed_inode``)."""
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
    """The output of ``look``, parsed; None if it cannot be parsed."""
    _before, mark, rest = output.partition(_MARK)
    head, newline, data = rest.partition("\n")
    words = head.strip().rstrip(".").split()
    if not mark or not newline or not words:
        return None
    if words[0] not in ("running", "done", "dead"):
        return None
    return Look(words[0], words[1] if len(words) > 1 else "", data[:MOST_BYTES])


def stop(jid: str, tmp: str, wait_s: int) -> str:
    """Sends the module SIGTERM, waits until it has stopped, prints the result that it left, and removes the job file.

    The script runs to its end even if the connection or the caller is gone.
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
    """The module's result as JSON, as ``stop`` printed it; empty if the module left none."""
    return output.partition(_MARK)[2].strip()
