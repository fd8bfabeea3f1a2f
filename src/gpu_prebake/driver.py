"""Runs ansible-playbook through ansible-runner: passes its events on as they arrive, answers its password prompts, and on an interrupt ends
it cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ansible_runner import Runner
from ansible_runner.config.command import CommandConfig

from gpu_prebake.hostfile import file_name
from gpu_prebake.nodes import Run, checked

GRACE_S = 150.0
"""How long, after an interrupt, the modules on the nodes have to roll back what they have begun. Then Ansible is killed."""
INTERRUPTED_FOLDER = "GPU_PREBAKE_INTERRUPTED"  # as in the collection's plugin_utils/followed.py
_POLL_S = 0.5
_LARGEST_EVENT = 32 * 1024 * 1024
_UUID = re.compile(r"[0-9a-fA-F-]{8,64}")
# Writes the number of the process that ansible-playbook then is.
_SAY_PID = 'echo $$ >"$0" && exec "$@"'


def program() -> str:
    """The ansible-playbook of this Python's environment, or else the one on PATH."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    return str(beside) if beside.exists() else "ansible-playbook"


class Events(Runner):  # type: ignore[misc]
    """Passes an event on if it is Ansible's own: then it is in a file, which only this user can write, and the output has its name.

    ansible-runner finds those names in the output by control sequences, and nodes write to the output too. What has no file is output.
    """

    def event_callback(self, event_data: Mapping[str, Any]) -> None:
        self.last_stdout_update = time.time()
        event = _recorded(Path(self.config.artifact_dir) / "job_events", event_data.get("uuid"))
        self.event_handler({**event, "stdout": str(event_data.get("stdout") or "")})


def _recorded(folder: Path, uuid: object) -> dict[str, Any]:
    """The event that Ansible's callback has written to a file, which is then removed; empty if there is none."""
    if not isinstance(uuid, str) or not _UUID.fullmatch(uuid):
        return {}
    path = folder / f"{uuid}-partial.json"
    try:
        with path.open("rb") as stream:
            text = stream.read(_LARGEST_EVENT + 1)
        path.unlink()
        event = json.loads(text) if len(text) <= _LARGEST_EVENT else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


class Driver:
    """One run of ansible-playbook. ``answers`` holds each password by the prompt that asks for it (a regular expression)."""

    def __init__(self, run: Run, arguments: Sequence[str], environment: Mapping[str, str], answers: Mapping[str, str]) -> None:
        self.run, self.arguments, self.environment, self.answers = run, list(arguments), dict(environment), dict(answers)
        self.interrupts = 0
        self._pid_file = Path()
        self._interrupted_at = 0.0

    def play(self) -> int:
        """Runs it and returns Ansible's own exit status. The nodes of the run then hold the answers of interrupted modules."""
        with tempfile.TemporaryDirectory(prefix="gpu-prebake-") as folder, self._catching_signals():
            answers = Path(folder) / "interrupted"
            answers.mkdir()
            self._pid_file = Path(folder) / "pid"
            config = self._config(folder, answers)
            runner = Events(config=config, event_handler=self.run.take, cancel_callback=self._each_half_second)
            runner.run()
            if self.interrupts:
                self._take_answers(answers)
            return int(runner.rc if runner.rc is not None else 1)

    def _config(self, folder: str, answers: Path) -> CommandConfig:
        # ansible-runner reads settings that are given as arguments only if this file exists too.
        settings = {"suppress_ansible_output": True, "suppress_output_file": True, "pexpect_timeout": _POLL_S}
        (Path(folder) / "env").mkdir()
        (Path(folder) / "env/settings").write_text(json.dumps(settings), encoding="utf-8")
        config = CommandConfig(
            private_data_dir=folder,
            host_cwd=str(Path.cwd()),
            envvars={**self.environment, INTERRUPTED_FOLDER: str(answers)},
            passwords={**self.answers} or None,
            suppress_env_files=True,
            fact_cache_type="",
        )
        config.prepare_run_command(program(), cmdline_args=self.arguments)
        config.command = ["/bin/sh", "-c", _SAY_PID, str(self._pid_file), *config.command]
        for name in ("ANSIBLE_HOST_KEY_CHECKING", "ANSIBLE_RETRY_FILES_ENABLED"):  # the user's choices, not ansible-runner's
            given = {**os.environ, **self.environment}.get(name)
            if given is None:
                config.env.pop(name, None)
            else:
                config.env[name] = given
        return config

    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        old = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupts += 1
        if self.interrupts == 1:
            self._interrupted_at = time.monotonic()
            pid = self._pid()
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)

    def _pid(self) -> int:
        """The process that we have started, 0 if there is none yet."""
        try:
            return int(self._pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def _each_half_second(self) -> bool:
        """Whether to kill Ansible: after an interrupt before it has begun, after a second interrupt, or if the stopping takes too long."""
        self.run.tick()
        if not self.interrupts:
            return False
        return not self._pid() or self.interrupts > 1 or time.monotonic() - self._interrupted_at > GRACE_S

    def _take_answers(self, folder: Path) -> None:
        for node in self.run.nodes.values():
            if node.step is None:
                continue
            try:
                answer = json.loads((folder / f"{file_name(node.name)}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                answer = {}
            node.interrupted = checked(answer)[0] or {
                "code": "interrupted",
                "msg": f"interrupted in the step {node.step.name!r}, which may still run on the node; run it again",
            }


def prompts(ask_pass: bool, ask_become: bool, vault_prompts: Sequence[str]) -> list[tuple[str, str]]:
    """The passwords to ask for: the prompt to show, and the pattern of Ansible's own prompt, which the answer goes to."""
    asked = []
    if ask_pass:
        asked.append(("SSH password", r"^SSH password:\s*?$"))
    if ask_become:
        asked.append(("BECOME password", r"^BECOME password.*?:\s*?$"))
    for label in vault_prompts:
        pattern = rf"^Vault password \({re.escape(label)}\):\s*?$" if label else r"^Vault password.*?:\s*?$"
        asked.append((f"Vault password{f' ({label})' if label else ''}", pattern))
    return asked
