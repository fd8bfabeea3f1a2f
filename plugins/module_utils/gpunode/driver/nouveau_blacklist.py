"""Blacklisting nouveau: one file of modprobe.d(5) in the image and in each initramfs, the only one of ours outside the store.

Without it udev binds nouveau to the GPU before a node can decide anything (D18). The state is read from the image each time and never
recorded, so a bake that was killed between file and initramfs is completed by the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BuildError, CommandError, PreflightError
from ..system.kernels import installed
from ..util.bounded import lines
from ..util.events import Events
from ..util.files import read_text, remove_durably, write_atomic
from ..util.folders import matching
from ..util.run import Runner
from . import footprint, initramfs

PATH = footprint.NOUVEAU
VARIABLE = "nvidia_prebake_blacklist_nouveau"
TEXT = f"""\
# Written by a bake of gpu-prebake. {VARIABLE}: false makes a later bake take it away.
blacklist nouveau
options nouveau modeset=0
"""
ABSENT, OURS, CHANGED = "absent", "ours", "changed"
_CHANGED = f"/{PATH} is not what a bake writes: delete it and bake again, or rename it if it is yours"
_NAME = Path(PATH).name
_MODULE = "kernel/drivers/gpu/drm/nouveau"
# The folders that modprobe reads, and from which an initramfs has copies; of two files with one name the first counts.
_FOLDERS = ("etc/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d")
_NOTHING = ("/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false")


@dataclass(frozen=True)
class Found:
    """The state of an image. ``kernels`` have a nouveau module; ``own`` is the state of our file; ``others`` are files that blacklist
    nouveau and are neither ours nor a layer's; ``scraps`` are temporary files of a killed write. ``images`` has, by kernel, the names of
    the files of modprobe.d in its initramfs; ``unseen`` are those of ``kernels`` whose initramfs cannot be listed."""

    kernels: tuple[str, ...]
    own: str
    others: tuple[str, ...]
    scraps: tuple[str, ...] = ()
    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What must be done. ``says`` describes the state afterwards; ``file`` is our file then, or ""; ``images`` are the kernels whose
    initramfs must be made again."""

    file: str
    says: str
    write: bool = False
    remove: bool = False
    scraps: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @property
    def is_needed(self) -> bool:
        return bool(self.write or self.remove or self.scraps or self.images)


def look(root: Path, drivers: Collection[str], runner: Runner | None = None) -> Found:
    """The state of the system at ``root``; initramfs images are listed only with a ``runner``. ``drivers`` are the files of our layers.
    Raises CommandError."""
    with_nouveau = tuple(kver for kver in installed(root) if matching(root / "lib/modules" / kver / _MODULE, "nouveau.ko*"))
    images = initramfs.contents(root, runner) if runner else {}
    return Found(
        with_nouveau,
        own(root),
        tuple(path for path in _blacklists(root) if path != PATH and path not in drivers),
        tuple(str(path.relative_to(root)) for path in matching((root / PATH).parent, f".{_NAME}.*.tmp")),
        {kver: frozenset(_modprobe_names(listed)) for kver, listed in images.items()},
        () if initramfs.can_be_listed(root) else tuple(k for k in with_nouveau if initramfs.path_of(root, k).is_file()),
    )


def own(root: Path) -> str:
    """The state of our file: absent, ours, or changed."""
    file = root / PATH
    if not file.is_symlink() and not file.exists():
        return ABSENT
    return OURS if not file.is_symlink() and read_text(file) == TEXT else CHANGED


def _blacklists(root: Path) -> Iterator[str]:
    seen: set[str] = set()
    for folder in _FOLDERS:
        for file in matching(root / folder, "*.conf"):
            if file.name not in seen and _forbids_nouveau(read_text(file) or ""):
                yield f"{folder}/{file.name}"
            seen.add(file.name)


def _forbids_nouveau(text: str) -> bool:
    for line in lines(text):
        words = line.split()
        if words[:2] == ["blacklist", "nouveau"] or words[:3] == ["alias", "nouveau", "off"]:
            return True
        if words[:2] == ["install", "nouveau"] and words[2:3] and words[2] in _NOTHING:
            return True
    return False


def _modprobe_names(listed: Iterable[str]) -> Iterator[str]:
    for path in listed:
        folder, _slash, name = path.rpartition("/")
        if folder.rpartition("/")[2] == "modprobe.d":
            yield name


def require(found: Found) -> None:
    """Raises PreflightError if somebody has changed our file, which can then neither be relied on nor overwritten."""
    if found.own == CHANGED:
        raise PreflightError(_CHANGED, code="nouveau_file_changed")


