"""Checks that the kernels that the image can boot have a layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..store.manifest import Manifest
from ..system import bootloader, kernels
from .report import Report
from .request import FAIL, SealRequest

# --- covered ---------------------------------------------------------------------------------------------------------


def check_covered(root: Path, request: SealRequest, layers: Sequence[Manifest], report: Report) -> None:
    """Refuses if the default kernel or a requested one has no layer. Other kernels without one are noted, or refused if so requested."""
    covered = {layer.identity.kver for layer in layers}
    present = kernels.installed(root)
    report.kernels = list(present)
    choice = bootloader.default_kernel(root)
    needed = [kver for kver in request.kernels if kver not in (kernels.NEWEST, kernels.ALL)]
    if request.kernels == (kernels.ALL,):
        needed += present
    if choice.kver:
        needed.append(choice.kver)
    elif len(present) == 1:
        needed += present
    elif not present:
        report.refuse("covered", [f"no kernel is installed under {root / 'lib/modules'}: install one and bake for it"])
    elif not needed:
        report.refuse(
            "covered", [f"several kernels are installed, and it is not known which one boots: {choice.reason}; set nvidia_prebake_kernels"]
        )
    else:
        report.notes.append(f"it is not known which kernel boots by default: {choice.reason}")
    report.notes += choice.warnings
    for kver in dict.fromkeys(needed):
        if kver not in covered:
            report.refuse(
                "covered", [f"kernel {kver} boots by default or was requested, and has no layer: bake after the last kernel change"]
            )
    others = [kver for kver in present if kver not in covered and kver not in needed]
    if others and request.uncovered == FAIL:
        report.refuse("covered", [f"kernel {kver} can be booted and has no layer: remove it or bake for it" for kver in others])
    elif others:
        report.notes.append(f"no layer for kernel {', '.join(others)}, which can also be booted: a node that boots it compiles the driver")
