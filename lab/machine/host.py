"""The machine that runs the lab: its tools, its user, and the one place where the lab starts programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.machine import cache
from lab.machine.errors import LabError

TOOLS = {
    "apt-get": "apt",
    "cp": "coreutils",
    "docker-registry": "docker-registry",
    "htpasswd": "apache2-utils",
    "ip": "iproute2",
    "iptables": "iptables",
    "losetup": "mount",
    "mke2fs": "e2fsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.xfs": "xfsprogs",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "partx": "util-linux",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "sfdisk": "fdisk",
    "skopeo": "skopeo",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "umoci": "umoci",
    "unshare": "util-linux",
}
"""Every program that the lab starts, and the Debian package that contains it."""

TAIL_LINES = 25


@dataclass(frozen=True)
class Result:
    """A program's exit status and output; both outputs are empty if they went to a log."""

    rc: int
    stdout: str
    stderr: str


def need_tools(*names: str) -> None:
    """Raise LabError if tools are missing, with their names and Debian packages; checks all of TOOLS by default."""
    missing = [name for name in names or TOOLS if shutil.which(name, path=search_path()) is None]
    if missing:
        wanted = ", ".join(f"{name} (package {TOOLS.get(name, name)})" for name in missing)
        raise LabError(f"this machine lacks {wanted}: run lab/setup.sh, or install with apt-get")


def need_root(what: str) -> None:
    """Raise LabError that names `what` needs root, unless this process runs as root."""
    if os.geteuid() != 0:
        raise LabError(f"{what} needs root (namespaces, network, file owners): run it again with sudo")


def search_path() -> str:
    """PATH, with the system folders that a user's PATH may lack."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment for a started program: untranslated messages, full PATH, and `extra`."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "PATH": search_path(), **(extra or {})}


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last lines of a program's output, for an error message."""
    kept = text.rstrip().splitlines()[-lines:]
    return "\n".join(f"  | {line}" for line in kept) or "  | (no output)"


def read_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, or a line that says why it cannot be read."""
    try:
        return tail(path.read_text(errors="replace").replace("\r", ""), lines)
    except OSError as error:
        return f"  | (cannot read {path}: {error.strerror})"


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Result:
    """Run a program to its end. With `log`, both its outputs are appended to that file instead of returned.

    Raises LabError if it is missing, runs longer than `timeout_s` (its process group is killed) or, with `check`, fails.
    """
    output = log.open("ab") if log else None
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=output or subprocess.PIPE,
            stderr=subprocess.STDOUT if output else subprocess.PIPE,
            env=environment(env),
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        need_tools(argv[0])
        raise LabError(f"cannot start {argv[0]}: {error}") from error
    finally:
        if output:
            output.close()
    try:
        out, err = process.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        kill_group(process)
        shown = read_tail(log) if log else tail(_text(error.stdout) + _text(error.stderr))
        raise LabError(f"{_shown(argv)}: still running after {timeout_s:.0f} s, killed; its last output:\n{shown}") from None
    except BaseException:
        kill_group(process)
        raise
    result = Result(process.returncode, out or "", err or "")
    if check and result.rc != 0:
        shown = read_tail(log) + f"\n  (whole log: {log})" if log else tail(result.stdout + result.stderr)
        raise LabError(f"{_shown(argv)}: ended with {result.rc}; its last output:\n{shown}")
    return result


def spawn(argv: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> int:
    """Start a program that may outlive this process, and return its pid. It keeps this process's cache entries in use."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
                pass_fds=[*pass_fds, *cache.held()],
            )
    except FileNotFoundError as error:
        need_tools(argv[0])
        raise LabError(f"cannot start {argv[0]}: {error}") from error
    _children[process.pid] = process
    return process.pid


_children: dict[int, subprocess.Popen[bytes]] = {}


def is_alive(pid: int) -> bool:
    """Whether process `pid` exists and is not a zombie; reaps it if this process has started it."""
    if pid in _children and _children[pid].poll() is not None:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def end(pid: int) -> None:
    """Kill a program that `spawn` has started in this process, with its whole process group."""
    kill_group(_children.pop(pid))


def kill_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Kill a process that was started as the leader of its own process group, with the whole group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _shown(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) < 300 else text[:300] + " …"


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