def decide(found: Found, wanted: bool) -> Change:
    """What a bake must do about nouveau, and what a seal refuses if it was not done. Pure."""
    stale = tuple(kver for kver, names in found.images.items() if _NAME in names)
    if not wanted or not found.kernels:
        says = (
            f"nouveau is not blacklisted by us ({VARIABLE} is false): a boot unloads it if nothing uses it, and otherwise asks for a reboot"
            if found.kernels
            else "no installed kernel has a nouveau module: nothing is written"
        )
        return Change("", says, remove=found.own == OURS, scraps=found.scraps, images=stale)
    theirs = found.own == ABSENT and bool(found.others)
    files = found.others if theirs else (PATH,)
    names = {Path(path).name for path in files}
    lacking = tuple(kver for kver in found.kernels if kver in found.images and not names & found.images[kver])
    where = f"; whether also in the initramfs of {', '.join(found.unseen)} is unknown without lsinitramfs" if found.unseen else ""
    says = f"nouveau is blacklisted by {', '.join('/' + path for path in files)}{where or ', also in every initramfs'}"
    if theirs:
        return Change("", f"{says}; that file is not ours, so no second one is written", scraps=found.scraps, images=lacking)
    return Change(PATH, says, write=found.own == ABSENT, scraps=found.scraps, images=lacking)


def problems(found: Found, wanted: bool) -> tuple[str, ...]:
    """Where an image differs from what was chosen (``wanted``), each with what to do; empty if it does not."""
    if found.own == CHANGED:
        return (_CHANGED,)
    change = decide(found, wanted)
    said = [f"/{path}: left by a bake that was killed: bake again" for path in change.scraps]
    if change.write:
        said.append(f"/{PATH}: missing, and kernel {', '.join(found.kernels)} has a nouveau module: bake again, or set {VARIABLE}: false")
    if change.remove:
        said.append(f"/{PATH}: must not be here ({change.says}): bake again with this setting")
    what = f"lacks /{change.file or found.others[0]}" if wanted and found.kernels else f"contains /{PATH}"
    return (*said, *(f"/boot/initrd.img-{kver}: {what}: run update-initramfs -u -k {kver}" for kver in change.images))


def required_change(root: Path, runner: Runner, wanted: bool, drivers: Collection[str]) -> Change:
    """What must be done for the choice ``wanted``. Raises CommandError, PreflightError."""
    found = look(root, drivers, runner)
    require(found)
    return decide(found, wanted)


@contextlib.contextmanager
def carried_out(root: Path, runner: Runner, wanted: bool, drivers: Collection[str], events: Events) -> Iterator[Change]:
    """Carries out the choice before the body; if that or the body fails, restores the state before.

    Raises BuildError, CommandError, PreflightError.
    """
    change = required_change(root, runner, wanted, drivers)
    if not change.is_needed:
        yield change
        return
    begun: list[str] = []
    try:
        with events.step("blacklist-nouveau", file=change.file, initramfs=list(change.images)):
            _write(root, change)
            for number, kver in enumerate(change.images, 1):
                events.say(f"making the initramfs of {kver} again, {number} of {len(change.images)}")
                begun.append(kver)
                initramfs.regenerate(runner, kver)
            _check(decide(look(root, drivers, runner), wanted))
        yield change
    except BaseException:
        events.say("restoring nouveau's blacklist as it was before")
        _put_back(root, runner, change, begun, events)
        raise


def _write(root: Path, change: Change) -> None:
    for path in change.scraps:
        remove_durably(root / path)
    if change.write:
        (root / PATH).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(root / PATH, TEXT)
    elif change.remove:
        remove_durably(root / PATH)


def _check(left: Change) -> None:
    if left.images:
        raise BuildError(
            f"update-initramfs succeeded, but did not change /boot/initrd.img-{left.images[0]}: look for update_initramfs=no in "
            f"/etc/initramfs-tools/update-initramfs.conf, or set {VARIABLE}: false",
            code="initramfs_unchanged",
        )


def _put_back(root: Path, runner: Runner, change: Change, begun: Iterable[str], events: Events) -> None:
    if change.write:
        remove_durably(root / PATH)
    elif change.remove:
        write_atomic(root / PATH, TEXT)
    for kver in begun:
        try:
            initramfs.regenerate(runner, kver)
        except CommandError as error:  # update-initramfs writes beside the image, which is then unchanged
            events.say(str(error))
