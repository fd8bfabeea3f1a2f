"""Ssh to the lab's nodes, with a key pair and a configuration of the lab's own; the user's configuration is never read.

Format of the file: ssh_config(5).
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from lab.machine import host, paths
from lab.machine.errors import KernelPanicError, LabError

CONTROL = paths.MACHINE / "cp"


@dataclass(frozen=True)
class Target:
    """Address and port at which a node's sshd answers."""

    address: str
    port: int


def key() -> Path:
    """The lab's private key, created on first use; the public key is the file with `.pub` added to its name."""
    folder = paths.make_private(paths.cache() / "ssh")
    private = folder / "id_ed25519"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not private.exists():
            fresh = folder / "new"
            for leftover in (fresh, Path(f"{fresh}.pub")):
                leftover.unlink(missing_ok=True)
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpu-prebake-lab", "-f", str(fresh)]
            host.run(argv, timeout_s=60)
            Path(f"{fresh}.pub").rename(f"{private}.pub")
            fresh.rename(private)
    return private


# For a template that checks host keys: a node of the lab is made and thrown away by the same session, so nobody can know its key.
UNKNOWN_HOST = {"ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_SSH_COMMON_ARGS": "-o UserKnownHostsFile=/dev/null"}


def config() -> Path:
    """The lab's ssh configuration file: only the lab's key; host keys are neither kept nor checked, because each node is new."""
    private = key()
    text = (
        "Host *\n"
        "  User root\n"
        f'  IdentityFile "{private}"\n'
        "  IdentitiesOnly yes\n"
        "  PreferredAuthentications publickey\n"
        "  StrictHostKeyChecking no\n"
        "  UserKnownHostsFile /dev/null\n"
        "  GlobalKnownHostsFile /dev/null\n"
        "  LogLevel ERROR\n"
        "  BatchMode yes\n"
        "  ConnectTimeout 60\n"
        "  ServerAliveInterval 15\n"
        "  ServerAliveCountMax 8\n"
    )
    file = private.with_name("config")
    if not file.exists() or file.read_text() != text:
        fresh = file.with_name(f"config.{os.getpid()}")
        fresh.write_text(text)
        fresh.rename(file)
    return file


def argv(target: Target, command: str | None = None) -> list[str]:
    """Command line that logs in to `target`, or that runs `command`, a shell line, there."""
    login = ["ssh", "-F", str(config()), "-p", str(target.port), f"root@{target.address}"]
    return login if command is None else [*login, "--", command]


def run(target: Target, command: str, *, timeout_s: float = 120, check: bool = True, stdin: str | None = None) -> host.Result:
    """Run a shell line on the node as root."""
    return host.run(argv(target, command), timeout_s=timeout_s, check=check, stdin=stdin)


def answers(target: Target, timeout_s: float = 1.0) -> bool:
    """Whether an sshd sends its greeting. For polling: cheaper than a login."""
    try:
        with socket.create_connection((target.address, target.port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def wait(target: Target, pid: int, timeout_s: float, what: str, log: Path) -> None:
    """Wait until the node's sshd answers. Raises LabError with the end of the log if process `pid` ends or time is up."""
    begin = time.monotonic()
    end = begin + timeout_s
    # A node that is slow, because its machine is busy, gets more and more time for its greeting: each connection that is given up
    # leaves an sshd process on it to end, and with one such each second it would never answer.
    while not answers(target, max(1.0, (time.monotonic() - begin) / 20)):
        if not host.is_alive(pid):
            raise LabError(f"{what}: ended before ssh answered; the end of {log}:\n{host.read_tail(log)}")
        if has_panicked(log):
            raise KernelPanicError(f"{what}: its kernel panicked; the end of {log}:\n{host.read_tail(log, 60)}")
        if time.monotonic() > end:
            raise LabError(f"{what}: no ssh after {timeout_s:.0f} s; the end of {log}:\n{host.read_tail(log)}")
        time.sleep(0.15)


def has_panicked(log: Path) -> bool:
    """Whether a serial log contains a kernel panic."""
    try:
        return b"Kernel panic - not syncing" in log.read_bytes()
    except OSError:
        return False


def ansible_vars(target: Target) -> dict[str, str | int]:
    """Inventory variables for a node; ssh keeps the connections open, with their sockets below /run."""
    persist = f"-o ControlMaster=auto -o ControlPersist=120s -o ControlPath={CONTROL}/%C"
    return {
        "ansible_host": target.address,
        "ansible_port": target.port,
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": str(key()),
        "ansible_ssh_args": f"-F {config()} -o StrictHostKeyChecking=no {persist}",  # before ansible.cfg's, which says yes
    }
