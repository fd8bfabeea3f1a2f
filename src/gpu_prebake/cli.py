"""The command line: our own commands, or ansible-playbook's own arguments, as Packer's ansible provisioner gives them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from gpu_prebake import exits, inputs, options, report, request, session
from gpu_prebake.collection import Collection, CollectionMissingError, find
from gpu_prebake.driver import program
from gpu_prebake.exits import Exit
from gpu_prebake.request import Request

REPORT_VARIABLE = "GPU_PREBAKE_REPORT"


@dataclass(frozen=True)
class Command:
    """A command: the collection's playbook that it runs, its text for --help, and variables that the user's own values override."""

    name: str
    playbook: str
    text: str
    variables: dict[str, Any] = field(default_factory=dict)


# The commands ask for a bake, and for a baked image. The role reads this only where nvidia_prebake_enabled is not set.
_ASKED = {"__nvidia_prebake_asked": True}
COMMANDS = (
    Command("bake", "prebake", "Bake an NVIDIA driver into the images of build machines. It runs the role nvidia_prebake.", _ASKED),
    Command("seal", "seal", "Prove that baked images may ship, as the last step of a build. It runs playbooks/seal.yml.", _ASKED),
    Command("boot", "boot", "Bring up the NVIDIA driver of live nodes. It runs the role gpu_boot.", {"gpu_boot_progress": True}),
    Command("remove", "remove", "Uninstall what was baked or brought up; list what is left. It runs the role gpu_remove."),
)

_EPILOG = f"""\b
Exit statuses:
{exits.table()}

Called with ansible-playbook's own arguments (gpu-prebake -i INVENTORY PLAYBOOK), it runs that playbook and returns Ansible's own exit
status. So it can be the `command` of Packer's ansible provisioner.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program and ends the process with its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and is_playbook_call(words):
        sys.exit(_without_traceback(words))
    cli.main(args=words, prog_name="gpu-prebake")


def is_playbook_call(words: Sequence[str]) -> bool:
    """Whether the arguments are for ansible-playbook: the first is an option that is not ours, or a playbook. A command of ours is never
    one, even if a file in this folder has its name."""
    first = words[0]
    if first in ("--help", "-h", "--version") or first in _names():
        return False
    return first.startswith("-") or "." in first or "/" in first or Path(first).is_file()


def _names() -> list[str]:
    return [command.name for command in COMMANDS]


def _without_traceback(words: Sequence[str]) -> int:
    """Runs a playbook. Our refusals, and an end of the input where a password is asked for, are one line, as click has them in commands."""
    try:
        return _as_ansible_playbook(words)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("Aborted!", err=True)
        return int(Exit.ERROR)


def version() -> str:
    """All versions, Ansible's first: Packer takes the first number for Ansible's version and writes its inventory accordingly."""
    found = report.versions(_collection_or_none())
    lines = [f"gpu-prebake [core {found['ansible_core']}]"]
    lines += [f"  {name.replace('_', ' ')} version = {text or 'not found'}" for name, text in found.items()]
    return "\n".join(lines)


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(version())
        context.exit()


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show versions and exit.")
def cli() -> None:
    """Bake NVIDIA drivers into images, and bring them up on GPU nodes."""


def _report_option(name: str) -> click.Option:
    return click.Option(
        ["report_path", "--report"],
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path(f"gpu-prebake-{name}.json"),
        show_default=True,
        envvar=REPORT_VARIABLE,
        show_envvar=True,
        help="File for the report (JSON).",
    )


def _add(command: Command) -> None:
    def run(report_path: Path, **values: Any) -> None:
        sys.exit(_run_command(command, report_path, values))

    cli.add_command(
        click.Command(
            command.name, params=[*options.params(), _report_option(command.name)], callback=run, help=command.text, epilog=_EPILOG
        )
    )


for _command in COMMANDS:
    _add(_command)


def _run_command(command: Command, report_path: Path, values: dict[str, Any]) -> int:
    if not values["inventory"] and not os.environ.get("ANSIBLE_INVENTORY"):
        raise click.UsageError("no inventory: give -i FILE, or host names with a comma at the end (-i node1,)")
    options.check(values)
    try:
        collection = find()
    except CollectionMissingError as error:
        raise click.UsageError(str(error)) from error
    ours = ["--extra-vars", json.dumps(command.variables)] if command.variables else []
    asked = Request(
        command=command.name,
        arguments=(*ours, *options.arguments(values), collection.playbook(command.playbook)),
        inventory=values["inventory"],
        extra_vars=values["extra_vars"],
        limit=values["limit"] or "",
        check=values["check"],
        verbosity=values["verbose"],
        ask_pass=values["ask_pass"],
        ask_become_pass=values["ask_become_pass"],
        vault_prompts=request.vault_prompts(values["ask_vault_pass"], values["vault_id"]),
        vault_files=(*values["vault_id"], *values["vault_password_file"]),
        report=report_path,
    )
    inputs.check(asked)
    # With this setting an inventory that none of Ansible's plugins can read is an error; by default Ansible goes on with an empty one.
    return session.play(asked, collection, {"ANSIBLE_INVENTORY_UNPARSED_FAILED": "True", **collection.environment}, _console())


def _as_ansible_playbook(words: Sequence[str]) -> int:
    collection = _collection_or_none()
    environment = collection.environment if collection else {}
    if request.asks_only(words):
        os.execvpe(program(), [program(), *words], {**os.environ, **environment})
    name = request.last_playbook(words)
    if name in _names():
        raise inputs.SlipError(
            f"{name} is a command: give it before the options (gpu-prebake {name} …). A playbook of this name is ./{name}"
        )
    named = os.environ.get(REPORT_VARIABLE)
    asked = request.from_playbook_arguments(words, Path(named) if named else None)
    inputs.check(asked)
    return session.play(asked, collection, environment, _console())


def _collection_or_none() -> Collection | None:
    try:
        return find()
    except CollectionMissingError:
        return None


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


__all__ = ["COMMANDS", "Exit", "main"]
