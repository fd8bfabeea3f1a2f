"""The only place that starts programs: no shell, no input except a typed line, and a time limit at which the process group is killed."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Optional, Protocol

from ..errors import CommandError

_DYING_S = 5.0
LineSink = Optional[Callable[[str], None]]


@dataclass(frozen=True)
class Result:
    """What a program did: its exit status, its outputs (all in ``stdout`` if they were merged), seconds."""

    rc: int
    stdout: str
    stderr: str
    seconds: float


class Running(Protocol):
    """A program in the background. Its standard input is a pipe that closes when this process ends, for whatever reason."""

    def line(self, timeout_s: float) -> str:
        """The next line of its output; "" if it ended, or wrote nothing within ``timeout_s``."""

    def end(self, timeout_s: float) -> int | None:
        """Closes its input and waits; returns its exit status, None if it did not end within ``timeout_s`` and was killed."""


class Runner(Protocol):
    """Starts programs. SystemRunner is the real one; tests have a fake one."""

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 60.0,
        ok: Collection[int] | None = (0,),
        env: Mapping[str, str] | None = None,
        on_line: LineSink = None,
        typed: str | None = None,
    ) -> Result:
        """Runs ``argv``. ``ok`` names the exit statuses that are no error (None: all).

        With ``on_line`` both outputs are merged and each line is passed on as it comes. ``typed`` is a line, at most 4094 bytes, that the
        program reads from a terminal as its standard input, so that a secret is neither on the command line nor in the environment.
        Raises CommandError; its rc is None if the program is missing (``missing``) or was killed at its limit (``timed out``).
        """

    def start(self, argv: Sequence[str]) -> Running:
        """Starts ``argv`` in the background, in a session of its own. Raises CommandError if it is missing."""


class SystemRunner:
    """Runs programs on this machine with a fixed locale, so that their output can be parsed."""

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 60.0,
        ok: Collection[int] | None = (0,),
        env: Mapping[str, str] | None = None,
        on_line: LineSink = None,
        typed: str | None = None,
    ) -> Result:
        start = time.monotonic()
        with contextlib.ExitStack() as stack:
            stdin = subprocess.DEVNULL if typed is None else stack.enter_context(_terminal(typed))
            process = _popen(argv, stdin, subprocess.STDOUT if on_line else subprocess.PIPE, env)
            return _await(process, argv, start, timeout_s, ok, on_line)

    def start(self, argv: Sequence[str]) -> Running:
        return Background(_popen(argv, subprocess.PIPE, subprocess.STDOUT, None))


class Background:
    """A started program whose standard input this process holds open."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pending = b""

    def line(self, timeout_s: float) -> str:
        output = _pipe(self._process.stdout)
        end = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                left = end - time.monotonic()
                chunk = os.read(output.fileno(), 4096) if left > 0 and selector.select(left) else b""
                if not chunk:
                    return ""
                self._pending += chunk
        line, _newline, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace")

    def end(self, timeout_s: float) -> int | None:
        _pipe(self._process.stdin).close()
        try:
            status: int | None = self._process.wait(timeout=timeout_s)
            _pipe(self._process.stdout).close()
        except subprocess.TimeoutExpired:
            _kill_group(self._process)
            status = None
        return status


def _await(
    process: subprocess.Popen[bytes],
    argv: Sequence[str],
    start: float,
    timeout_s: float,
    ok: Collection[int] | None,
    on_line: LineSink,
) -> Result:
    """Waits for a program that was started at ``start``; returns its result."""
    try:
        if on_line:
            stdout, stderr = _follow(process, start + timeout_s, on_line), ""
        else:
            out, err = process.communicate(timeout=timeout_s)
            stdout, stderr = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        _kill_group(process)
        raise CommandError(argv, None, _text(error.output), f"timed out after {timeout_s:.0f} s, killed", True) from error
    except BaseException:
        _kill_group(process)
        raise
    if ok is not None and process.returncode not in ok:
        raise CommandError(argv, process.returncode, stdout + stderr, f"exit status {process.returncode}")
    return Result(process.returncode, stdout, stderr, time.monotonic() - start)


def _popen(argv: Sequence[str], stdin: int, stderr: int, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    full_env = {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "LANGUAGE": "", **(env or {})}
    # A systemd unit or an Ansible module may have been started with a PATH that lacks the sbin folders.
    full_env["PATH"] = full_env.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    try:
        return subprocess.Popen(list(argv), stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=full_env, start_new_session=True)
    except OSError as error:
        raise CommandError(argv, None, "", f"missing or not executable ({error.strerror})") from error


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """The pipe, which the program must have been started with."""
    if stream is None:
        raise AssertionError("a program was started without a pipe that is needed")
    return stream


@contextlib.contextmanager
def _terminal(typed: str) -> Iterator[int]:
    """A terminal at which ``typed`` and a newline have been typed, without echo; it is closed at the end."""
    ours, theirs = os.openpty()
    try:
        attributes = termios.tcgetattr(theirs)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        os.write(ours, typed.encode() + b"\n")
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def _text(output: bytes | str | None) -> str:
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process that hangs in the kernel (state D, as on a GPU that has fallen off the bus) takes no signal: it is left behind.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_DYING_S)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def _follow(process: subprocess.Popen[bytes], end: float, on_line: Callable[[str], None]) -> str:
    """Reads the merged output line by line until it is closed; raises TimeoutExpired with the lines read so far."""
    output = _pipe(process.stdout)
    lines: list[str] = []
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, 0, "\n".join(lines))
            if not selector.select(min(left, 1.0)):
                if process.poll() is not None:
                    break  # the program has ended; a background process that it started keeps the pipe open
                continue
            chunk = os.read(output.fileno(), 65536)
            if not chunk:
                break
            *whole, pending = (pending + chunk).split(b"\n")
            for raw in whole:
                lines.append(raw.decode("utf-8", "replace"))
                on_line(lines[-1])
    if pending:
        lines.append(pending.decode("utf-8", "replace"))
        on_line(lines[-1])
    output.close()
    process.wait(timeout=max(0.1, end - time.monotonic()))
    return "\n".join(lines) + ("\n" if lines else "")
