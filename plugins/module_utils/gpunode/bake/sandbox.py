"""The sandbox of a captured bake: a second root of overlays over this machine's filesystems, with a PID 1 of its own.

A driver container enters the mount namespace of PID 1 of the pid namespace that it is given (docs/contract.md). So an unmodified
image installs into the overlays; what it writes is in their upper folders, and nothing reaches the real root.

The sandbox ends with the process that opened it. PID 1 reads a pipe from that process; when the pipe closes, PID 1 exits, and the
kernel kills every process in the sandbox. A watcher reads another pipe, outlives the process, and removes mounts, container and files.
If both are killed, `sweep` in the next run does it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BuildError, CommandError, UnsupportedError
from ..paths import STORE
from ..store.contents import CAPTURE, CAPTURES
from ..system import kernels, mounts
from ..util import files, trust
from ..util.files import make_private
from ..util.folders import matching
from ..util.run import Runner, Running
from . import overlays
from .overlays import Part

LOCK = "/run/gpu-prebake/capture.lock"  # a watcher holds it until it has removed its sandbox
# metacopy gave wrong contents, and redirect_dir would hide renames. All are set, because the defaults differ between kernels.
_OPTIONS = "metacopy=off,redirect_dir=off,index=off"
_TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")
_MOUNT_S, _ENTER_S, _EXIT_S, _CLEAN_S = 30.0, 30.0, 20.0, 120.0
# Run as PID 1 of a new pid namespace and mount namespace, without propagation. $1 merged root, $2 target kernel, $3 store.
# An empty tmpfs hides the store. A bind mount over uname makes it print the target kernel, whatever the PATH. DKMS must not sign: it would
# make a key of its own and leave the private half in the image (rule B22). The shell's own pid is read first, while /proc/self is still
# that of the outer namespace.
_ENTER = """
set -eu
read -r pid rest < /proc/self/stat
cd "$1"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
mkdir -m 1777 run/lock
mkdir run/gpu-prebake
mount -t tmpfs -o mode=0700,ro tmpfs "./$3"
cp -p usr/bin/uname run/gpu-prebake/uname
cat > run/gpu-prebake/target-uname <<'END'
#!/bin/sh
# Prints the target kernel in place of the running one.
running=$(/run/gpu-prebake/uname -r)
/run/gpu-prebake/uname "$@" | sed "s|$running|TARGET|"
END
sed -i "s|TARGET|$2|" run/gpu-prebake/target-uname
chmod 755 run/gpu-prebake/target-uname
mount --bind run/gpu-prebake/target-uname usr/bin/uname
for conf in etc/dkms/framework.conf etc/dkms/framework.conf.d/*.conf; do
  [ -f "$conf" ] || continue
  copy="run/gpu-prebake/dkms-${conf##*/}"
  cp -p "$conf" "$copy"
  echo 'sign_file="/run/gpu-prebake/no-signing"' >> "$copy"
  mount --bind "$copy" "$conf"
done
pivot_root . .
umount -l .
cd /
echo "ready $pid"
exec cat > /dev/null 2>&1
"""
# $1 the sandbox's folder. May run twice, and from any state. The namespaces take a moment to end, so busy mounts are tried again.
_CLEAN = """
exec > /dev/null 2>&1
id=$(cat "$1/container")
if [ -n "$id" ] && timeout 30 ctr -n k8s.io containers ls -q | grep -qxF -e "$id"; then
  timeout 30 ctr -n k8s.io tasks kill -a -s SIGKILL "$id"
  timeout 30 ctr -n k8s.io tasks rm -f "$id"
  timeout 30 ctr -n k8s.io containers rm "$id"
  timeout 30 ctr -n k8s.io snapshots rm "$id"
fi
tries=0
while mountpoint -q "$1/merged"; do
  tries=$((tries + 1))
  [ "$tries" -lt 50 ] || break
  if [ "$tries" -lt 25 ]; then umount -R "$1/merged"; else umount -R -l "$1/merged"; fi || sleep 0.2
