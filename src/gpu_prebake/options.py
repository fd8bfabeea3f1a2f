"""The options of ansible-playbook that each command takes too, and the command line that they become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gpu_prebake import inputs

_VALUE, _LIST, _FLAG, _COUNT, _NUMBER, _FILE, _FILES = "value", "list", "flag", "count", "number", "file", "files"
_SEVERAL = (_LIST, _FILES)
# The flags of ansible-playbook (the long one is passed on), the kind of value, the help text.
_OPTIONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("-i", "--inventory"), _LIST, "Inventory file, folder or script, or host names with a comma (node1,)."),
    (("-l", "--limit"), _VALUE, "Run only on hosts that match this pattern."),
    (("-e", "--extra-vars"), _LIST, "Set variables: key=value, JSON or YAML, or @FILE."),
    (("-C", "--check"), _FLAG, "Change nothing; only show what would be done."),
    (("-D", "--diff"), _FLAG, "Show what changes, or would change."),
    (("-t", "--tags"), _LIST, "Run only plays and tasks with these tags."),
    (("--skip-tags",), _LIST, "Skip plays and tasks with these tags."),
    (("-f", "--forks"), _NUMBER, "Number of hosts to work on at the same time."),
    (("-u", "--user"), _VALUE, "User to log in as."),
    (("-c", "--connection"), _VALUE, "Connection plugin."),
    (("-T", "--timeout"), _NUMBER, "Seconds to wait for a connection."),
    (("--private-key", "--key-file"), _FILE, "File with the private key for the login."),
    (("-k", "--ask-pass"), _FLAG, "Ask for the login password."),
    (("--connection-password-file", "--conn-pass-file"), _FILE, "File with the login password."),
    (("--ssh-common-args",), _VALUE, "Arguments for ssh, sftp and scp."),
    (("--ssh-extra-args",), _VALUE, "Arguments for ssh only."),
    (("--sftp-extra-args",), _VALUE, "Arguments for sftp only."),
    (("--scp-extra-args",), _VALUE, "Arguments for scp only."),
    (("-b", "--become"), _FLAG, "Become another user; not needed for root, which the plays become by themselves."),
    (("--become-method",), _VALUE, "How to become another user: sudo, su, doas and others."),
    (("--become-user",), _VALUE, "Which user to become."),
    (("-K", "--ask-become-pass"), _FLAG, "Ask for the password for becoming another user."),
    (("--become-password-file", "--become-pass-file"), _FILE, "File with the password for becoming another user."),
    (("--vault-id",), _LIST, "Vault identity: LABEL@FILE or LABEL@prompt."),
    (("-J", "--ask-vault-pass", "--ask-vault-password"), _FLAG, "Ask for the vault password."),
    (("--vault-password-file", "--vault-pass-file"), _FILES, "File with the vault password."),
    (("-v", "--verbose"), _COUNT, "Show Ansible's own output too; -vvv shows more."),
)
# The values of these options may begin with a dash, so ansible-playbook needs them joined to the option (--option=value).
_JOINED = ("--ssh-common-args", "--ssh-extra-args", "--sftp-extra-args", "--scp-extra-args")


def long_flag(flags: tuple[str, ...]) -> str:
    """The option's name for ansible-playbook."""
    return next(flag for flag in flags if flag.startswith("--"))


def parameter(flags: tuple[str, ...]) -> str:
    """The name under which click hands over the option's value."""
    return long_flag(flags).lstrip("-").replace("-", "_")


def params() -> list[click.Parameter]:
    """The options of a command, for click."""
    found: list[click.Parameter] = []
    for flags, kind, text in _OPTIONS:
        name = parameter(flags)
        if kind == _FLAG:
            found.append(click.Option([name, *flags], is_flag=True, help=text))
        elif kind == _COUNT:
            found.append(click.Option([name, *flags], count=True, help=text))
        else:
            kinds = {_NUMBER: click.IntRange(min=1)}
            metavar = "NUMBER" if kind == _NUMBER else "TEXT"
            found.append(click.Option([name, *flags], type=kinds.get(kind), multiple=kind in _SEVERAL, metavar=metavar, help=text))
    return found


def arguments(values: Mapping[str, Any]) -> list[str]:
    """The command line for ansible-playbook, without the playbook."""
    words: list[str] = []
    for flags, kind, _ in _OPTIONS:
        flag, value = long_flag(flags), values[parameter(flags)]
        if kind == _FLAG:
            words += [flag] if value else []
        elif kind == _COUNT:
            words += [f"-{'v' * value}"] if value else []
        else:
            for one in value if kind in _SEVERAL else [value] if value is not None else []:
                words += [f"{flag}={one}"] if flag in _JOINED else [flag, str(one)]
    return words


def check(values: Mapping[str, Any]) -> None:
    """Raises SlipError for an option that names a file which is not there. Ansible finds a missing key only on the nodes."""
    for flags, kind, _ in _OPTIONS:
        value = values[parameter(flags)]
        for one in value if kind == _FILES else [value] if kind == _FILE and value else []:
            inputs.check_file(long_flag(flags), one)
    for one in values["vault_id"]:
        inputs.check_vault_id(one)
