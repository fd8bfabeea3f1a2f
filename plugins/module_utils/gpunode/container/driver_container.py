"""Runs a driver container by the contract (docs/contract.md): folders, command, a clean start for each try, a kill at the time limit."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BusyError, CommandError, ImageError
from ..paths import LOGS
from ..system import mounts
from ..util.expressions import expression
from ..util.plaintext import clean_text
from ..util.run import Runner
from . import build_log
from .containerd import Containerd

BUILD_ONLY = "build-only"
ACTIONS = ("copy", "install", BUILD_ONLY, "install-skip-build")
ENTRYPOINT = "/entrypoint.sh"
_FOLDERS = {"/opt/gpu": "/mnt/gpu", "/opt/actions": "/mnt/actions"}
_OWN_IDS = expression(r"(gpuprebuild|gpuinstall)-\d+|gpuask")
# The ids that other provisioners use for the same containers (docs/contract.md). We do not end these.
_THEIR_IDS = {"gpuprebuild", "gpuinstall"}


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
        self._end_interrupted()
        try:
            text = self.containerd.read_file(reference, "gpuask", ENTRYPOINT)
        except CommandError as error:
            if error.timed_out:  # this is no evidence against the image
                raise ImageError(f"driver image {reference}: the container that prints its {ENTRYPOINT} did not end: {error}") from error
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
        log = self.root / LOGS / f"{container}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        timed_out = False
        with log.open("w", encoding="utf-8") as stream:

            def take(line: str) -> None:
                stream.write(f"{time.monotonic() - start:8.2f} {clean_text(line)}\n")
                stream.flush()
                self.say(line)

            try:
                argv = run_argv(self.containerd, reference, container, action, self.place)
                with build_log.following(Path(self.place.base or self.root), self.say):
                    result = self.runner.run(argv, timeout_s, ok=None, on_line=take)
                rc: int | None = result.rc
                output = result.stdout
            except CommandError as error:
                rc, output, timed_out = error.rc, error.output + f"\n{error}", error.timed_out
                take(str(error))
            finally:
                # Always clean up: ctr --rm removes the container only if ctr itself is not killed.
                self._end(container)
        return ContainerRun(rc, output, time.monotonic() - start, f"/{LOGS}/{container}.log", timed_out)

    def clean_slate(self) -> None:
        """Removes what an interrupted run left (containers, mounts, the contract's folders), then creates the folders. Raises BusyError."""
        self._end_interrupted()
        for path in self._folders():
            path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def _end_interrupted(self) -> None:
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
        """Removes the contract's scratch folders."""
        for path in self._folders():
            shutil.rmtree(path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return [Path(self.place.base or self.root) / folder.lstrip("/") for folder in _FOLDERS]

    def _end(self, container: str) -> None:
        if container in self.containerd.containers():
            self.containerd.kill(container)
        self._unmount()

    def _unmount(self) -> None:
        if self.root == Path("/"):
            mounts.unmount(self.runner, mounts.left_by_container(mounts.current()))


def left_in(containerd: Containerd) -> tuple[str, ...]:
    """Ids of driver containers, ours and other provisioners', that containerd still knows. Raises CommandError."""
    return tuple(name for name in containerd.containers() if _OWN_IDS.fullmatch(name) or name in _THEIR_IDS)


def run_argv(containerd: Containerd, reference: str, container: str, action: str, place: Place = HOST) -> list[str]:
    """The contract's ``ctr run``. Its folders are bound from inside the place, where they are not mount points: the last step of a run
    removes ``/opt/gpu``. Nothing may follow the action: with a second argument the entrypoint sleeps for ever."""
    sources = {f"{place.base}{folder}": target for folder, target in _FOLDERS.items()}
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


def actions_in(text: str) -> tuple[str, ...]:
    """The contract's actions that an entrypoint contains as whole words outside of comments."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return tuple(a for a in ACTIONS if re.search(rf"(?<![\w-]){re.escape(a)}(?![\w-])", code))
