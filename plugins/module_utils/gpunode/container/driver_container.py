"""Runs a driver container by the contract (docs/contract.md): folders, command, a clean start for each try, a kill at the time limit."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from ..errors import BusyError, CommandError, ImageError
from ..paths import LOGS
from ..system import mounts
from ..util import logs
from ..util.bounded import Ends, lines
from ..util.expressions import expression
from ..util.files import own_folder
from ..util.plaintext import clean_text
from ..util.run import Runner
from ..util.trust import below
from . import build_log, scratch
from .containerd import Containerd
from .runtime_errors import NotStarted, not_started

BUILD_ONLY = "build-only"
ACTIONS = ("copy", "install", BUILD_ONLY, "install-skip-build")
ENTRYPOINT = "/entrypoint.sh"
_FOLDERS = {"/opt/gpu": "/mnt/gpu", "/opt/actions": "/mnt/actions"}
_OWN_IDS = expression(r"(gpuprebuild|gpuinstall)-\d+|gpuask")
# The ids that other provisioners use for the same containers (docs/contract.md). We do not end these.
_THEIR_IDS = {"gpuprebuild", "gpuinstall"}
# How many characters of a container's output its log keeps at either end, and how many are passed on as progress.
LOGGED_FIRST, LOGGED_LAST = 16 << 20, 4 << 20
SAID = 4 << 20


@dataclass(frozen=True)
class ContainerRun:
    """How a run ended. ``rc`` is zero, not zero (the number has no meaning), or None for a run that was killed at its time limit."""

    rc: int | None
    output: str
    seconds: float
    log: str
    timed_out: bool = False

    @property
    def succeeded(self) -> bool:
        return self.rc == 0

    @property
    def not_started(self) -> NotStarted | None:
        """Why the container did not even start; None if it did."""
        return None if self.succeeded or self.timed_out else not_started(self.output)


@dataclass(frozen=True)
class Place:
    """Where a driver container installs: the root folder of its PID 1, "" for the host's root, and the pid of that process as we see it."""

    base: str = ""
    pid: int = 1


HOST = Place()


class DriverContainer:
    """Runs actions of a driver image on this host; ``say`` gets each line of output as it comes."""

    def __init__(
        self,
        containerd: Containerd,
        runner: Runner,
        root: Path,
        say: Callable[[str], None] = lambda _: None,
        place: Place = HOST,
    ) -> None:
        self.containerd = containerd
        self.runner = runner
        self.root = root
        self.say = say
        self.place = place

    def known_actions(self, reference: str) -> tuple[str, ...]:
        """The contract's actions that the image's entrypoint contains as whole words. An image does not refuse an action that it does
        not know; it fails later with an unrelated message. Raises ImageError, BusyError, CommandError."""
        self.end_interrupted()
        try:
            text = self.containerd.read_file(reference, "gpuask", ENTRYPOINT)
        except CommandError as error:
            if error.timed_out:  # this is no evidence against the image
                raise ImageError(f"driver image {reference}: the container that prints its {ENTRYPOINT} did not end: {error}") from error
            refused = not_started(error.output)
            if refused:
                message = f"driver image {reference}: no container was started: {refused.words}: {refused.advice}"
                raise ImageError(message, code=refused.code) from error
            raise ImageError(
                f"driver image {reference}: its {ENTRYPOINT} cannot be read ({error.output.strip()[-300:]}); is it a driver image?",
                code="image_not_a_driver",
            ) from error
        return actions_in(text)

    def run(self, reference: str, container: str, action: str, timeout_s: float) -> ContainerRun:
        """Runs the action once, as container id ``container``, after ``clean_slate``. The output also goes to a log of that name.

        Raises BusyError, and CommandError if the state before or after the run cannot be read.
        """
        self.clean_slate()
        start = time.monotonic()
        timed_out = False
        with logs.create_unbuffered(self.root, f"{container}.log") as stream, _Said(self.say) as said:
            written = Ends(lambda text: _write(stream, text), LOGGED_FIRST, LOGGED_LAST)

            def take(line: str) -> None:
                written.add(f"{time.monotonic() - start:8.2f} {clean_text(line)}")
                said.add(line)

            try:
                argv = run_argv(self.containerd, reference, container, action, self.place)
                with build_log.following(Path(self.place.base or self.root), said.add):
                    result = self.runner.run(argv, timeout_s, ok=None, on_line=take)
                rc: int | None = result.rc
                output = result.stdout
            except CommandError as error:
                rc, output, timed_out = error.rc, error.output + f"\n{error}", error.timed_out
                take(str(error))
            finally:
                written.end()
                # Always clean up: ctr --rm removes the container only if ctr itself is not killed.
                self._end(container)
        return ContainerRun(rc, output, time.monotonic() - start, f"/{LOGS}/{container}.log", timed_out)

    def clean_slate(self) -> None:
        """Removes what an interrupted run left (containers, mounts, the contract's folders), then creates the folders.

        Raises BusyError; PreflightError if something of others is in the folders.
        """
        self.end_interrupted()
        if not self._is_on_host:
            for path in self._sandbox_folders():
                os.close(own_folder(path, 0o755))
            return
        scratch.require(self.root)
        scratch.make(self.root)

    def end_interrupted(self) -> None:
        """Removes what an interrupted run left. Raises BusyError."""
        present = self.containerd.containers()
        theirs = _THEIR_IDS & set(present)
        running = sorted(theirs & set(self.containerd.running())) if theirs else []
        if running:
            raise BusyError(
                f"another provisioner's driver container {running[0]} is running here: wait until it ends "
                "(ctr -n k8s.io tasks ls), or end it yourself"
            )
        for container in present:
            if _OWN_IDS.fullmatch(container):
                self.containerd.kill(container)
        self._unmount()
        self.sweep()

    def sweep(self) -> None:
        """Removes the contract's scratch folders, with what a driver image has put there."""
        if self._is_on_host:
            scratch.sweep(self.root)
            return
        for path in self._sandbox_folders():
            shutil.rmtree(path, ignore_errors=True)

    @property
    def _is_on_host(self) -> bool:
        return not self.place.base

    def _sandbox_folders(self) -> list[Path]:
        return [Path(_source(self.place, folder)) for folder in _FOLDERS]

    def _end(self, container: str) -> None:
        if container in self.containerd.containers():
            self.containerd.kill(container)
        self._unmount()

    def _unmount(self) -> None:
        if self.root == Path("/"):
            mounts.unmount(self.runner, mounts.left_by_container(mounts.current()))