done
# While the folder is there, the next bake waits for this one. Without it, that bake would record that no timer is to be started again.
timers=$(cat "$1/timers")
[ -z "$timers" ] || systemctl start $timers
rm -rf --one-file-system "$1"
rmdir "${1%/*}"
[ ! -e "$1" ]
"""
_WATCH = "trap '' HUP INT TERM\ncat > /dev/null\n" + _CLEAN


@dataclass(frozen=True)
class Sandbox:
    """An open sandbox. ``merged`` is its root as seen from outside, ``pid`` its PID 1; ``uppers`` maps the path of each overlaid
    filesystem ("" for the root) to its upper folder; ``hidden`` are the paths that we hid before the build."""

    pid: int
    merged: Path
    uppers: Mapping[str, Path]
    hidden: frozenset[str] = field(default_factory=frozenset)


def require(root: Path) -> None:
    """Raises UnsupportedError for a root that cannot be captured, and says why (overlay, read-only, ostree)."""
    if (root / "run/ostree-booted").exists() or (root / "sysroot/ostree").is_dir():
        raise UnsupportedError(
            "this is an ostree system: its /usr comes from a commit, and a node cannot change it, or loses the change; "
            "build the driver into the commit instead",
            code="root_unsupported",
        )
    overlays.plan(mounts.current(root), trust.point(root, STORE))


@contextlib.contextmanager
def opened(root: Path, runner: Runner, kver: str, container: str, say: Callable[[str], None] = lambda _: None) -> Iterator[Sandbox]:
    """Opens a sandbox for a build for kernel ``kver``, in which the container with the id ``container`` will run. It is removed after the
    body, also if that fails. Raises UnsupportedError, BuildError."""
    parts = overlays.plan(mounts.current(root), trust.point(root, STORE))
    folder = _new_folder(root, container, _active_timers(runner))
    watcher = runner.start(watch_argv(folder))
    init: list[Running] = []
    try:
        yield _open(root, runner, kver, folder, parts, init)
    except BaseException:
        problem = _close(root, runner, folder, watcher, init)
        if problem:
            say(problem)
        raise
    problem = _close(root, runner, folder, watcher, init)
    if problem:
        raise BuildError(problem, code="sandbox_left")


def sweep(root: Path, runner: Runner) -> tuple[str, ...]:
    """Removes the sandboxes that killed runs left, once no watcher is at work any more; returns their names. Raises BuildError."""
    found = matching(trust.below(root, CAPTURES), "*")
    left = [path.name for path in found if CAPTURE.fullmatch(path.name) and not path.is_symlink()]
    for name in left:
        folder = trust.below(root, CAPTURES) / name
        try:
            runner.run(["flock", "-o", "-w", f"{_CLEAN_S:.0f}", LOCK, *_script(_CLEAN, folder)], timeout_s=2 * _CLEAN_S)
        except CommandError as error:
            raise BuildError(f"{_not_removed(folder)}: {error}", code="sandbox_left") from error
    return tuple(left)


def watch_argv(folder: Path) -> list[str]:
    """The watcher's command line: it waits for the end of its input, and then removes the sandbox in ``folder``."""
    return ["flock", "-o", LOCK, *_script(_WATCH, folder)]


def enter_argv(merged: Path, kver: str, store: str = STORE) -> list[str]:
    """The command line of PID 1: it prints ``ready`` and its pid in the outer namespace, and exits at the end of its input."""
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return [*isolated, "sh", "-c", _ENTER, "gpu-prebake-sandbox", str(merged), kver, store]


def mount_argv(root: Path, folder: Path, number: int, part: Part) -> list[str]:
    """The command line that mounts one part of the root."""
    source, target = root / part.point.lstrip("/"), folder / "merged" / part.point.lstrip("/")
    if not part.is_written:
        return ["mount", "-o", "bind,ro", str(source), str(target)]
    folders = f"lowerdir={source},upperdir={folder}/upper/{number},workdir={folder}/work/{number}"
    return ["mount", "-t", "overlay", "gpu-prebake", "-o", f"{_OPTIONS},{folders}", str(target)]


