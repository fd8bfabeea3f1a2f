"""What native nodes and VMs have in common: a record in the session, an sshd, and a process whose end is the end of the node."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import ClassVar, TypeVar

from lab.machine import host, ssh
from lab.nodes import record
from lab.nodes.record import Record

AnyNode = TypeVar("AnyNode", bound="Node")


class Node:
    """One node of the session; `state` is its record."""

    kind: ClassVar[str]
    ssh_timeout_s: ClassVar[float]

    def __init__(self, state: Record) -> None:
        """Wrap a record; use `create` or `find`."""
        self.state = state

    @classmethod
    def find(cls: type[AnyNode], name: str) -> AnyNode:
        """The node of that name in this session."""
        return cls(record.load(name, cls.kind))

    @property
    def target(self) -> ssh.Target:
        """Address and port of its sshd."""
        return self.state.target

    @property
    def is_running(self) -> bool:
        """Whether its process exists."""
        return self.state.pid != 0 and host.is_alive(self.state.pid)

    def ssh(self, command: str, *, timeout_s: float | None = None, check: bool = True, stdin: str | None = None) -> host.Result:
        """Run a shell line on the node as root."""
        return ssh.run(self.target, command, timeout_s=timeout_s or self.ssh_timeout_s, check=check, stdin=stdin)

    def kill(self) -> None:
        """Cut the power; its disk stays."""
        if self.is_running:
            os.killpg(self.state.pid, signal.SIGKILL)
            wait_end(self.state.pid, 10)
        self.ended()

    def ended(self) -> None:
        """Record that it is not running."""
        self.state.pid = 0
        record.save(self.state)

    def destroy(self) -> None:
        """Cut the power and delete the node's disk and record; the logs stay."""
        self.kill()
        shutil.rmtree(self.state.folder)


def wait_end(pid: int, timeout_s: float) -> bool:
    """Wait for a process to end; returns whether it has ended."""
    end = time.monotonic() + timeout_s
    while host.is_alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
