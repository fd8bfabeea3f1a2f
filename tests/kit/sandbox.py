"""The fake node's sandbox: its overlays by copying, its two background programs, and the programs that set it up."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STORE

from tests.kit.reply import Reply

if TYPE_CHECKING:
    from tests.kit.node import FakeNode


@dataclass(frozen=True)
class FakeOverlay:
    """An overlay by copying: ``merged`` begins as a copy of ``lower``; ``sync`` writes into ``upper`` what differs by then.

    ``copied_up`` are paths that are copied up without a change, as a real overlay does for some.
    """

    lower: Path
    upper: Path
    merged: Path
    copied_up: list[str] = field(default_factory=list)

    def mount(self, store: Path) -> None:
        def ignored(folder: str, names: list[str]) -> list[str]:
            return [name for name in names if Path(folder, name) == store]

        for path in self.merged.iterdir():
            self._remove(path)
        shutil.copytree(self.lower, self.merged, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        for path in self.upper.rglob("*"):
            if stat.S_ISCHR(path.lstat().st_mode):
                self._remove(self.merged / path.relative_to(self.upper))

    def sync(self, others: Collection[Path] = ()) -> None:
        """``others`` are the merged folders of the other overlays; changes below them are theirs."""
        for path in sorted(self.merged.rglob("*")):
            inside = path.relative_to(self.merged)
            if any(path.is_relative_to(other) and other != path and not self.merged.is_relative_to(other) for other in others):
                continue
            if str(inside) in self.copied_up or self._differs(path, self.lower / inside):
                self._copy_up(inside)
        for path in sorted(self.lower.rglob("*")):
            inside = path.relative_to(self.lower)
            if any((self.merged / inside).is_relative_to(other) and not self.merged.is_relative_to(other) for other in others):
                continue
            above = self.merged / inside.parent
            is_seen = above.is_symlink() or not above.is_dir() or str(inside).startswith(STORE)
            if not is_seen and not os.path.lexists(self.merged / inside):
                self._parents(inside)
                self._remove(self.upper / inside)
                os.mknod(self.upper / inside, stat.S_IFCHR, os.makedev(0, 0))

    def _differs(self, path: Path, other: Path) -> bool:
        if not os.path.lexists(other):
            return True
        one, two = path.lstat(), other.lstat()
        if one.st_mode != two.st_mode:
            return True
        if stat.S_ISLNK(one.st_mode):
            return path.readlink() != other.readlink()
        return stat.S_ISREG(one.st_mode) and path.read_bytes() != other.read_bytes()

    def _copy_up(self, inside: Path) -> None:
        self._parents(inside)
        source, target = self.merged / inside, self.upper / inside
        if source.is_dir() and not source.is_symlink():
            if target.exists() and not target.is_dir():
                target.unlink()
            target.mkdir(exist_ok=True)
            target.chmod(source.stat().st_mode & 0o7777)
            return
        self._remove(target)
        if stat.S_ISFIFO(source.lstat().st_mode):
            os.mkfifo(target)
        else:
            shutil.copy2(source, target, follow_symlinks=False)

    def _parents(self, inside: Path) -> None:
        for parent in reversed(list(inside.parents)[:-1]):
            if not (self.upper / parent).is_dir():
                (self.upper / parent).unlink(missing_ok=True)
                (self.upper / parent).mkdir()
            (self.upper / parent).chmod((self.merged / parent).stat().st_mode & 0o7777)

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class FakeRunning:
    """A background program that prints one line; ``at_end`` is called when its input ends; with None it was killed."""

    def __init__(self, says: str = "", at_end: Callable[[], None] | None = lambda: None) -> None:
        self.says = says
        self.at_end = at_end

    def line(self, timeout_s: float) -> str:
        return self.says

    def end(self, timeout_s: float) -> int | None:
        if self.at_end is None:
            return -9
        self.at_end()
        return 0


def take_away(node: FakeNode, folder: str) -> None:
    """What the sandbox's watcher does at its end: unmounts the overlays below ``folder`` and removes it."""
    node.overlays = [overlay for overlay in node.overlays if not overlay.merged.is_relative_to(folder)]
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):
        Path(folder).parent.rmdir()


def flock(node: FakeNode, words: list[str]) -> Reply:
    take_away(node, words[-1])
    return Reply()


def mount(node: FakeNode, words: list[str]) -> Reply:
    if words[:2] == ["-t", "overlay"]:
        options = dict(option.split("=") for option in words[4].split(","))
        overlay = FakeOverlay(Path(options["lowerdir"]), Path(options["upperdir"]), Path(words[-1]))
        overlay.mount(node.root / STORE)
        node.overlays.append(overlay)
    return Reply()


def nsenter(node: FakeNode, words: list[str]) -> Reply:
    assert words[:3] == ["-t", str(node.sandbox_pid), "-m"], words
    assert words[3] == "depmod", words
    with node.in_sandbox(node.overlays[0].merged):
        modules = sorted(str(p) for p in (node.root / "lib/modules" / words[4]).glob("updates/**/*.ko"))
        node.put(f"usr/lib/modules/{words[4]}/modules.dep", "".join(f"{Path(m).name}:\n" for m in modules))
    return Reply()
