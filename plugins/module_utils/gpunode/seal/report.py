"""What a seal found: its report, which stays in the image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..paths import SEAL_REPORT, STORE
from ..util import files, jsondoc, trust

SCHEMA = 2


@dataclass
class Report:
    """What was found. ``in_place`` are the layers that are meant to be live; ``kernels`` are all installed kernels, ``covered`` those with
    a layer; ``refusals`` say why the image must not ship, ``notes`` what else to know; ``replayed`` are all decisions, ``secure_boot`` that
    of each layer for a node that enforces signatures and trusts its signer; ``outside_store`` are our files outside the store;
    ``images_left`` are driver images in containerd that nothing needs; ``nouveau``
    says in words what the image does about nouveau; ``summary`` says what was proven, "" after a refusal."""

    root: str
    offline: bool
    kernels: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    refusals: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    replayed: list[dict[str, str]] = field(default_factory=list)
    secure_boot: list[dict[str, str]] = field(default_factory=list)
    outside_store: list[str] = field(default_factory=list)
    images_left: list[str] = field(default_factory=list)
    nouveau: str = ""
    sealed: str = ""
    summary: str = ""

    def proven(self) -> str:
        """What was proven, in one line."""
        gpus = dict.fromkeys(replayed["gpu"] for replayed in self.replayed)
        state = "live (baked in place)" if self.in_place else "inert"
        return f"sealed: {state}, covered: {', '.join(self.covered)}, fast path for {', '.join(gpus)}"

    def refuse(self, check: str, problems: Iterable[str]) -> None:
        self.refusals += [{"check": check, "problem": problem} for problem in problems]


def write_report(root: Path, report: Report) -> None:
    """Writes the report into the store. Raises OSError."""
    files.make_private(trust.below(root, STORE))
    files.write_atomic(trust.below(root, SEAL_REPORT), jsondoc.dump({"schema": SCHEMA, **asdict(report)}), 0o600)
