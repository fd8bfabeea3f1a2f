"""A lab session: one command, and everything it starts, in a pid and a mount namespace of their own.

However the session ends, SIGKILL included, the kernel kills every process and unmounts every mount in it. What is not in
a namespace (bridge, iptables rules, run folder) is removed at the end, or by the next session if this one was killed.
One session runs at a time on a machine; the lock is /run/gpu-prebake-lab/lock, and session.json names its owner.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from lab.machine import host, network, paths, ssh
from lab.machine.errors import LabError
from lab.machine.progress import say

STATE = paths.MACHINE / "session.json"
LOCK = paths.MACHINE / "lock"
WAIT_S = 3600.0
INTERRUPT_GRACE_S = 30.0
LOGS_KEPT = 10


@dataclass(frozen=True)
class State:
    """What is recorded of a session: others read it to say for whom they wait, and to clean up after one that was killed."""

    name: str
    pid: int
    command: str
    cache: str
    ip_forward: str = ""
    leader: int = 0


def inside() -> bool:
    """Whether this process runs in a session."""
    name = os.environ.get(paths.SESSION_VARIABLE, "")
    return bool(name) and paths.run(name).is_dir()


def reexec(argv: Sequence[str], wait_s: float = WAIT_S) -> None:
    """For a Python program that needs a session: returns if it runs in one; otherwise runs `argv` in a new session and exits."""
    if not inside():
        sys.exit(run(argv, wait_s))


def run(argv: Sequence[str], wait_s: float = WAIT_S) -> int:
    """Run `argv` in a new session (or just run it, inside one); returns its exit status, 128 + n for signal n."""
    if inside():
        return _status(subprocess.call(list(argv)))
    host.need_root("a lab session")
    host.need_tools()
    with _lock(argv, wait_s):
        remove_leftovers()
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        state = State(name, os.getpid(), " ".join(argv)[:200], str(paths.cache()))
        try:
            return _run_inner(state, argv)
        finally:
            remove_leftovers()


def clean(wait_s: float = 0.0) -> list[str]:
    """Remove what a killed session has left behind; returns what was removed, as text. Raises LabError if a session is running."""
    host.need_root("cleaning the lab")
    with _lock(["clean"], wait_s):
        return remove_leftovers()


def remove_leftovers() -> list[str]:
    """With the lock held: end the last session's processes, then remove what it has left outside of its namespaces."""
    state = _read_state()
    forwarding = None
    removed = []
    if state:
        forwarding = state.ip_forward
        _end(state.leader)
    removed += network.down(forwarding)
    if state:
        folder = Path(state.cache) / "run" / state.name
        if folder.exists():
            shutil.rmtree(folder)
            removed.append(f"run folder {folder}")
    STATE.unlink(missing_ok=True)
    shutil.rmtree(ssh.CONTROL, ignore_errors=True)
    return removed


def _run_inner(state: State, argv: Sequence[str]) -> int:
    _prune_logs()
    for folder in (paths.run(state.name), paths.logs(state.name), ssh.CONTROL):
        paths.make_private(folder)
    # Written before the first change, so that the next session also cleans up after one that is killed in the middle of `up`.
    state = State(**{**asdict(state), "ip_forward": network.FORWARDING.read_text().strip()})
    _write_state(state)
    network.up()
    ours = [sys.executable, "-m", "lab.session_init", "--", *argv]
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave", "--"]
    module_path = os.pathsep.join(filter(None, [str(paths.TOP), os.environ.get("PYTHONPATH")]))
    environment = {**host.environment(), paths.SESSION_VARIABLE: state.name, "PYTHONPATH": module_path}
    interrupts = _Interrupts()
    # There is only one thread here, so preexec_fn is safe.
    process = subprocess.Popen([*isolated, *ours], env=environment, preexec_fn=_die_with_parent)  # noqa: PLW1509
    try:
        _write_state(State(**{**asdict(state), "leader": _leader(process)}))
        return _status(interrupts.wait(process))
    finally:
        interrupts.restore()
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


class _Interrupts:
    """Signals. Ctrl-C goes to the whole foreground process group, so the command gets INTERRUPT_GRACE_S to end by itself; a second
    Ctrl-C, SIGTERM and SIGHUP end it at once."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.count = 0
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        grace = INTERRUPT_GRACE_S if number == signal.SIGINT and self.count == 1 else 0.0
        self.deadline = time.monotonic() + grace

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.25)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                process.kill()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class _lock:  # noqa: N801 - used like a function
    """Context manager for the machine's session lock; says for whom it waits, and raises LabError after `wait_s`."""

    def __init__(self, argv: Sequence[str], wait_s: float) -> None:
        self.argv, self.wait_s = argv, wait_s
        self.file: TextIO | None = None

    def __enter__(self) -> None:
        paths.make_private(paths.MACHINE)
        self.file = LOCK.open("a")
        end = time.monotonic() + self.wait_s
        announced = ""
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            owner = _read_state()
            who = f"pid {owner.pid} ({owner.command})" if owner else "another session (just starting or ending)"
            if time.monotonic() >= end:
                self.file.close()
                raise LabError(f"the lab is in use by {who}; waited {self.wait_s:.0f} s: try again later, or end that session")
            if who != announced:
                say(f"waiting for {who}")
                announced = who
            time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()


def _leader(process: subprocess.Popen[bytes]) -> int:
    """Pid, as seen from here, of the first process in the new pid namespace."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        with suppress(OSError):
            found = children.read_text().split()
            if found:
                return int(found[0])
        time.sleep(0.01)
    return 0


def _end(leader: int) -> None:
    """Kill `leader` and wait until its pid namespace is empty: a PID 1 disappears only after all other processes in it."""
    end = time.monotonic() + 60
    while leader and _is_ours(leader):
        if time.monotonic() > end:
            raise LabError(f"process {leader} of a killed session does not end: look at it with ps, then run `python -m lab clean`")
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGKILL)
        time.sleep(0.05)


def _is_ours(pid: int) -> bool:
    """Whether `pid` is still a session's first process, and not another process that was given the same number."""
    try:
        return b"lab.session_init" in Path(f"/proc/{pid}/cmdline").read_bytes() or (
            f"\nNSpid:\t{pid}\t1\n" in Path(f"/proc/{pid}/status").read_text() and host.is_alive(pid)
        )
    except OSError:
        return False


def _read_state() -> State | None:
    try:
        return State(**json.loads(STATE.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(state: State) -> None:
    fresh = STATE.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(state)) + "\n")
    fresh.rename(STATE)


def _prune_logs() -> None:
    folders = sorted(path for path in (paths.cache() / "logs").glob("*-*") if path.is_dir())
    for folder in folders[: -LOGS_KEPT + 1]:
        shutil.rmtree(folder, ignore_errors=True)


def _status(rc: int) -> int:
    return 128 - rc if rc < 0 else rc


def _die_with_parent() -> None:
    """Runs in the process of unshare: the kernel kills it when the session's outer process ends (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
