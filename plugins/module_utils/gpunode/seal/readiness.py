"""Whether a node made from the image finds what a boot needs beside the layer: driver image, compile tools, space, blacklist of nouveau."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..container import driver_container
from ..container.containerd import Containerd
from ..driver import nouveau_blacklist
from ..errors import CommandError, GpuNodeError
from ..store.layers import drivers_files
from ..store.manifest import Manifest
from ..system import disk_space, toolchain
from ..util.run import Runner
from .report import Report, SealRequest

# --- inert ------------------------------------------------------------------------------------------------------------


def containers_left(containerd: Containerd | None) -> list[str]:
    if containerd is None:
        return []
    try:
        left = driver_container.left_in(containerd)
    except CommandError as error:
        return [f"containerd cannot be asked which containers a bake has left: {error}"]
    return [
        f"container {name} in containerd: left by a driver container: ctr -n k8s.io tasks rm -f {name}; ctr -n k8s.io containers rm {name}"
        for name in left
    ]


# --- nouveau ---------------------------------------------------------------------------------------------------------


def check_nouveau(root: Path, runner: Runner, request: SealRequest, report: Report) -> None:
    """The one file outside the store: there where it was chosen, also in each initramfs, and nowhere else."""
    try:
        found = nouveau_blacklist.look(root, drivers_files(root), runner)
        report.refuse("nouveau", nouveau_blacklist.problems(found, request.blacklist_nouveau))
    except CommandError as error:
        found = nouveau_blacklist.look(root, drivers_files(root))
        report.refuse("nouveau", [f"what an initramfs holds cannot be told: {error}"])
    report.outside_store += [f"/{nouveau_blacklist.PATH}"] if found.own == nouveau_blacklist.OURS else []
    report.nouveau = nouveau_blacklist.decide(found, request.blacklist_nouveau).says


# --- usable ----------------------------------------------------------------------------------------------------------


def check_usable(
    root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, layers: Sequence[Manifest], report: Report
) -> None:
    """What a node needs besides the layer: the driver image, the compile tools for the fallback, space."""
    for kver in sorted({layer.identity.kver for layer in layers}):
        missing = toolchain.problems(runner, root, kver) if containerd else toolchain.absent(root, kver)
        if missing:
            report.refuse("usable", [f"a node that the bake does not fit cannot compile for {kver}: {'; '.join(missing)}: install these"])
    try:
        disk_space.require_space(root, request.min_free_mb, "a node's own build", "nvidia_prebake_seal_min_free_mb")
    except GpuNodeError as error:
        report.refuse("usable", [str(error)])
    if containerd is None:
        report.notes.append("offline: containerd was not asked whether it has the driver image")
        return
    for image in sorted({layer.image for layer in layers}):
        report.refuse("usable", _image_problems(containerd, image, report))


def _image_problems(containerd: Containerd, image: str, report: Report) -> list[str]:
    try:
        if containerd.target_digest(image) is None:
            return [
                f"driver image {image} is not in containerd: device initialisation takes the container toolkit and more from it: bake again"
            ]
        if not containerd.is_pinned(image):
            return [
                f"driver image {image} is not labelled as pinned: kubelet's garbage collection may take it: "
                f"ctr -n k8s.io images label {image} io.cri-containerd.pinned=pinned"
            ]
        if not containerd.honours_pins():
            report.notes.append(
                "this containerd is older than 1.6.25 and ignores the pinned label: nodes may have to pull the driver image again"
            )
    except CommandError as error:
        return [f"containerd cannot be asked about {image}: {error}"]
    return []
