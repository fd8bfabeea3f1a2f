"""What a run is asked to do, by one of our commands or by ansible-playbook's own arguments, as Packer gives them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# With these ansible-playbook only prints an answer, or talks with a person: there is nothing to follow.
_ANSWERS = ("-h", "--help", "--list-hosts", "--list-tasks", "--list-tags", "--syntax-check", "--step")


@dataclass(frozen=True)
class Request:
    """One run. ``arguments`` is ansible-playbook's whole command line; the other fields are what it says."""

    command: str
    arguments: tuple[str, ...]
    inventory: tuple[str, ...] = ()
    extra_vars: tuple[str, ...] = ()
    limit: str = ""
    check: bool = False
    verbosity: int = 0
    ask_pass: bool = False
    ask_become_pass: bool = False
    vault_prompts: tuple[str, ...] = ()
    vault_files: tuple[str, ...] = ()
    report: Path | None = None

    @property
    def is_own(self) -> bool:
        """Whether this is one of our commands, with our exit statuses."""
        return self.command != "ansible-playbook"


class _UnreadableError(Exception):
    """These arguments cannot be parsed; ansible-playbook itself will refuse them."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UnreadableError(message)


def asks_only(arguments: Sequence[str]) -> bool:
    """Whether ansible-playbook is only asked for an answer, such as ``--list-hosts``."""
    return any(word in _ANSWERS for word in arguments)


def from_playbook_arguments(words: Sequence[str], report: Path | None) -> Request:
    """A request from ansible-playbook's own command line. Only ``--report FILE`` in it is ours."""
    arguments, named = _without_report(words)
    try:
        found, _ = _parser().parse_known_args(arguments)
    except _UnreadableError:
        return Request("ansible-playbook", tuple(arguments), report=named or report)
    return Request(
        command="ansible-playbook",
        arguments=tuple(arguments),
        inventory=tuple(found.inventory),
        extra_vars=tuple(found.extra_vars),
        limit=found.limit,
        check=found.check,
        verbosity=found.verbose,
        ask_pass=found.ask_pass,
        ask_become_pass=found.ask_become_pass,
        vault_prompts=vault_prompts(found.ask_vault_pass, found.vault_id),
        vault_files=(*found.vault_id, *found.vault_password_file),
        report=named or report,
    )


def last_playbook(words: Sequence[str]) -> str:
    """The last word, if it is a playbook and not an option or an option's value; else ""."""
    try:
        _, rest = _parser().parse_known_args(_without_report(words)[0])
    except _UnreadableError:
        return ""
    if not rest or rest[-1] != words[-1] or (len(rest) > 1 and rest[-2].startswith("-") and "=" not in rest[-2]):
        return ""
    return rest[-1]


def vault_prompts(ask: bool, vault_ids: Sequence[str]) -> tuple[str, ...]:
    """The labels of the vaults for which Ansible will prompt; an empty label for the vault that has none."""
    labels = [
        label for label, at, source in (text.rpartition("@") for text in vault_ids) if at and source in ("prompt", "prompt_ask_vault_pass")
    ]
    return tuple([*labels, *([""] if ask else [])])


def _without_report(words: Sequence[str]) -> tuple[list[str], Path | None]:
    kept: list[str] = []
    named: Path | None = None
    waiting = iter(words)
    for word in waiting:
        if word == "--report":
            named = Path(next(waiting, ""))
        elif word.startswith("--report="):
            named = Path(word.partition("=")[2])
        else:
            kept.append(word)
    return kept, named


def _parser() -> _Parser:
    parser = _Parser(add_help=False)  # ansible-playbook too takes an option's beginning for the option
    parser.add_argument("-i", "--inventory", action="append", default=[])
    parser.add_argument("-e", "--extra-vars", action="append", default=[])
    parser.add_argument("--vault-id", action="append", default=[])
    parser.add_argument("--vault-password-file", "--vault-pass-file", action="append", default=[])
    parser.add_argument("-l", "--limit", default="")
    parser.add_argument("-v", "--verbose", action="count", default=0)
    for flags in (("-C", "--check"), ("-k", "--ask-pass"), ("-K", "--ask-become-pass"), ("-b", "--become"), ("-D", "--diff")):
        parser.add_argument(*flags, action="store_true")
    parser.add_argument("-J", "--ask-vault-pass", "--ask-vault-password", action="store_true")
    for flags in (
        ("-u", "--user"),
        ("-c", "--connection"),
        ("-f", "--forks"),
        ("-T", "--timeout"),
        ("-M", "--module-path"),
        ("-t", "--tags"),
    ):
        parser.add_argument(*flags)
    return parser
