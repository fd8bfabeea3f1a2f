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
from .bounded import LONGEST_LINE, Ends

_DYING_S = 5.0
MOST_OUTPUT = 64 << 20  # bytes of an output that is parsed; depmod prints some ten million
KEPT_OUTPUT = 4 << 20  # characters that are kept at either end of an output that is only passed on
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
        """The next line of its output; "" if it ended, wrote nothing within ``timeout_s``, or wrote no end of the line."""

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

        With ``on_line`` both outputs are merged and each line is passed on as it comes; of a long output the result has both ends. Without
        it, a program that writes more than ``MOST_OUTPUT`` is killed. ``typed`` is a line, at most 4094 bytes, that the program reads from
        a terminal as its standard input, so that a secret is neither on the command line nor in the environment.
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
                if len(self._pending) > LONGEST_LINE:
                    return ""
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
    taken: _Lines | _Whole = _Lines(on_line) if on_line else _Whole()
    errors = _Whole()
    try:
        _read(process, start + timeout_s, taken, errors)
        process.wait(timeout=max(0.1, start + timeout_s - time.monotonic()))
    except (subprocess.TimeoutExpired, _TooMuchError) as error:
        _kill_group(process)
        timed_out = isinstance(error, subprocess.TimeoutExpired)
        why = f"timed out after {timeout_s:.0f} s, killed" if timed_out else f"wrote more than {MOST_OUTPUT >> 20} MiB, killed"
        raise CommandError(argv, None, taken.text() + errors.text(), why, timed_out) from error
    except BaseException:
        _kill_group(process)
        raise
    stdout, stderr = taken.text(), errors.text()
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
    except ValueError as error:  # an argument that no program can have
        raise CommandError(argv, None, "", f"it cannot be started ({error})") from error


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


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A process that hangs in the kernel (state D, as on a GPU that has fallen off the bus) takes no signal: it is left behind.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_DYING_S)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


class _TooMuchError(Exception):
    """A program wrote more than is ever needed of it."""


class _Whole:
    """Keeps an output that is to be parsed: all of it, or the program is ended."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._room = MOST_OUTPUT

    def take(self, chunk: bytes) -> None:
        self._room -= len(chunk)
        if self._room < 0:
            raise _TooMuchError
        self._chunks.append(chunk)

    def text(self) -> str:
        return b"".join(self._chunks).decode("utf-8", "replace")


class _Lines:
    """Passes each line of an output to ``on_line``, and keeps the first and the last ones. A line that is too long is cut."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._pending, self._dropped = b"", 0
        self._kept: list[str] = []
        self._ends = Ends(self._kept.append, KEPT_OUTPUT, KEPT_OUTPUT)

    def take(self, chunk: bytes) -> None:
        first, *others = chunk.split(b"\n")
        self._append(first)
        for piece in others:
            self._end_line()
            self._append(piece)

    def _append(self, piece: bytes) -> None:
        room = LONGEST_LINE - len(self._pending)
        self._pending += piece[:room]
        self._dropped += max(0, len(piece) - room)

    def _end_line(self) -> None:
        line = self._pending.decode("utf-8", "replace") + (f" [{self._dropped} bytes cut]" if self._dropped else "")
        self._pending, self._dropped = b"", 0
        self._ends.add(line)
        self._on_line(line)

    def text(self) -> str:
        if self._pending:
            self._end_line()
        self._ends.end()
        return "\n".join(self._kept) + ("\n" if self._kept else "")


def _read(process: subprocess.Popen[bytes], end: float, taken: _Lines | _Whole, errors: _Whole) -> None:
    """Reads both outputs until they are closed, or the program has ended: a process that it left in the background may keep them open.
    Raises TimeoutExpired, _TooMuchError."""
    with selectors.DefaultSelector() as selector:
        selector.register(_pipe(process.stdout), selectors.EVENT_READ, taken)
        if process.stderr:
            selector.register(process.stderr, selectors.EVENT_READ, errors)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, 0)
            ready = selector.select(min(left, 1.0))
            if not ready and process.poll() is not None:
                break
            for key, _events in ready:
                chunk = os.read(key.fd, 65536)
                if chunk:
                    key.data.take(chunk)
                else:
                    selector.unregister(key.fileobj)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()
