"""Which files of a layer may be hard links to their objects in the store.

A hard link shares mode, owner and contents in both directions. So only the large files that nobody writes to are linked (rule R12).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from ..system.tree import Entry
from ..util.expressions import expression

_PAYLOAD = expression(r".*/[^/]+\.(ko(\.(gz|xz|zst))?|so(\.[^/]+)?)|(usr/)?lib/firmware/.+")  # modules, libraries, firmware
# The closed part of the driver, which is linked into the modules. DKMS only reads it: it builds in a copy of the sources.
_BUILT_FROM = expression(r"usr/src/[^/]+/.+\.o_binary")
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_linkable(entry: Entry) -> bool:
    """Whether a file may be a hard link to its object: as its document says, or else by the rule of 0.1.0, whose documents do not say."""
    if entry.linked is not None:
        return entry.linked
    return bool(_PAYLOAD.fullmatch(entry.path)) and _is_plain(entry)


def may_be_linked(entry: Entry) -> bool:
    """The same for a file that a bake has just described, and whose manifest is to say it."""
    return bool(_PAYLOAD.fullmatch(entry.path) or _BUILT_FROM.fullmatch(entry.path)) and _is_plain(entry)


def linked_paths(entries: Iterable[Entry]) -> list[str]:
    """The paths of the files among ``entries`` that may be linked, as a document lists them."""
    return [entry.path for entry in entries if is_linkable(entry)]


def _is_plain(entry: Entry) -> bool:
    return entry.uid == os.geteuid() and is_safe(entry)


def is_safe(entry: Entry) -> bool:
    """Whether an entry is a file to which only its owner may write, and which has no other rights. The owner must be the store's, root."""
    return entry.type == "file" and not entry.mode & (_SPECIAL | _WRITABLE_BY_OTHERS) and not entry.attributes
