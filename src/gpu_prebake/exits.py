"""Exit statuses; docs/cli.md and --help show this table."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Why the program ended; MEANINGS has a sentence for each."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOTHING = 3
    FAILED = 4
    UNREACHABLE = 5
    NOT_BAKED = 6
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "every node did what was asked",
    Exit.ERROR: "Ansible or gpu-prebake itself failed",
    Exit.USAGE: "invalid option, or an inventory, playbook or variables file that cannot be read",
    Exit.NOTHING: "no node matches the inventory and --limit",
    Exit.FAILED: "a node failed; the report shows its code",
    Exit.UNREACHABLE: "a node could not be reached, and no node failed",
    Exit.NOT_BAKED: "bake, seal: nothing was baked on a node, because its variables ask for no bake; no node failed",
    Exit.INTERRUPTED: "interrupted; the report shows the state of each node",
}


def table() -> str:
    """The exit statuses as lines of text."""
    return "\n".join(f"{status.value:>4}  {text}" for status, text in MEANINGS.items())
