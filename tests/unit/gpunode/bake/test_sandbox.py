"""The sandbox: what is mounted, hidden, started, and removed. Real ones are opened in tests/lab."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.overlays import Part
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError, CommandError, UnsupportedError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import SystemRunner

from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import KVER, NEWER, OLDER

SEPARATE = "30 28 8:2 / /usr rw - xfs /dev/sda2 rw\n31 28 8:3 / /home rw - ext4 /dev/sda3 rw\n"


def folders(node: FakeNode) -> list[Path]:
    return list((node.root / sandbox.CAPTURES).glob("*"))


def test_overlays_are_mounted_with_our_options_and_the_rest_only_to_be_read() -> None:
    folder = Path("/var/lib/gpu-prebake/captures/1-a")
    options = "metacopy=off,redirect_dir=off,index=off"
    assert sandbox.mount_argv(Path("/"), folder, 0, Part("/", True)) == [
        *("mount", "-t", "overlay", "gpu-prebake", "-o"),
        f"{options},lowerdir=/,upperdir={folder}/upper/0,workdir={folder}/work/0",
        f"{folder}/merged",
    ]
    assert sandbox.mount_argv(Path("/"), folder, 2, Part("/usr", True))[-2:] == [
        f"{options},lowerdir=/usr,upperdir={folder}/upper/2,workdir={folder}/work/2",
        f"{folder}/merged/usr",
    ]
    assert sandbox.mount_argv(Path("/"), folder, 1, Part("/home", False)) == ["mount", "-o", "bind,ro", "/home", f"{folder}/merged/home"]


def test_each_filesystem_has_an_upper_folder_like_the_one_below_it(node: FakeNode) -> None:
    node.put("proc/self/mountinfo", node.mountinfo + SEPARATE)
    (node.root / "home").mkdir()
    (node.root / "usr").chmod(0o751)
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1") as opened:
        assert sorted(opened.uppers) == ["", "usr"]
        assert stat.S_IMODE(opened.uppers["usr"].stat().st_mode) == 0o751
        assert opened.pid == node.sandbox_pid
        points = [argv[-1].partition("/merged")[2] for argv in node.called("mount")]
        assert points == ["", "/home", "/usr"]
        assert stat.S_IMODE((node.root / sandbox.CAPTURES).stat().st_mode) == 0o700
    assert folders(node) == []


def test_other_kernels_headers_are_out_of_sight_and_the_real_ones_stay(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    node.add_kernel(OLDER)
    node.put("proc/self/mountinfo", node.mountinfo + SEPARATE)
    (node.root / f"usr/lib/modules/{NEWER}").chmod(0o711)
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1") as opened:
        assert opened.hidden == {f"usr/lib/modules/{NEWER}/build", f"usr/lib/modules/{OLDER}/build"}
        for kver in (NEWER, OLDER):
            status = (opened.uppers["usr"] / f"lib/modules/{kver}/build").lstat()
            assert stat.S_ISCHR(status.st_mode)
            assert status.st_rdev == os.makedev(0, 0)
        assert stat.S_IMODE((opened.uppers["usr"] / f"lib/modules/{NEWER}").stat().st_mode) == 0o711
        assert list(opened.uppers[""].iterdir()) == []
    assert (node.root / f"usr/lib/modules/{NEWER}/build/Makefile").is_file()


@pytest.mark.parametrize("number", [0, 1])
def test_a_mount_that_fails_is_reported_and_what_was_mounted_is_removed(node: FakeNode, number: int) -> None:
    node.put("proc/self/mountinfo", node.mountinfo + SEPARATE)
    replies = [Reply()] * number + [Reply(32, err="mount: wrong fs type\n")] + [Reply()] * 3
    node.programs["mount"] = lambda node, words: replies.pop(0)
    with pytest.raises(BuildError, match=r"cannot be mounted.*wrong fs type") as caught, sandbox.opened(node.root, node, KVER, "x"):
        raise AssertionError("never entered")
    assert caught.value.code == "sandbox_failed"
    assert folders(node) == []


def test_a_pid_1_that_does_not_start_is_reported(node: FakeNode) -> None:
    node.sandbox_says = "mount: permission denied"
    with pytest.raises(BuildError, match="cannot be entered: mount: permission denied"), sandbox.opened(node.root, node, KVER, "x"):
        raise AssertionError("never entered")
    assert folders(node) == []


def test_a_failure_inside_is_what_the_caller_sees(node: FakeNode) -> None:
    with pytest.raises(ZeroDivisionError), sandbox.opened(node.root, node, KVER, "x"):
        raise ZeroDivisionError
    assert folders(node) == []


def test_a_killed_watchers_work_is_done_here(node: FakeNode) -> None:
    node.watcher_dies = True
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1"):
        assert len(folders(node)) == 1
    assert len(node.called("flock", "-o", "-w")) == 1
    assert folders(node) == []


def test_a_sandbox_that_cannot_be_removed_is_an_error(node: FakeNode) -> None:
    node.watcher_dies = True
    node.programs["flock"] = lambda node, words: Reply(1)
    with (
        pytest.raises(BuildError, match="cannot be removed: find what uses it") as caught,
        sandbox.opened(node.root, node, KVER, "x"),
    ):
        pass
    assert caught.value.code == "sandbox_left"


def test_the_next_run_removes_what_killed_ones_left(node: FakeNode) -> None:
    for name in ("1-a", "2-b"):
        node.put(f"{sandbox.CAPTURES}/{name}/container", "gpuprebuild-1")
    assert sandbox.sweep(node.root, node) == ("1-a", "2-b")
    assert folders(node) == []
    assert sandbox.sweep(node.root, node) == ()


def test_apts_timers_are_stopped_for_the_time(node: FakeNode) -> None:
    node.programs["systemctl"] = lambda node, words: Reply(3 if words[-1] == "apt-daily.timer" else 0)
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1"):
        assert node.called("systemctl", "stop") == [["systemctl", "stop", "apt-daily-upgrade.timer"]]
        (folder,) = folders(node)
        assert (folder / "timers").read_text() == "apt-daily-upgrade.timer", "the watcher starts these again"


def test_without_systemd_there_are_no_timers(node: FakeNode) -> None:
    node.missing_programs.add("systemctl")
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1"):
        assert node.called("systemctl", "stop") == []


def test_an_ostree_system_is_refused_by_name(node: FakeNode) -> None:
    sandbox.require(node.root)
    node.put("run/ostree-booted")
    with pytest.raises(UnsupportedError, match="ostree"):
        sandbox.require(node.root)


# --- the clean-up script, run for real --------------------------------------------------------------------------------


@pytest.mark.subprocess
def test_the_watcher_works_when_its_input_ends_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake ctr and a fake systemctl first on the PATH; nothing is mounted."""
    log, folder = tmp_path / "log", tmp_path / "captures/1-a"
    # A bake that finds no folder of another one takes a timer that is stopped for its owner's choice.
    there = f'[ ! -d {folder} ] || echo "the folder is still there" >> {log}'
    for name, text in (("ctr", 'case "$*" in *"containers ls"*) echo gpuprebuild-10; echo gpuprebuild-1;; esac'), ("systemctl", there)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{text}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "LOCK", str(tmp_path / "lock"))
    (folder / "upper").mkdir(parents=True)
    (folder / "container").write_text("gpuprebuild-1")
    (folder / "timers").write_text("a.timer b.timer")
    watcher = SystemRunner().start(sandbox.watch_argv(folder))
    assert watcher.line(0.3) == ""
    assert folder.exists()
    assert watcher.end(30) == 0
    assert not folder.exists()
    assert log.read_text().splitlines() == [
        "ctr -n k8s.io containers ls -q",
        "ctr -n k8s.io tasks kill -a -s SIGKILL gpuprebuild-1",
        "ctr -n k8s.io tasks rm -f gpuprebuild-1",
        "ctr -n k8s.io containers rm gpuprebuild-1",
        "ctr -n k8s.io snapshots rm gpuprebuild-1",
        "systemctl start a.timer b.timer",
        "the folder is still there",
    ]
    with pytest.raises(CommandError):
        SystemRunner().start(["no-such-program-here"])
