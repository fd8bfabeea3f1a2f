"""Exit statuses; docs/cli.md and --help show this table."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Why the program ended as it did; the docstring of each is its line in the table."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOTHING = 3
    FAILED = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "every node did what was asked",
    Exit.ERROR: "Ansible or this program broke down",
    Exit.USAGE: "an option, the inventory, a playbook or a variables file cannot be meant or read",
    Exit.NOTHING: "no node matches the inventory and --limit",
    Exit.FAILED: "a node failed; the report has its code",
    Exit.UNREACHABLE: "a node could not be reached, and none failed",
    Exit.INTERRUPTED: "interrupted; the report has the state of each node",
}


def table() -> str:
    """The exit statuses as lines of text."""
    return "\n".join(f"{status.value:>4}  {text}" for status, text in MEANINGS.items())
