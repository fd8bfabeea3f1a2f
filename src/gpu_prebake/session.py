"""One run, from the request to the exit status: display, driver, report."""

from __future__ import annotations

import configparser
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import click
from ansible import constants
from rich.console import Console

from gpu_prebake import display, report
from gpu_prebake.collection import Collection
from gpu_prebake.driver import Driver, prompts
from gpu_prebake.exits import Exit
from gpu_prebake.extravars import ExtraVars
from gpu_prebake.nodes import Run
from gpu_prebake.redact import Redactor
from gpu_prebake.request import Request

_NO_HOSTS = ("leaves us with no hosts to target", "no hosts matched")


def play(request: Request, collection: Collection | None, environment: Mapping[str, str], console: Console) -> int:
    """Runs the request and returns the exit status: ours for our commands, Ansible's own for ansible-playbook's arguments."""
    redactor = Redactor()
    answers = _ask(request, redactor)
    extra_vars = ExtraVars(answers.values(), request.vault_files).read(request.extra_vars)
    redactor.learn(extra_vars)
    shown = display.make(console, redactor.text)
    run = Run(shown, redactor.text, request.verbosity)
    driver = Driver(run, request.arguments, {**environment, **protection(request, collection)}, answers)
    began, start = datetime.now(timezone.utc), time.monotonic()
    with shown.showing():
        rc = driver.play()
    status = exit_status(rc, run, driver.interrupts > 0, request.command)
    entries = [{**redactor.data(report.node(node)), "name": node.name} for node in run.nodes.values()]
    document: dict[str, Any] = {
        "schema": report.SCHEMA,
        "command": request.command,
        "outcome": status.name.lower(),
        "exit_status": int(status),
        "ansible_exit_status": rc,
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 3),
        "check": request.check,
        "inventory": list(request.inventory),
        "limit": request.limit,
        "extra_vars": redactor.variables(extra_vars),
        "versions": report.versions(collection),
        "nodes": entries,
        "messages": [] if status is Exit.OK else run.said[-20:],
    }
    for line in report.summary(entries):
        shown.said(line)
    if status is Exit.NOTHING:
        shown.said("no node matches the inventory and --limit, so nothing was done: check both")
    if status is Exit.NOT_BAKED:
        shown.said(f"nothing was baked on {', '.join(not_baked(run, request.command))}: look at nvidia_prebake_enabled, and at --tags")
    if request.report:
        try:
            report.write(request.report, document)
            shown.said(f"report: {request.report}")
        except OSError as error:  # it could be written at the beginning; a disk may have filled up since
            shown.said(f"the report could not be written to {request.report}: {error.strerror}")
            status, rc = Exit.ERROR if status is Exit.OK else status, rc or 1
    return int(status) if request.is_own else rc


def protection(request: Request, collection: Collection | None) -> dict[str, str]:
    """Settings with which our own playbooks run, whatever the configuration says: a node's answer sets no variable of the controller; and
    ssh asks nothing about an unknown host key, because nobody could answer. Arguments for ssh that the user has configured stay."""
    if not request.is_own and not (collection is not None and any(map(collection.has, request.arguments))):
        return {}
    configured = configparser.ConfigParser(interpolation=None, strict=False)
    configured.read(constants.CONFIG_FILE or [])
    has_own = "ANSIBLE_SSH_EXTRA_ARGS" in os.environ or configured.has_option("ssh_connection", "ssh_extra_args")
    return {"ANSIBLE_INJECT_FACT_VARS": "False", **({} if has_own else {"ANSIBLE_SSH_EXTRA_ARGS": "-o StrictHostKeyChecking=yes"})}


def exit_status(rc: int, run: Run, was_interrupted: bool, command: str = "") -> Exit:
    """Our exit status, from Ansible's exit status, the outcome of each node, and the command that was given."""
    outcomes = {node.outcome for node in run.nodes.values()}
    if was_interrupted:
        return Exit.INTERRUPTED
    if "failed" in outcomes:
        return Exit.FAILED
    if "unreachable" in outcomes:
        return Exit.UNREACHABLE
    if not run.nodes and (run.matched_nothing or any(text in said for said in run.said for text in _NO_HOSTS)):
        return Exit.NOTHING
    if rc == 0:
        return Exit.NOT_BAKED if not_baked(run, command) else Exit.OK
    return Exit.ERROR if run.nodes else Exit.USAGE


def not_baked(run: Run, command: str) -> list[str]:
    """The nodes on which the command ``bake`` or ``seal`` found nothing to do."""
    if command == "bake":
        return [node.name for node in run.nodes.values() if node.bake is None]
    if command == "seal":
        return [node.name for node in run.nodes.values() if not ((node.seal or {}).get("report") or {}).get("layers")]
    return []


def _ask(request: Request, redactor: Redactor) -> dict[str, str]:
    answers = {}
    ssh_password = ""
    for shown, pattern in prompts(request.ask_pass, request.ask_become_pass, request.vault_prompts):
        is_become = shown.startswith("BECOME")
        answer = click.prompt(shown, hide_input=True, default=ssh_password if is_become and ssh_password else None, show_default=False)
        if shown.startswith("SSH"):
            ssh_password = answer
        redactor.add(answer)
        answers[pattern] = answer
    return answers