class _Said:
    """Passes lines to ``say`` until they are ``SAID`` characters together; then counts them, and at the end says how many there were."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._room, self._unsaid = say, SAID, 0
        self._lock = threading.Lock()  # make.log is followed by a thread of its own

    def __enter__(self) -> _Said:
        return self

    def add(self, line: str) -> None:
        with self._lock:
            self._room -= len(line) + 1
            self._unsaid += self._room < 0
            is_said = self._room >= 0
        if is_said:
            self._say(line)

    def __exit__(self, *_error: object) -> None:
        if self._unsaid:
            self._say(f"[{self._unsaid} more lines of the driver container are not shown here; its log has the first and the last of them]")


def _write(stream: RawIOBase, line: str) -> None:
    """Writes a line of a log. A disk that is full is reported by what needs it, and must not end the container."""
    with contextlib.suppress(OSError):
        stream.write(f"{line}\n".encode("utf-8", "backslashreplace"))


def left_in(containerd: Containerd) -> tuple[str, ...]:
    """Ids of driver containers, ours and other provisioners', that containerd still knows. Raises CommandError."""
    return tuple(name for name in containerd.containers() if _OWN_IDS.fullmatch(name) or name in _THEIR_IDS)


def run_argv(containerd: Containerd, reference: str, container: str, action: str, place: Place = HOST) -> list[str]:
    """The contract's ``ctr run``. Its folders are bound from inside the place, where they are not mount points: the last step of a run
    removes ``/opt/gpu``. Nothing may follow the action: with a second argument the entrypoint sleeps for ever."""
    sources = {_source(place, folder): target for folder, target in _FOLDERS.items()}
    binds = [word for source, target in sources.items() for word in ("--mount", f"type=bind,src={source},dst={target},options=rbind")]
    return [
        *containerd.ctr,
        "run",
        "--privileged",
        "--rm",
        "--net-host",
        "--with-ns",
        f"pid:/proc/{place.pid}/ns/pid",
        *binds,
        reference,
        container,
        ENTRYPOINT,
        action,
    ]


def _source(place: Place, folder: str) -> str:
    """Where one of the contract's folders is, as seen from here. A link in a sandbox leads to its own folders, not to the machine's."""
    return str(below(Path(place.base), folder)) if place.base else folder


def actions_in(text: str) -> tuple[str, ...]:
    """The contract's actions that an entrypoint contains as whole words outside of comments."""
    code = "\n".join(line for line in lines(text) if not line.lstrip().startswith("#"))
    return tuple(a for a in ACTIONS if re.search(rf"(?<![\w-]){re.escape(a)}(?![\w-])", code))
