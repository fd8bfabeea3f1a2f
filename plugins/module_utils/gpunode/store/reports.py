"""Reads what an earlier bake left: its report, and the journal of one that was killed."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError, PreflightError
from ..paths import BAKE_JOURNAL_OF_0_1, BAKE_REPORT
from ..util import files, jsondoc, trust


def setuid_before(root: Path) -> tuple[str, ...]:
    """Files that were setuid or setgid before the last bake that built something, by its report; none if the report does not say."""
    try:
        report = jsondoc.parse(files.read_document(trust.document(root, BAKE_REPORT)))
    except (OSError, ValueError, DataError):
        return ()
    said = report.get("setuid_before") if isinstance(report, dict) else None
    return tuple(path for path in said if isinstance(path, str)) if isinstance(said, list) else ()


def require_no_killed_bake(root: Path) -> None:
    """Raises PreflightError where a bake in place of version 0.1.0 was killed: parts of a driver are in the image, and no manifest lists
    them."""
    if trust.below(root, BAKE_JOURNAL_OF_0_1).exists():
        raise PreflightError(
            f"/{BAKE_JOURNAL_OF_0_1}: a bake in place of version 0.1.0 was killed here and left parts of a driver: start from a fresh "
            "machine",
            code="bake_unfinished",
        )
