"""The request to a seal (its validated options), and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..driver.gpus import NAMES
from ..errors import InputError
from ..options import SEAL
from ..paths import SEAL_REPORT, STORE
from ..store.manifest import IN_PLACE
from ..system.kernels import choices
from ..util import files, jsondoc

SCHEMA = 1
REPORTED, FAIL = "report", "fail"


@dataclass(frozen=True)
class SealRequest:
    """``kernels`` as ``kernels.choices`` returns them; ``uncovered`` is what to do about any other bootable kernel without a layer;
    ``generations`` are the GPUs that the image is meant for, empty for all that a layer supports; ``must_be_baked`` refuses an image
    without a layer, which is otherwise not checked; ``blacklist_nouveau`` is the choice of the bake."""

    kernels: tuple[str, ...] = (SEAL["kernels"].default,)
    uncovered: str = SEAL["uncovered"].default
    generations: tuple[str, ...] = SEAL["gpu_generations"].default
    marker_path: str = SEAL["marker_path"].default
    min_free_mb: int = SEAL["min_free_mb"].default
    must_be_baked: bool = SEAL["baked"].default
    blacklist_nouveau: bool = SEAL["blacklist_nouveau"].default


@dataclass
class Report:
    """What was found. ``kernels`` are all installed kernels, ``covered`` those with a layer; ``refusals`` say why the image must not ship,
    ``notes`` what else to know; ``replayed`` are all decisions, ``secure_boot`` that of each layer for a node that enforces signatures and
    trusts its signer; ``outside_store`` are our files outside the store; ``nouveau`` says in words what the image does about nouveau;
    ``summary`` says what was proven, "" after a refusal."""

    root: str
    offline: bool
    kernels: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)
    refusals: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    replayed: list[dict[str, str]] = field(default_factory=list)
    secure_boot: list[dict[str, str]] = field(default_factory=list)
    outside_store: list[str] = field(default_factory=list)
    nouveau: str = ""
    sealed: str = ""
    summary: str = ""

    def proven(self) -> str:
        """What was proven, in one line."""
        gpus = dict.fromkeys(replayed["gpu"] for replayed in self.replayed)
        state = "live (baked in place)" if IN_PLACE in self.modes else "inert"
        return f"sealed: {state}, covered: {', '.join(self.covered)}, fast path for {', '.join(gpus)}"

    def refuse(self, check: str, problems: Iterable[str]) -> None:
        self.refusals += [{"check": check, "problem": problem} for problem in problems]


def request_from(params: Mapping[str, Any]) -> SealRequest:
    """Validates the options of a seal. Raises InputError."""
    uncovered = params.get("uncovered") or SealRequest.uncovered
    if uncovered not in (REPORTED, FAIL):
        raise InputError(f"nvidia_prebake_uncovered: {uncovered!r} is neither {REPORTED} nor {FAIL}")
    asked = tuple(params.get("gpu_generations") or ())
    unknown = [name for name in asked if name not in NAMES]
    if unknown:
        raise InputError(f"nvidia_prebake_gpu_generations: {', '.join(unknown)} unknown; known are {', '.join(NAMES)}")
    return SealRequest(
        kernels=choices(params.get("kernels") or SEAL["kernels"].default),
        uncovered=uncovered,
        generations=asked,
        marker_path=params.get("marker_path") or SealRequest.marker_path,
        min_free_mb=SealRequest.min_free_mb if params.get("min_free_mb") is None else int(params["min_free_mb"]),
        must_be_baked=params.get("baked") is not False,
        blacklist_nouveau=params.get("blacklist_nouveau") is not False,
    )


def write_report(root: Path, report: Report) -> None:
    files.make_private(root / STORE)
    files.write_atomic(root / SEAL_REPORT, jsondoc.dump({"schema": SCHEMA, **asdict(report)}), 0o600)
