"""Reads the report of an earlier bake."""

from __future__ import annotations

import json
from pathlib import Path

from ..paths import BAKE_REPORT
from ..util import files


def setuid_before(root: Path) -> tuple[str, ...]:
    """Files that were setuid or setgid before the last bake that built something, by its report; none if the report does not say."""
    try:
        said = json.loads(files.read_text(root / BAKE_REPORT) or "{}").get("setuid_before")
    except (ValueError, AttributeError):
        return ()
    return tuple(path for path in said if isinstance(path, str)) if isinstance(said, list) else ()
