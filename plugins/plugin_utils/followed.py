"""An action that runs its module asynchronously, shows the lines of the module's progress log on the node as they arrive, and returns the
module's own result. The traces of a driver container's scripts are among these lines; they are shown only with ``-v``.

If the connection is lost, the module continues and the action finds it again. On an interrupt the action sends the module a signal to stop,
and the module rolls back what it has begun. No job file stays on the node, unless the connection never comes back; then the next run
removes it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ansible.errors import AnsibleConnectionFailure
from ansible.utils.display import Display

from ..module_utils.gpunode.util.plaintext import LONGEST, clean, clean_data
from ..module_utils.gpunode.util.traces import is_trace
from . import jobscript
from .hostfile import file_name
from .nodeaction import NodeAction, limited

POLL_S = 1.0
SILENCE_S = 30.0
"""After this many seconds without a line, the action reports that the module still runs."""
LOST_S = 300.0
"""How long a node may be unreachable before the action gives up."""
RETRY_S = 5.0
STOP_S = 120
LOOK_S = 120.0
"""How long one look at the node may take. If it takes longer, the connection counts as lost."""
BESIDE_MODULE_S = 60.0
"""How long after its module's own limit a node that still says "running" is believed."""
DEAD_LOOKS = 3
"""How many times in a row a job must be found without a process before it counts as dead: for a moment between two of its processes there
may be none."""
INTERRUPTED_FOLDER = "GPU_PREBAKE_INTERRUPTED"
"""Environment variable: a folder on the controller for the answers of interrupted modules, because Ansible itself no longer reads them."""

_EMPTY = re.compile(r"\s*(?:\d+\.\d\d)?\s*")  # nothing, or only the time that begins each line
_TIME = re.compile(r" *\d+\.\d\d ")  # begins each line of a progress log
_ASYNC_KEYS = ("ansible_job_id", "finished", "results_file", "started")

Answer = TypeVar("Answer")

display = Display()


class Lines:
    """Splits a log that arrives in pieces into lines; an incomplete line is kept until its rest arrives."""

    def __init__(self) -> None:
        self._pending = ""

    def take(self, data: str) -> list[str]:
        """The lines that ``data`` completes."""
        *whole, pending = (self._pending + data).split("\n")
        self._pending = pending[: LONGEST + 1]  # what is cut in any case need not be kept
        return [clean(line) for line in whole if not _EMPTY.fullmatch(line)]

    def rest(self) -> list[str]:
        """The incomplete line that is left at the end, if any."""
        pending, self._pending = self._pending, ""
        return [] if _EMPTY.fullmatch(pending) else [clean(pending)]


def to_show(lines: list[str], verbosity: int) -> list[str]:
    """Those of ``lines`` that are shown: without ``-v``, no traces of a script."""
    return [line for line in lines if verbosity or not is_trace(_TIME.sub("", line, count=1) if _TIME.match(line) else line)]


def _last_line(error: Exception) -> str:
    return clean((str(error).strip().splitlines() or ["no answer"])[-1])[-160:]


class Stopped(BaseException):
    """Raised by the signal that ends this worker. A BaseException, so that no task catches it."""


