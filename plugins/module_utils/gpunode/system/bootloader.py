"""Which kernel the boot loader starts by default: read from GRUB's own files, never guessed from version numbers (B3).

Formats: grub.cfg as grub-mkconfig writes it (GRUB manual, "Writing full configuration files"), the environment block grubenv (GRUB manual,
"The GRUB environment block"), /etc/default/grub and its drop-ins (GRUB manual, "Simple configuration handling").
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import read_if_there, read_text
from ..util.folders import matching

CONFIG = "boot/grub/grub.cfg"
ENVIRONMENT = "boot/grub/grubenv"
DEFAULTS = "etc/default/grub"
_CUSTOM = "boot/grub/custom.cfg"
# Commands that make entries from other files (GRUB 2.14 has uki in its module blsuki), and those outside of an entry that replace the menu
# or boot at once.
_MAKES_ENTRIES = {"blscfg", "uki", "blsuki", "bls_import"}
_CONFIGFILES = {"configfile", "legacy_configfile", "extract_entries_configfile", "extract_legacy_entries_configfile"}
_LEAVES = {*_CONFIGFILES, "normal", "boot", "source", "."}
_SEPARATORS = expression(r";|&&|\|\|")
_KEYWORDS = {"if", "then", "elif", "else", "while", "until", "do", "!"}
_SET_DEFAULT = expression(r'\s*set\s+default=(?:"([^"]*)"|(\S*))\s*$')
_GRUB_DEFAULT = expression(r"""\s*GRUB_DEFAULT=["']?([^"'\n]*)""")
_NUMBER = expression(r"\s*(?:0x([0-9A-Fa-f]{1,16})|(0[0-7]{1,22})|([0-9]{1,20}))", re.ASCII)
_LINUX = expression(r"linux(?:16|efi)?\s+(\S+)")


@dataclass
class Entry:
    """A ``menuentry`` (with the kernel's release, if it boots one) or a ``submenu`` (with its entries)."""

    title: str
    name: str
    is_submenu: bool
    kver: str = ""
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class BootChoice:
    """The release that boots by default, "" if that is unknown; ``reason`` says by which entry, or why it is unknown."""

    kver: str
    reason: str
    warnings: tuple[str, ...] = ()


def default_kernel(root: Path) -> BootChoice:
    """The kernel that the boot loader of the system at ``root`` starts by default."""
    try:
        text, custom, saved = (read_if_there(root / path) for path in (CONFIG, _CUSTOM, ENVIRONMENT))
    except OSError as error:
        return BootChoice("", f"{error.filename} cannot be read ({error.strerror})")
    if not text and not (root / CONFIG).exists():
        return BootChoice("", f"/{CONFIG} does not exist")
    elsewhere = leads_elsewhere(text) or leads_elsewhere(custom)
    if elsewhere:
        return BootChoice("", f"/{CONFIG} takes its entries from other files ({elsewhere}), which are not read")
    if "default" in custom:
        return BootChoice("", f"/{_CUSTOM} may set another default")
    environment = parse_environment(saved)
    # An older grub-reboot, and menus that save their default, keep in prev_saved_entry what boots after the next boot.
    once = next((f"{name}={environment[name]}" for name in ("next_entry", "prev_saved_entry") if environment.get(name)), "")
    if once:
        return BootChoice("", f"/{ENVIRONMENT} names another entry for the next boot only ({once})")
    asked = default_entry(text, environment)
    entries = parse_config(text)
    found = choose(entries, asked)
    if found is None:
        return BootChoice("", f"/{CONFIG} has no entry that boots a Linux kernel by default (its default is {asked or '0'!r})")
    warnings = (*_stale_warning(root, text), *_unlisted_warning(root, entries))
    return BootChoice(found.kver, f"GRUB's default entry is {found.title!r}", warnings)


def leads_elsewhere(text: str) -> str:
    """The command by which GRUB does not use the entries that stand in a file, or not these alone; "" if there is none."""
    inside = 0  # blocks around a line, of which the outermost is an entry
    for line in map(str.strip, lines(text)):
        is_entry = line.startswith(("menuentry", "submenu"))
        for words in () if is_entry else _commands(line):
            if not _MAKES_ENTRIES.isdisjoint(words[: 2 if words[0] == "insmod" else 1]):
                return " ".join(words[:2])
            if not inside and words[0] in _LEAVES and not words[-1].endswith("/custom.cfg"):
                return " ".join(words[:2])
        if line.endswith("{"):
            inside += bool(inside or is_entry)
        elif line == "}":
            inside -= bool(inside)
    return ""


def _commands(line: str) -> Iterator[list[str]]:
    """The commands on a line, as words."""
    for part in _SEPARATORS.split("" if line.startswith("#") else line):
        words = part.split()
        while words and words[0] in _KEYWORDS:
            del words[0]
        if words:
            yield words


def parse_environment(text: str) -> dict[str, str]:
    """The variables of an environment block: ``name=value`` lines, padded with ``#``."""
    return dict(line.split("=", 1) for line in lines(text) if "=" in line and not line.startswith("#"))


def default_entry(text: str, environment: dict[str, str]) -> str:
    """The value of ``default`` when no entry is set for the next boot only: the last ``set default`` that does not use next_entry."""
    values = [match[1] or match[2] or "" for match in map(_SET_DEFAULT.match, lines(text)) if match]
    chosen = [value for value in values if "next_entry" not in value]
    value = chosen[-1] if chosen else ""
    return re.sub(r"\$\{?saved_entry\}?", lambda _: environment.get("saved_entry", ""), value)


def parse_config(text: str) -> list[Entry]:
    """The menu of a grub.cfg: entries in order, submenus with their own entries."""
    top = Entry("", "", True)
    stack: list[tuple[Entry | None, Entry]] = [(top, top)]  # each block, None if it is no entry, and the innermost entry around it
    for line in map(str.strip, lines(text)):
        current, menu = stack[-1]
        if line.endswith("{"):
            opened = _opened(line)
            if opened:
                menu.entries.append(opened)
            stack.append((opened, opened or menu))
        elif line == "}" and len(stack) > 1:
            stack.pop()
        elif current and not current.is_submenu and not current.kver:
            current.kver = _release(line)
    return top.entries


def _opened(line: str) -> Entry | None:
    if not line.startswith(("menuentry", "submenu")):
        return None
    try:
        words = shlex.split(line[:-1])
    except ValueError:
        return None
    if len(words) < 2 or words[0] not in ("menuentry", "submenu"):
        return None
    # grub-mkconfig writes the id after a variable that holds --id, or nothing in a GRUB without ids.
    names = [after for before, after in zip(words, words[1:]) if before in ("--id", "$menuentry_id_option", "${menuentry_id_option}")]
    return Entry(words[1], names[0] if names else "", words[0] == "submenu")


def _release(line: str) -> str:
    match = _LINUX.match(line)
    name = match[1].rsplit("/", 1)[-1] if match else ""
    return name.partition("-")[2] if name.startswith(("vmlinuz-", "vmlinux-")) else ""


def choose(entries: list[Entry], asked: str) -> Entry | None:
    """The entry that ``default`` names: numbers from 0, ids or titles, with ``>`` between levels. Like GRUB, takes the first entry of a
    level for which ``default`` names none, or one that does not exist. None if that boots no kernel with a release in its file name."""
    level, parts = entries, asked.split(">")
    while level:
        found = _matching(level, parts.pop(0) if parts else "") or level[0]
        if not found.is_submenu:
            return found if found.kver else None
        level = found.entries
    return None


def _matching(level: list[Entry], part: str) -> Entry | None:
    number = _number(part)
    if number is not None:
        return level[number] if number < len(level) else None
    return next((entry for entry in level if part in (entry.name, entry.title)), None)


def _number(text: str) -> int | None:
    """The number that GRUB's strtoul reads: the leading digits in C's notation, whatever follows them; None if there are none. Of more
    digits than a number of GRUB's has only the first count: no menu has so many entries."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    hexadecimal, octal, decimal = match.groups()
    return int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)


def all_kernels(entries: list[Entry]) -> Iterator[str]:
    """Releases of all entries, submenus included."""
    todo = list(reversed(entries))  # no recursion: whoever writes the file decides how deep its menus are
    while todo:
        entry = todo.pop()
        if entry.kver:
            yield entry.kver
        todo += reversed(entry.entries)


def _stale_warning(root: Path, text: str) -> tuple[str, ...]:
    """grub.cfg decides what boots, but the next update-grub writes it again from /etc/default/grub."""
    wanted = ""
    for path in (root / DEFAULTS, *matching(root / f"{DEFAULTS}.d", "*.cfg")):
        for match in filter(None, map(_GRUB_DEFAULT.match, lines(read_text(path)))):
            wanted = match[1]
    in_force = default_entry(text, {"saved_entry": "saved"})
    if wanted and wanted != in_force:
        return (f"GRUB_DEFAULT is {wanted!r}, but /{CONFIG} has {in_force!r}: run update-grub before the bake",)
    return ()


def _unlisted_warning(root: Path, entries: list[Entry]) -> tuple[str, ...]:
    listed = set(all_kernels(entries))
    files = (path.name.partition("-")[2] for path in matching(root / "boot", "vmlinuz-*"))
    unlisted = sorted(kver for kver in files if kver not in listed)
    if unlisted:
        return (f"kernel {', '.join(unlisted)} is installed but not in /{CONFIG}: run update-grub before the bake",)
    return ()
