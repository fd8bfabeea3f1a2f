"""The seal: proof that an image is what it is said to be. Inert, covered, usable, and *right*: the decision is replayed on it.

It runs last in an image build, or on a mounted image offline (``root`` other than ``/``), where containerd cannot be asked. Its report
stays in the image.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
from dataclasses import asdict
from pathlib import Path

from .. import paths
from ..container.containerd import Containerd
from ..errors import SealError
from ..store import reports
from ..store.layers import read_all
from ..store.manifest import CAPTURED
from ..store.objects import Store, objects_of
from ..system import host, kernels, tree
from ..util import files
from ..util.run import Runner
from . import inertness
from .coverage import check_covered
from .readiness import check_nouveau, check_usable, containers_left
from .replay import replay
from .report import Report, SealRequest, write_report

_SAID = 6  # refusals in the error itself


def seal(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, write: bool = True) -> Report:
    """Looks at everything and writes the report into the image. Raises SealError, with the report in its details, when the image must
    not ship, BusyError while a bake, a boot or a removal changes the image; ``containerd`` is None offline."""
    live = root == Path("/")
    with files.locked(paths.LOCK, "a seal") if live else contextlib.nullcontext():
        return _seal(root, runner, containerd, request, write)


def _seal(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, write: bool) -> Report:
    host.require_system(root, "nvidia_prebake_seal_root")
    report = Report(str(root), containerd is None)
    layers, damaged = read_all(root)
    arch = host.require_supported(root, os.uname().machine)
    if not layers and not damaged and not request.must_be_baked:
        report.summary = "nothing was baked, so that nothing is proven"
        return report
    report.layers = [layer.layer for layer in layers]
    report.modes = sorted({layer.mode for layer in layers})
    report.covered = sorted({layer.identity.kver for layer in layers}, key=kernels.version_key)
    report.refuse("layers", [f"{problem}: bake anew; where that is refused too, start from a fresh image" for problem in damaged])
    if not layers and not damaged:
        report.refuse("layers", ["no layer is in the store: nothing was baked: look at the bake's output, or take the seal out"])
    for layer in layers:  # all of it is read here; a boot reads what it must, when it must
        problems = Store(root).problems(objects_of(layer)) if layer.mode == CAPTURED else tree.problems(root, layer.files)
        report.refuse("layers", [f"layer {layer.layer}: {problem}: bake anew" for problem in problems])
    report.refuse("inert", inertness.problems(root, runner, arch, layers, reports.setuid_before(root)))
    report.refuse("inert", containers_left(containerd))
    check_nouveau(root, runner, request, report)
    check_covered(root, request, layers, report)
    check_usable(root, runner, containerd, request, layers, report)
    for layer in layers:
        report.refuse("right", replay(root, runner, containerd, request, layer, report))
    report.sealed = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    report.summary = "" if report.refusals else report.proven()
    if write:
        try:
            write_report(root, report)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            report.notes.append("the image is mounted read-only, so that this report is not kept in it")
    if report.refusals:
        said = "; ".join(f"{refusal['check']}: {refusal['problem']}" for refusal in report.refusals[:_SAID])
        more = f"; and {len(report.refusals) - _SAID} more in the report" if len(report.refusals) > _SAID else ""
        raise SealError(f"this image must not ship: {said}{more}", details={"report": asdict(report)})
    return report
