"""Blacklisting the kernel's own drivers, nouveau and Nova: for each one file of modprobe.d(5) in the image and in each initramfs, the only
files of ours outside the store.

Without it udev binds such a driver to the GPU before a node can decide anything (D18). The state is read from the image each time and never
recorded, so a bake that was killed between file and initramfs is completed by the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from .initramfs import Listing

VARIABLE = "nvidia_prebake_blacklist_nouveau"
_HEAD = f"# Written by a bake of gpu-prebake. {VARIABLE}: false makes a later bake take it away.\n"


@dataclass(frozen=True)
class Blacklist:
    """What keeps one driver out: ``text`` in the file ``path``. Below a kernel's modules, ``folder`` has the driver's ``module``; its file
    may have dashes in its name."""

    module: str
    folder: str
    path: str
    text: str

    @property
    def name(self) -> str:
        return Path(self.path).name

    def is_module(self, file: str) -> bool:
        """Whether a file name is that of its module, compressed or not."""
        stem, dot, ending = file.partition(".")
        return stem.replace("-", "_") == self.module and f"{dot}{ending}" in (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


NOUVEAU = Blacklist(
    "nouveau", "kernel/drivers/gpu/drm/nouveau", footprint.NOUVEAU, f"{_HEAD}blacklist nouveau\noptions nouveau modeset=0\n"
)
NOVA = Blacklist("nova_core", "kernel/drivers/gpu/nova-core", footprint.NOVA, f"{_HEAD}blacklist nova_core\n")
BLACKLISTS = (NOUVEAU, NOVA)
PATH, TEXT = NOUVEAU.path, NOUVEAU.text
ABSENT, OURS, CHANGED = "absent", "ours", "changed"
# The folders that modprobe reads, and from which an initramfs has copies; of two files with one name the first counts.
_FOLDERS = ("etc/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d")
_NOTHING = ("/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false")


@dataclass(frozen=True)
class Found:
    """The state of an image as to one driver. ``kernels`` have its module; ``own`` is the state of our file; ``others`` are files that
    blacklist it and are neither ours nor a layer's; ``scraps`` are temporary files of a killed write. ``images`` has, by kernel, the names
    of the files of modprobe.d in its initramfs; ``bare`` are kernels whose initramfs needs none; ``unseen`` are those of ``kernels`` whose
    initramfs cannot be listed."""

    of: Blacklist
    kernels: tuple[str, ...]
    own: str
    others: tuple[str, ...]
    scraps: tuple[str, ...] = ()
    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    bare: frozenset[str] = frozenset()
    unseen: tuple[str, ...] = ()

    @property
    def what_is_wrong(self) -> str:
        """Why nothing can be done, if somebody has changed our file; "" otherwise."""
        changed = f"/{self.of.path} is not what a bake writes: delete it and bake again, or rename it if it is yours"
        return changed if self.own == CHANGED else ""


@dataclass(frozen=True)
class Change:
    """What must be done. ``says`` describes the state afterwards; ``files`` are ours then; ``images`` are the kernels whose initramfs must
    be made again."""

    files: tuple[str, ...]
    says: str
    write: tuple[Blacklist, ...] = ()
    remove: tuple[Blacklist, ...] = ()
    scraps: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @property
    def is_needed(self) -> bool:
        return bool(self.write or self.remove or self.scraps or self.images)


def look(root: Path, drivers: Collection[str], runner: Runner | None = None) -> tuple[Found, ...]:
    """The state of the system at ``root``, for each driver; initramfs images are listed only with a ``runner``. ``drivers`` are the files
    of our layers. Raises CommandError."""
    kernels = installed(root)
    listings = initramfs.contents(root, runner) if runner else {}
    return tuple(_look(root, drivers, one, kernels, listings) for one in BLACKLISTS)


def _look(root: Path, drivers: Collection[str], of: Blacklist, kernels: Iterable[str], listings: Mapping[str, Listing]) -> Found:
    with_module = tuple(k for k in kernels if any(of.is_module(p.name) for p in matching(root / "lib/modules" / k / of.folder, "*.ko*")))
    unseen = () if initramfs.can_be_listed(root) else tuple(k for k in with_module if initramfs.path_of(root, k).is_file())
    return Found(
        of,
        with_module,
        _own(root, of),
        tuple(path for path in _blacklists(root, of) if path != of.path and path not in drivers),
        tuple(str(path.relative_to(root)) for path in matching((root / of.path).parent, f".{of.name}.*.tmp")),
        {kver: frozenset(_modprobe_names(listing.paths)) for kver, listing in listings.items()},
        frozenset(kver for kver, listing in listings.items() if _is_bare(listing, of)),
        unseen,
    )


def _is_bare(listing: Listing, of: Blacklist) -> bool:
    """Whether an initramfs needs no blacklist: it has no module, and dracut made it, which copies /etc/modprobe.d only for one host."""
    return listing.is_dracuts and not any(of.is_module(path.rpartition("/")[2]) for path in listing.paths)


def ours(root: Path) -> tuple[str, ...]:
    """The paths of the files that a bake wrote and nobody changed."""
    return tuple(one.path for one in BLACKLISTS if _own(root, one) == OURS)


def changed(root: Path) -> tuple[str, ...]:
    """The paths of those that somebody has changed."""
    return tuple(one.path for one in BLACKLISTS if _own(root, one) == CHANGED)


def _own(root: Path, of: Blacklist) -> str:
    """The state of our file: absent, ours, or changed."""
    file = root / of.path
    if not file.is_symlink() and not file.exists():
        return ABSENT
    return OURS if not file.is_symlink() and read_text(file) == of.text else CHANGED


def _blacklists(root: Path, of: Blacklist) -> Iterator[str]:
    seen: set[str] = set()
    for folder in _FOLDERS:
        for file in matching(root / folder, "*.conf"):
            if file.name not in seen and _forbids(read_text(file) or "", of.module):
                yield f"{folder}/{file.name}"
            seen.add(file.name)


def _forbids(text: str, module: str) -> bool:
    for line in lines(text):
        words = line.split()
        if len(words) < 2 or words[1].replace("-", "_") != module:
            continue
        if words[0] == "blacklist" or (words[0] == "alias" and words[2:3] == ["off"]):
            return True
        if words[0] == "install" and words[2:3] and words[2] in _NOTHING:
            return True
    return False


def _modprobe_names(listed: Iterable[str]) -> Iterator[str]:
    for path in listed:
        folder, _slash, name = path.rpartition("/")
        if folder.rpartition("/")[2] == "modprobe.d":
            yield name


def require(found: Iterable[Found]) -> None:
    """Raises PreflightError if somebody has changed a file of ours, which can then neither be relied on nor overwritten."""
    for wrong in filter(None, (one.what_is_wrong for one in found)):
        raise PreflightError(wrong, code="nouveau_file_changed")


def decide(found: Sequence[Found], wanted: bool) -> Change:
    """What a bake must do about these drivers, and what a seal refuses if it was not done. Pure."""
    changes = [_decide(one, wanted) for one in found]
    says = "; ".join(change.says for one, change in zip(found, changes) if one.kernels)
    return Change(
        tuple(path for change in changes for path in change.files),
        says or f"no installed kernel has a module of {' or '.join(one.of.module for one in found)}: nothing is written",
        tuple(one for change in changes for one in change.write),
        tuple(one for change in changes for one in change.remove),
        tuple(path for change in changes for path in change.scraps),
        tuple(dict.fromkeys(kver for change in changes for kver in change.images)),
    )


def _decide(found: Found, wanted: bool) -> Change:
    of = found.of
    stale = tuple(kver for kver, names in found.images.items() if of.name in names)
    if not wanted or not found.kernels:
        says = (
            f"{of.module} is not blacklisted by us ({VARIABLE} is false): a boot unloads it if nothing uses it, and otherwise asks for a "
            "reboot"
            if found.kernels
            else f"no installed kernel has a module of {of.module}"
        )
        return Change((), says, remove=(of,) if found.own == OURS else (), scraps=found.scraps, images=stale)
    theirs = found.own == ABSENT and bool(found.others)
    files = found.others if theirs else (of.path,)
    names = {Path(path).name for path in files}
    seen = [kver for kver in found.kernels if kver in found.images and kver not in found.bare]
    lacking = tuple(kver for kver in seen if not names & found.images[kver])
    where = f"; whether also in the initramfs of {', '.join(found.unseen)} is unknown without {initramfs.LISTERS}" if found.unseen else ""
    says = f"{of.module} is blacklisted by {', '.join('/' + path for path in files)}{where or ', also in every initramfs'}"
    if theirs:
        return Change((), f"{says}; that file is not ours, so no second one is written", scraps=found.scraps, images=lacking)
    return Change(files, says, write=(of,) if found.own == ABSENT else (), scraps=found.scraps, images=lacking)


def problems(found: Iterable[Found], wanted: bool) -> tuple[str, ...]:
    """Where an image differs from what was chosen (``wanted``), each with what to do; empty if it does not."""
    return tuple(problem for one in found for problem in _problems(one, wanted))


def _problems(found: Found, wanted: bool) -> tuple[str, ...]:
    if found.what_is_wrong:
        return (found.what_is_wrong,)
    path, change = found.of.path, _decide(found, wanted)
    said = [f"/{scrap}: left by a bake that was killed: bake again" for scrap in change.scraps]
    if change.write:
        kernels = ", ".join(found.kernels)
        said.append(f"/{path}: missing, and kernel {kernels} has a {found.of.module} module: bake again, or set {VARIABLE}: false")
    if change.remove:
        said.append(f"/{path}: must not be here ({change.says}): bake again with this setting")
    what = f"lacks /{(*change.files, *found.others)[0]}" if wanted and found.kernels else f"contains /{path}"
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
        with events.step("blacklist-nouveau", file=", ".join(change.files), initramfs=list(change.images)):
            _write(root, change)
            for number, kver in enumerate(change.images, 1):
                events.say(f"making the initramfs of {kver} again, {number} of {len(change.images)}")
                begun.append(kver)
                initramfs.regenerate(runner, kver)
            _check(root, decide(look(root, drivers, runner), wanted))
        yield change
    except BaseException:
        events.say("restoring the blacklists of the kernel's own drivers as they were before")
        _put_back(root, runner, change, begun, events)
        raise


def _write(root: Path, change: Change) -> None:
    for path in change.scraps:
        remove_durably(root / path)
    for one in change.write:
        (root / one.path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(root / one.path, one.text)
    for one in change.remove:
        remove_durably(root / one.path)


def _check(root: Path, left: Change) -> None:
    if left.images:
        raise BuildError(
            f"update-initramfs succeeded, but did not change /boot/initrd.img-{left.images[0]}: {_advice(root, left)}, or set "
            f"{VARIABLE}: false",
            code="initramfs_unchanged",
        )


def _advice(root: Path, left: Change) -> str:
    """What makes an initramfs follow the image's blacklist, by the tool that makes it."""
    if initramfs.is_by_dracut(root):
        files = " ".join(f"/{path}" for path in left.files) or "the file that blacklists it"
        return f'dracut copies /etc/modprobe.d only with hostonly="yes"; add install_items+=" {files} " to a file in /etc/dracut.conf.d'
    return "look for update_initramfs=no in /etc/initramfs-tools/update-initramfs.conf"


def _put_back(root: Path, runner: Runner, change: Change, begun: Iterable[str], events: Events) -> None:
    for one in change.write:
        remove_durably(root / one.path)
    for one in change.remove:
        write_atomic(root / one.path, one.text)
    for kver in begun:
        try:
            initramfs.regenerate(runner, kver)
        except CommandError as error:  # update-initramfs writes beside the image, which is then unchanged
            events.say(str(error))
