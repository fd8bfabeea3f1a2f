"""An action that runs its module asynchronously, shows the lines of the node's progress log as they come, and returns the module's
own result.

The connection may be lost meanwhile: the module goes on, and is found again. On an interrupt the module is told to stop, and takes back
what it has begun. No job file stays on the node, except where the connection never comes back; then the next run removes it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from . import jobscript

POLL_S = 1.0
SILENCE_S = 30.0
"""After so many seconds without a line, it is said that the step is alive."""
LOST_S = 300.0
"""So long a node may be out of reach."""
RETRY_S = 5.0
STOP_S = 120
DEAD_LOOKS = 3
"""So often a job must be found without a process before it counts as dead: between two of its processes there may be none."""
INTERRUPTED_FOLDER = "GPU_PREBAKE_INTERRUPTED"
"""Environment: a folder on the controller for what interrupted modules answered, since Ansible itself no longer listens then."""

# Terminal control sequences, then any other control character but the tab.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EMPTY = re.compile(r"\s*(?:\d+\.\d\d)?\s*")  # at most the time that stands before each line
_ASYNC_KEYS = ("ansible_job_id", "finished", "results_file", "started")

Answer = TypeVar("Answer")

display = Display()


def clean(line: str) -> str:
    """A line of a log as it may be shown: without anything that a terminal would obey."""
    return _CONTROLS.sub("?", _SEQUENCES.sub("", line.rstrip("\r\n")))


class Lines:
    """Cuts what comes of a log into lines; a line that is not complete yet waits for its rest."""

    def __init__(self) -> None:
        self._pending = ""

    def take(self, data: str) -> list[str]:
        """The lines that ``data`` completes."""
        *whole, self._pending = (self._pending + data).split("\n")
        return [clean(line) for line in whole if not _EMPTY.fullmatch(line)]

    def rest(self) -> list[str]:
        """What is left at the end."""
        pending, self._pending = self._pending, ""
        return [] if _EMPTY.fullmatch(pending) else [clean(pending)]


class Stopped(BaseException):
    """The signal that ended this worker; no task may catch it."""


class FollowedAction(ActionBase):
    """Subclasses say which log, for how long, and when."""

    _supports_check_mode = True
    _supports_async = True
    log = ""
    """The module's progress log on the node."""

    def limit_s(self) -> float:
        """Seconds after which the module must have ended by itself."""
        raise NotImplementedError

    def is_followed(self) -> bool:
        """Whether this call is to be followed; if not, it is one plain module call."""
        raise NotImplementedError

    def argument_s(self, name: str, default: float) -> float:
        """A number among the task's arguments; what is none is left to the module to refuse."""
        try:
            return float(self._task.args.get(name, default))
        except (TypeError, ValueError):
            return default

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result."""
        result = super().run(tmp, task_vars)
        result.update(self.run_module(dict(self._task.args), task_vars or {}))
        return result

    def run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Runs the module of the action's name with ``arguments``, followed or not, and returns its result."""
        self._host_name = str(task_vars.get("inventory_hostname", "node"))
        wrap_async = bool(self._task.async_val)  # the task's own `async:`: then the caller polls
        if self.is_followed() and not wrap_async and not self._task.check_mode:
            passed = self._begin()
            if passed is not None:
                return self._follow(arguments, task_vars, passed)
        result = self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=wrap_async)
        if not wrap_async:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(result)

    # --- the job ----------------------------------------------------------------------------------------------------

    def _begin(self) -> str | None:
        """The inode of the log that an earlier run left; None where nothing can be followed: the module then says why it cannot run."""
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
        self._catch_signals()
        try:
            is_dead = not self._watch(jid, tmp, passed_inode)
            return self._died(jid, tmp) if is_dead else self._result(jid, task_vars)
        except Stopped:
            self._stop(jid, tmp)
            raise
        finally:
            self._release_signals()

    def _watch(self, jid: str, tmp: str, passed_inode: str) -> bool:
        """Shows the log's lines until the job has ended; returns whether there is a result. Raises AnsibleConnectionFailure."""
        lines, inode, offset, dead = Lines(), "", 0, 0
        spoke = time.monotonic()
        while True:
            script = jobscript.look(self.log, passed_inode, offset, jid, tmp)
            seen = self._patiently(lambda script=script: jobscript.looked(self._ask(script)))
            if inode and seen.inode != inode:  # another run's file: this one's has ended
                lines, offset = Lines(), 0
            inode = seen.inode if seen.inode != passed_inode else ""
            offset += len(seen.data.encode("utf-8", "surrogateescape"))
            fresh = lines.take(seen.data)
            if not fresh and time.monotonic() - spoke > SILENCE_S:
                fresh = ["still at it, without a line for a while"]
            if fresh:
                spoke = time.monotonic()
                self._show(fresh)
            dead = dead + 1 if seen.state == "dead" else 0
            if dead == DEAD_LOOKS or (seen.state == "done" and not seen.data):
                self._show(lines.rest())
                return seen.state == "done"
            if len(seen.data) < jobscript.MOST_BYTES and seen.state != "done":
                time.sleep(POLL_S)

    def _patiently(self, ask: Callable[[], Answer | None]) -> Answer:
        """Asks until there is an answer: a connection may be gone for a while. Raises AnsibleConnectionFailure after LOST_S."""
        begin = time.monotonic()
        while True:
            try:
                answer = ask()
                if answer is not None:
                    return answer
                error = AnsibleConnectionFailure("the node answers, and not with what it was asked for")
            except AnsibleConnectionFailure as failure:
                error = failure
            if time.monotonic() - begin > LOST_S:
                raise error
            self._show([f"out of reach, its work goes on; asking again: {clean(str(error).strip().splitlines()[-1])[-160:]}"])
            self._connection.reset()
            time.sleep(RETRY_S)

    def _ask(self, script: str) -> str:
        """What a script printed. It goes to the shell's input: with an empty one ssh would allocate a terminal, which changes line ends."""
        done = self._low_level_execute_command("/bin/sh", in_data=script, encoding_errors="surrogateescape")
        return str(done["stdout"])

    def _show(self, lines: list[str]) -> None:
        """One call for many lines: each is an event to whoever drives Ansible. Nothing of a task under no_log."""
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
            f"{self.log} on the node tells how far it had come; the next run takes back or goes on",
        )

    # --- an interrupt -----------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        def stopped(number: int, _frame: object) -> None:
            for ignored in self._handlers:  # Ansible sends SIGTERM after SIGINT at once; what is being stopped must get to its end
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
        """Tells the module to stop and leaves its answer for whoever drives Ansible."""
        try:
            answer = jobscript.stopped(self._ask(jobscript.stop(jid, tmp, STOP_S)))
        except AnsibleConnectionFailure as error:
            answer = json.dumps({"failed": True, "unreachable": True, "msg": str(error)})
        folder = os.environ.get(INTERRUPTED_FOLDER)
        if folder and not self._task.no_log:
            (Path(folder) / f"{self._host_name}.json").write_text(answer, encoding="utf-8")
