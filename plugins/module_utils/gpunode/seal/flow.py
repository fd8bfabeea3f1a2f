"""The seal: proves that a finished image is inert, covered, usable, and right (the boot decision, replayed on it, is the fast path).

It runs last in an image build, or offline on a mounted image (``root`` other than ``/``), where containerd cannot be queried. Its report
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
from ..store.objects import Store, objects_of
from ..system import host, kernels, tree
from ..util import files, trust
from ..util.run import Runner
from . import inertness
from .asked import check_asked
from .coverage import check_covered
from .readiness import check_nouveau, check_usable, containers_left
from .replay import replay
from .report import Report, write_report
from .request import SealRequest

_SHOWN = 6  # refusals in the error message itself


def seal(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, write: bool = True) -> Report:
    """Makes all checks and writes the report into the image. ``containerd`` is None offline.

    Raises SealError, with the report in its details, if the image must not ship; BusyError while a bake, a boot or a removal changes it.
    """
    live = root == Path("/")
    with files.locked(paths.LOCK, "a seal") if live else contextlib.nullcontext():
        return _seal(root, runner, containerd, request, write)


def _seal(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, write: bool) -> Report:
    host.require_system(root, "nvidia_prebake_seal_root")
    trust.require_store(root)
    report = Report(str(root), containerd is None)
    layers, damaged = read_all(root)
    arch = host.require_supported(root, os.uname().machine)
    if not layers and not damaged and not request.must_be_baked:
        report.summary = "nothing was baked, so there is nothing to prove"
        report.notes.append(
            "nothing was baked into this image, and nothing was proven. If it should hold a driver, set nvidia_prebake_enabled"
        )
        return report
    report.layers = [layer.layer for layer in layers]
    live = inertness.in_place(root, layers)
    report.in_place = [layer.layer for layer in live]
    report.covered = sorted({layer.identity.kver for layer in layers}, key=kernels.version_key)
    report.refuse("layers", [f"{problem}: bake again; if that is refused too, start from a fresh image" for problem in damaged])
    if not layers and not damaged:
        report.refuse(
            "layers", ["no layer is in the store, so nothing was baked: look at the bake's output, or remove the seal from the image build"]
        )
    for layer in layers:  # all contents are verified here; a boot verifies them in parts
        problems = Store(root).problems(objects_of(layer)) if layer.stored else tree.problems(root, layer.files)
        report.refuse("layers", [f"layer {layer.layer}: {problem}: bake again" for problem in problems])
    report.refuse("inert", inertness.activation_problems(root, live))
    report.refuse("inert", inertness.problems(root, runner, arch, layers, live, reports.setuid_before(root)))
    report.refuse("inert", containers_left(containerd))
    check_asked(request, layers, report.in_place, report)
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
            report.notes.append("the image is mounted read-only, so this report was not written into it")
    if report.refusals:
        shown = "; ".join(f"{refusal['check']}: {refusal['problem']}" for refusal in report.refusals[:_SHOWN])
        more = f"; and {len(report.refusals) - _SHOWN} more in the report" if len(report.refusals) > _SHOWN else ""
        raise SealError(f"this image must not ship: {shown}{more}", details={"report": asdict(report)})
    return report
