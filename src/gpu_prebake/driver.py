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
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ansible_runner import Runner
from ansible_runner.config.command import CommandConfig

from gpu_prebake.nodes import Run

GRACE_S = 150.0
"""How long, after an interrupt, the modules on the nodes have to roll back what they have begun. Then Ansible is killed."""
INTERRUPTED_FOLDER = "GPU_PREBAKE_INTERRUPTED"  # as in the collection's plugin_utils/followed.py
_POLL_S = 0.5


def program() -> str:
    """The ansible-playbook of this Python's environment, or else the one on PATH."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    return str(beside) if beside.exists() else "ansible-playbook"


class Driver:
    """One run of ansible-playbook. ``answers`` holds each password by the prompt that asks for it (a regular expression)."""

    def __init__(self, run: Run, arguments: Sequence[str], environment: Mapping[str, str], answers: Mapping[str, str]) -> None:
        self.run, self.arguments, self.environment, self.answers = run, list(arguments), dict(environment), dict(answers)
        self.interrupts = 0
        self._interrupted_at = 0.0

    def play(self) -> int:
        """Runs it and returns Ansible's own exit status. The nodes of the run then hold the answers of interrupted modules."""
        with tempfile.TemporaryDirectory(prefix="gpu-prebake-") as folder, self._catching_signals():
            answers = Path(folder) / "interrupted"
            answers.mkdir()
            config = self._config(folder, answers)
            runner = Runner(config=config, event_handler=self.run.take, cancel_callback=self._each_half_second)
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
            if self.run.pid:
                os.kill(self.run.pid, signal.SIGINT)

    def _each_half_second(self) -> bool:
        """Whether to kill Ansible: after an interrupt before it has begun, after a second interrupt, or if the stopping takes too long."""
        self.run.tick()
        if not self.interrupts:
            return False
        return not self.run.pid or self.interrupts > 1 or time.monotonic() - self._interrupted_at > GRACE_S

    def _take_answers(self, folder: Path) -> None:
        for node in self.run.nodes.values():
            if node.step is None:
                continue
            try:
                answer = json.loads((folder / f"{node.name}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                answer = {
                    "code": "interrupted",
                    "msg": f"interrupted in the step {node.step.name!r}, which may still run on the node; run it again",
                }
            node.interrupted = answer


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
