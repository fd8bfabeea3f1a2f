"""containerd's configuration (containerd-config.toml(5)): what ``config.toml`` imports, and whether two dumps of it say the same.

Two dumps are compared, and imports looked for, in texts: the decision does so too.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from pathlib import Path

from ..util import toml
from ..util.files import read_if_there
from .leftovers import DROPIN

MAIN = "etc/containerd/config.toml"
_PARSED, _TEXT = "parsed:", "text:"


def fingerprint(dump: str) -> str:
    """What two dumps of one configuration have in common. containerd lists the files that it imports in random order, and merges them by
    their names; so that list does not count, and all other order does. A dump that cannot be parsed is compared as text."""
    try:
        found = toml.parse(dump)
    except ValueError:
        return _TEXT + _sha256(dump)
    found.pop("imports", None)
    return _PARSED + _sha256(json.dumps(found, sort_keys=True, default=repr))


def is_comparable(recorded: str) -> bool:
    """Whether a recorded text is a fingerprint. Version 0.1.0 recorded the hash of a dump, from which nothing can be told."""
    return recorded.startswith((_PARSED, _TEXT))


def read_main(root: Path) -> str | None:
    """The text of the main configuration; "" if there is none, None if it cannot be read."""
    try:
        return read_if_there(root / MAIN)
    except OSError:
        return None


def imports_dropin(main: str | None) -> bool | None:
    """Whether the main configuration imports the runtime drop-in, without which that has no effect (docs/contract.md). None if that cannot
    be told: the file cannot be read, or is not TOML."""
    if main is None:
        return None
    if "imports" not in main and "\\" not in main:  # without an escape, a key is written as it is
        return False
    try:
        listed = toml.parse(main).get("imports")
    except ValueError:
        return None
    return any(isinstance(one, str) and _covers(one) for one in listed) if isinstance(listed, list) else False


def why_no_runtime(main: str | None) -> str:
    """A warning for a main configuration with which containerd will not, or may not, have the runtime "nvidia"; "" if it will."""
    imports = imports_dropin(main)
    if imports is None:
        return f'/{MAIN} cannot be read as TOML, so it cannot be told whether containerd will have the runtime "nvidia"'
    if imports:
        return ""
    return (
        f'containerd will not have the runtime "nvidia": /{MAIN} does not import config.d; '
        'in the image build, add imports = ["/etc/containerd/config.d/*.toml"] to it'
    )


def _covers(imported: str) -> bool:
    """Whether an import, a path or a pattern as Go's filepath.Match has it, is of the drop-in. A relative one begins at the main file."""
    path = posixpath.normpath(posixpath.join("/", posixpath.dirname(MAIN), imported))
    if "*" not in path:
        return path == f"/{DROPIN}"
    whole = "".join({"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)) for part in re.split(r"([*?])", path))
    return bool(re.fullmatch(whole, f"/{DROPIN}"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