def _script(text: str, folder: Path) -> list[str]:
    return ["sh", "-c", text, "gpu-prebake-sandbox", str(folder)]


def _not_removed(folder: Path) -> str:
    return f"the sandbox {folder} cannot be removed: find what uses it (findmnt -R {folder}, fuser -m {folder}/merged) and end it"


def _new_folder(root: Path, container: str, timers: Sequence[str]) -> Path:
    captures = trust.below(root, CAPTURES)
    make_private(captures.parent)
    make_private(captures)
    folder = captures / f"{os.getpid()}-{secrets.token_hex(4)}"
    try:
        make_private(folder)
        (folder / "container").write_text(container, encoding="utf-8")
        (folder / "timers").write_text(" ".join(timers), encoding="utf-8")
        make_private(root / "run/gpu-prebake")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _active_timers(runner: Runner) -> list[str]:
    try:
        return [timer for timer in _TIMERS if runner.run(["systemctl", "is-active", "--quiet", timer], ok=None).rc == 0]
    except CommandError:
        return []  # without systemd there are no timers


def _open(root: Path, runner: Runner, kver: str, folder: Path, parts: Sequence[Part], init: list[Running]) -> Sandbox:
    timers = (folder / "timers").read_text(encoding="utf-8").split()
    if timers:
        runner.run(["systemctl", "stop", *timers], ok=None)
    merged = folder / "merged"
    merged.mkdir(mode=0o700)
    uppers = {}
    for number, part in enumerate(parts):
        if part.is_written:
            upper = folder / "upper" / str(number)
            make_private(folder / "work" / str(number))
            upper.mkdir(parents=True)
            _make_like(root / part.point.lstrip("/"), upper)
            uppers[part.point.strip("/")] = upper
    hidden = [files.relative(root, root / "lib/modules" / other / "build") for other in kernels.with_headers(root) if other != kver]
    for path in hidden:
        _hide(root, uppers, path)
    try:
        for number, part in enumerate(parts):
            runner.run(mount_argv(root, folder, number, part), timeout_s=_MOUNT_S)
        init.append(runner.start(enter_argv(merged, kver, trust.point(root, STORE).lstrip("/"))))
    except CommandError as error:
        raise BuildError(f"the sandbox for the build cannot be mounted: {error}", code="sandbox_failed") from error
    said = init[0].line(_ENTER_S)
    word, _space, pid = said.partition(" ")
    if word != "ready" or not pid.isdigit():
        raise BuildError(f"the sandbox for the build cannot be entered: {said or 'its PID 1 printed nothing'}", code="sandbox_failed")
    return Sandbox(int(pid), merged, uppers, frozenset(hidden))


def upper_of(uppers: Mapping[str, Path], path: str) -> tuple[str, Path]:
    """The path of the filesystem that contains ``path``, and its upper folder."""
    holding = max((top for top in uppers if not top or path == top or path.startswith(top + "/")), key=len)
    return holding, uppers[holding]


def _hide(root: Path, uppers: Mapping[str, Path], path: str) -> None:
    """Hides a path by a whiteout before the mount: in an overlay without redirect_dir, a folder of headers cannot be renamed."""
    top, upper = upper_of(uppers, path)
    inside = Path(path).relative_to(top)
    for parent in reversed(list(inside.parents)[:-1]):
        if not (upper / parent).exists():
            (upper / parent).mkdir()
            _make_like(root / top / parent, upper / parent)
    os.mknod(upper / inside, stat.S_IFCHR, os.makedev(0, 0))


def _make_like(source: Path, target: Path) -> None:
    """Copies mode, owner, times and attributes of a folder."""
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)


def _close(root: Path, runner: Runner, folder: Path, watcher: Running, init: Sequence[Running]) -> str:
    """Ends PID 1, then the watcher, which removes the sandbox; returns "", or a sentence about what could not be removed."""
    for process in init:
        process.end(_EXIT_S)
    if watcher.end(_CLEAN_S) != 0:  # for example because it was killed
        try:
            sweep(root, runner)
        except BuildError as error:
            return str(error)
    return _not_removed(folder) if folder.exists() else ""
