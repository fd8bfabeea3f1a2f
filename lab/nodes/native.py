"""Native nodes: a copy of a root filesystem started by systemd-nspawn, with systemd, sshd and containerd of its own.

Images are baked here, at native speed. No module can be loaded: the kernel is the machine's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from lab.machine import host, network, paths, ssh
from lab.machine.errors import LabError
from lab.machine.progress import step
from lab.nodes import base, record
from lab.nodes.node import Node, wait_end
from lab.nodes.record import Record

BOOT_TIMEOUT_S = 240.0  # for a busy machine; on an idle one it takes 1
STOP_TIMEOUT_S = 60.0

# nspawn mounts the cgroup trees of a node read-only; containerd needs to write there.
REMOUNT = (
    "systemctl is-system-running --wait >/dev/null; "
    "for m in /sys/fs/cgroup $(awk '$2 ~ \"^/sys/fs/cgroup/\" {print $2}' /proc/mounts); do "
    "mount -o remount,rw,bind $m || exit 1; done"
)


class NativeNode(Node):
    """One native node of the session. `root` is the folder of its filesystem, `target` its ssh address."""

    kind = "native"
    ssh_timeout_s = 120.0

    def __init__(self, state: Record) -> None:
        """Wrap a record; use `create` or `find`."""
        super().__init__(state)
        self.root = Path(state.root)
        self.console = paths.logs(record.session()) / f"{state.name}.console"

    @classmethod
    def create(cls, name: str, root: Path | None = None) -> NativeNode:
        """Copy `root` (the base by default), start the copy, and wait until ssh answers and systemd has started everything."""
        host.need_root("starting a native node")
        source = root or base.root()
        with record.lock():
            state = record.new(name, cls.kind)
        state.root = f"{state.folder}/root"
        record.save(state)
        node = cls(state)
        try:
            with step(f"{name}: copying {source}"):
                host.run(["cp", "-a", "--reflink=auto", str(source), state.root], timeout_s=600)
            node.start()
        except BaseException:
            node.destroy()
            raise
        return node

    def start(self) -> None:
        """Boot the root."""
        with step(f"{self.state.name}: native node, power-on to ready"):
            set_resolver(self.root)
            with record.lock():
                self.state.pid = host.spawn(nspawn_argv(self.root, self.state.name), self.console)
                leader = self._leader()
                self.state.address = network.attach(leader, network.free_number())
                self.state.boots += 1
                record.save(self.state)
            what = f"native node {self.state.name}"
            ssh.wait(self.target, self.state.pid, BOOT_TIMEOUT_S, what, self.console)
            self.ssh(REMOUNT)

    def kill(self) -> None:
        """Cut the power. A killed systemd-nspawn leaves the node's first process running, so that one is killed too."""
        payload = self._children() if self.is_running else []
        super().kill()
        for pid in payload:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_end(pid, 10)

    def stop(self) -> Path:
        """Power off cleanly, call `finish`, and return the root's folder."""
        if self.is_running:
            with step(f"{self.state.name}: power-off"):
                self.ssh("systemctl poweroff --no-block", check=False)
                if not wait_end(self.state.pid, STOP_TIMEOUT_S):
                    self.kill()
                    raise LabError(f"native node {self.state.name} did not power off in {STOP_TIMEOUT_S:.0f} s; killed")
        self.ended()
        return self.finish()

    def finish(self) -> Path:
        """Remove from the stopped root what only booting in the lab has put there. Returns the folder."""
        if self.is_running:
            raise LabError(f"native node {self.state.name} is still running: stop it before its root is used")
        clean(self.root)
        return self.root

    def _leader(self) -> int:
        """The node's PID 1, as a pid on this machine, once it is in a network namespace of its own."""
        mine = Path("/proc/self/ns/net").readlink()
        end = time.monotonic() + 20
        while time.monotonic() < end and self.is_running:
            for child in self._children():
                try:
                    if Path(f"/proc/{child}/ns/net").readlink() != mine:
                        return child
                except OSError:
                    continue
            time.sleep(0.03)
        self.kill()
        raise LabError(f"systemd-nspawn did not start {self.state.name}; its output:\n{host.read_tail(self.console)}")

    def _children(self) -> list[int]:
        """The pids of the processes that systemd-nspawn has started: the node's first process."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.state.pid}/task/{self.state.pid}/children").read_text().split()]
        except OSError:
            return []


def nspawn_argv(root: Path, name: str) -> list[str]:
    """Command line that boots `root`, not registered with the machine's systemd, with the system calls that containerd needs."""
    return [
        *("env", "SYSTEMD_SECCOMP=0", "systemd-nspawn", "--quiet", f"--directory={root}", f"--machine={name}"),
        *("--register=no", "--keep-unit", "--private-network", "--capability=all"),
        *("--system-call-filter=@keyring bpf", "--resolv-conf=off", "--link-journal=no", "--timezone=off"),
        *("--console=pipe", "--boot"),
    ]


def set_resolver(root: Path) -> None:
    """Give the root name servers that a node on the bridge can reach; the original file is kept beside the new one for `clean`."""
    resolv, kept = root / "etc/resolv.conf", root / "etc/resolv.conf.gpulab"
    if not kept.is_symlink() and not kept.exists():
        if resolv.is_symlink() or resolv.exists():
            resolv.rename(kept)
        else:
            kept.symlink_to("absent")
    servers = re.findall(r"^nameserver\s+(\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    upstream = Path("/run/systemd/resolve/resolv.conf")
    if all(server.startswith("127.") for server in servers) and upstream.exists():
        servers = re.findall(r"^nameserver\s+(\S+)", upstream.read_text(), re.MULTILINE)
    resolv.write_text("".join(f"nameserver {server}\n" for server in servers))


def clean(root: Path) -> None:
    """Undo `set_resolver` and remove what a boot in the lab writes: machine id, random seed, journal."""
    resolv, kept = root / "etc/resolv.conf", root / "etc/resolv.conf.gpulab"
    if kept.is_symlink() and kept.readlink() == Path("absent"):
        kept.unlink()
        resolv.unlink(missing_ok=True)
    elif kept.is_symlink() or kept.exists():
        kept.rename(resolv)
    (root / "etc/machine-id").write_text("")
    (root / "var/lib/systemd/random-seed").unlink(missing_ok=True)
    shutil.rmtree(root / "root/.ansible", ignore_errors=True)
    for folder in ("run", "tmp", "var/tmp", "var/log/journal"):
        for path in (root / folder).glob("*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