class FollowedAction(NodeAction):
    """Subclasses define which log to follow, how long the module may take, and when to follow it."""

    log = ""
    """The module's progress log on the node."""

    def is_followed(self) -> bool:
        """Whether this call is followed; if not, it is one plain module call."""
        raise NotImplementedError

    def run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Runs the module of the action's name with ``arguments``, followed or not, and returns its result."""
        self._host_name = str(task_vars.get("inventory_hostname", "node"))
        if self.is_followed() and not self._task.async_val and not self._task.check_mode:
            passed = self._begin()
            if passed is not None:
                return self._follow(arguments, task_vars, passed)
        return super().run_module(arguments, task_vars)

    # --- the job ----------------------------------------------------------------------------------------------------

    def _begin(self) -> str | None:
        """The inode of the log that an earlier run left; None if nothing can be followed: the module then reports why it cannot run."""
        return jobscript.begun(self._ask(jobscript.begin(self.log)))

    def _follow(self, arguments: dict[str, Any], task_vars: dict[str, Any], passed_inode: str) -> dict[str, Any]:
        self._connection._shell.set_option("async_dir", jobscript.JOBS)
        tmp = self._connection._shell.tmpdir or self._make_tmp_path()
        tmp = tmp.rstrip("/")
        self._task.async_val = int(self.limit_s())
        try:
            started = self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
        jid = started.get("ansible_job_id")
        if not jid or started.get("failed"):
            return started
        jid = str(jid)
        self._catch_signals()
        try:
            state = self._watch(jid, tmp, passed_inode)
            if state == "running":
                return self._overdue(jid, tmp)
            return self._died(jid, tmp) if state == "dead" else self._result(jid, task_vars)
        except Stopped:
            self._stop(jid, tmp)
            raise
        finally:
            self._release_signals()

    def _watch(self, jid: str, tmp: str, passed_inode: str) -> str:
        """Shows the log's lines until the job is ``done`` (it left a result), ``dead``, or still ``running`` after the time that its module
        may take; returns this state. Raises AnsibleConnectionFailure."""
        lines, inode, offset, dead = Lines(), "", 0, 0
        spoke = time.monotonic()
        end = spoke + self.limit_s() + BESIDE_MODULE_S
        while time.monotonic() < end:
            script = jobscript.look(self.log, passed_inode, offset, jid, tmp)
            seen = self._patiently(lambda script=script: jobscript.looked(self._ask(script)))
            if inode and seen.inode != inode:  # a file of another run: this run's log has ended
                lines, offset = Lines(), 0
            inode = seen.inode if seen.inode != passed_inode else ""
            offset += len(seen.data.encode("utf-8", "surrogateescape"))
            fresh = to_show(lines.take(seen.data), display.verbosity)
            if not fresh and time.monotonic() - spoke > SILENCE_S:
                fresh = ["still running, no output for a while"]
            if fresh:
                spoke = time.monotonic()
                self._show(fresh)
            dead = dead + 1 if seen.state == "dead" else 0
            if dead == DEAD_LOOKS or (seen.state == "done" and not seen.data):
                self._show(to_show(lines.rest(), display.verbosity))
                return seen.state
            if len(seen.data) < jobscript.MOST_BYTES and seen.state != "done":
                time.sleep(POLL_S)
        return "running"

    def _patiently(self, ask: Callable[[], Answer | None]) -> Answer:
        """Asks until there is an answer, because a connection may be lost for a while. Raises AnsibleConnectionFailure after LOST_S."""
        begin = time.monotonic()
        while True:
            try:
                answer = ask()
                if answer is not None:
                    return answer
                error = AnsibleConnectionFailure("the node answered, but not with the state of its module")
            except AnsibleConnectionFailure as failure:
                error = failure
            if time.monotonic() - begin > LOST_S:
                raise error
            self._show([f"unreachable, its work continues; trying again: {_last_line(error)}"])
            self._connection.reset()
            time.sleep(RETRY_S)

    def _ask(self, script: str, limit_s: float = LOOK_S) -> str:
        """What a script printed. The script goes to the shell's standard input where the connection has one: if that were empty, ssh would
        allocate a terminal, which changes line ends."""
        if self._connection.has_pipelining:
            command, given = "/bin/sh", {"in_data": script.encode()}
        else:
            command, given = f"/bin/sh -c {shlex.quote(script)}", {}
        with limited(limit_s, f"the node has not answered for {limit_s:.0f} s"):
            done = self._low_level_execute_command(command, encoding_errors="surrogateescape", **given)
        return str(done["stdout"])

    def _show(self, lines: list[str]) -> None:
        """Shows many lines in one call, because each call is an event for the program that drives Ansible. Shows nothing under no_log."""
        if lines and not self._task.no_log:
            display.display("\n".join(f"{self._host_name} | {line}" for line in lines))

    def _result(self, jid: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The module's own result, from its job file, which is then removed."""
        where = {"jid": jid, "_async_dir": jobscript.JOBS}
        module = "ansible.legacy.async_status"
        result = self._patiently(lambda: self._execute_module(module, {**where, "mode": "status"}, task_vars=task_vars))
        self._patiently(lambda: self._execute_module(module, {**where, "mode": "cleanup"}, task_vars=task_vars))
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return {key: value for key, value in result.items() if key not in _ASYNC_KEYS}

    def _died(self, jid: str, tmp: str) -> dict[str, Any]:
        self._ask(f"rm -f {jobscript.JOBS}/{jid}")
        self._remove_tmp_path(tmp, force=True)
        return dict(
            failed=True,
            code="module_died",
            msg="the module's process on the node ended without a result: it was killed, or the node ran out of memory. The end of "
            f"{self.log} on the node shows how far it had come. Run it again: the next run rolls back or continues",
        )

    def _overdue(self, jid: str, tmp: str) -> dict[str, Any]:
        try:
            self._ask(jobscript.stop(jid, tmp, STOP_S), STOP_S + LOOK_S)
        except AnsibleConnectionFailure as error:
            self._show([f"it cannot be stopped: {_last_line(error)}"])
        return dict(
            failed=True,
            code="overdue",
            msg=f"the node says that the module still runs, {self.limit_s():.0f} s after its start, which is longer than it may take. It "
            f"was asked to stop. The end of {self.log} on the node shows what it waits for. Then run it again",
        )

    # --- an interrupt -----------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        def stopped(number: int, _frame: object) -> None:
            for ignored in self._handlers:  # Ansible sends SIGTERM right after SIGINT, which must not interrupt the stopping
                signal.signal(ignored, signal.SIG_IGN)
            self._signal = number
            raise Stopped

        self._handlers = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}

    def _release_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if hasattr(self, "_signal"):
            os.kill(os.getpid(), self._signal)  # to the worker's own handler, which ends it

    def _stop(self, jid: str, tmp: str) -> None:
        """Stops the module and leaves its answer for the program that drives Ansible."""
        try:
            answer = _answer_of(jobscript.stopped(self._ask(jobscript.stop(jid, tmp, STOP_S), STOP_S + LOOK_S)))
        except AnsibleConnectionFailure as error:
            answer = {"failed": True, "unreachable": True, "msg": clean(str(error))}
        folder = os.environ.get(INTERRUPTED_FOLDER)
        if folder and not self._task.no_log:
            (Path(folder) / f"{file_name(self._host_name)}.json").write_text(json.dumps(answer), encoding="utf-8")


def _answer_of(text: str) -> dict[str, Any]:
    """The answer of an interrupted module; empty if it left none, or none that can be read."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(clean_data(answer)) if isinstance(answer, dict) else {}
