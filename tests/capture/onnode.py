"""Runs on a node, with the library beside it: one captured bake that is interrupted, or otherwise disturbed, at a given step.

``python3 onnode.py PARAMETERS STEP NUMBER COMMAND`` bakes with these parameters of the module (JSON). Right before the NUMBERth time that
the step STEP is reached, it runs COMMAND: ``die`` kills this process with SIGKILL, ``die all`` kills everything that belongs to the bake,
anything else is a shell line. It prints each step when it is reached: the start or the end of a program, an event of the bake, a change in
the store. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpunode.bake import flow, request
from gpunode.errors import GpuNodeError
from gpunode.util.run import Result, Running, SystemRunner

STORE = "/var/lib/gpu-prebake"
_EVENT = re.compile(r"([a-z-]+): (?:ok|failed) in ")
_PROGRAMS = "gpu-prebake-sandbox|ctr -n k8s.io run"


class Steps:
    """Runs ``command`` right before the ``left``th time that the step ``name`` is reached."""

    def __init__(self, name: str, left: int, command: str) -> None:
        self.name = name
        self.left = left
        self.command = command

    def __call__(self, name: str) -> None:
        print(name, flush=True)
        self.left -= name == self.name
        if name != self.name or self.left != 0:
            return
        if self.command == "die all":
            subprocess.run(["pkill", "-9", "-f", _PROGRAMS], check=False)
        if self.command.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        subprocess.run(["sh", "-c", self.command], check=True)

    def say(self, line: str) -> None:
        """Takes a progress line of the bake; one that reports an event is a step."""
        event = _EVENT.match(line)
        if event:
            self(f"event {event[1]}")


class Runner(SystemRunner):
    """Runs programs; the start and the end of each is a step."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def run(self, argv: Any, *args: Any, **options: Any) -> Result:
        name = _name(argv)
        self.steps(f"begin {name}")
        result = super().run(argv, *args, **options)
        self.steps(f"end {name}")
        return result

    def start(self, argv: Any) -> Running:
        self.steps(f"start {argv[0]}")
        return super().start(argv)


def _name(argv: list[str]) -> str:
    """A program and its main arguments, without what differs from run to run."""
    return " ".join(word for word in argv[:6] if re.fullmatch(r"[a-z][a-z-]*", word))


def watch(steps: Steps) -> None:
    """Wraps the functions that change files, so that each change in the store is a step."""
    for name in ("replace", "rename", "unlink", "rmdir", "fsync", "sync", "write"):
        original = getattr(os, name)

        def watched(*args: Any, original: Callable[..., Any] = original, name: str = name, **options: Any) -> Any:
            path = _path(args)
            if path.startswith(STORE) and "/captures/" not in path:
                steps(f"{name} {_kind(path)}".strip())
            return original(*args, **options)

        setattr(os, name, watched)


def _path(args: tuple[Any, ...]) -> str:
    if not args:
        return STORE  # sync
    return str(Path(f"/proc/self/fd/{args[0]}").readlink()) if isinstance(args[0], int) else os.fspath(args[0])


def _kind(path: str) -> str:
    """What a path in the store is: an object, a manifest, …, or a temporary file of one."""
    name = path[len(STORE) :].strip("/")
    temporary = " (new)" if name.endswith(".tmp") else ""
    for folder in ("objects", "layers"):
        if name.startswith(folder):
            return folder + "/…" * name.count("/") + temporary
    return re.sub(r"^\.(.*)\.\d+\.tmp$", r"\1", name) + temporary


def main() -> int:
    """The command line that the docstring of this file describes."""
    parameters, name, number, command = sys.argv[1:]
    steps = Steps(name, int(number), command)
    watch(steps)
    try:
        flow.bake(Runner(steps), request.request_from(json.loads(parameters)), steps.say)
    except GpuNodeError as error:
        print(json.dumps({"code": error.code, "message": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
