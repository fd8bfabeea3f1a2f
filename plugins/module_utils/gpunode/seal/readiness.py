"""Checks what a boot needs from the image besides the layer: driver image, compile tools, free space, nouveau blacklist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..container import driver_container, reference
from ..container.containerd import Containerd
from ..driver import nouveau_blacklist
from ..errors import CommandError, DataError, GpuNodeError, InputError
from ..store import driver_images
from ..store.layers import drivers_files
from ..store.manifest import Manifest
from ..system import disk_space, toolchain
from ..util.run import Runner
from .report import Report
from .request import SealRequest

# --- inert ------------------------------------------------------------------------------------------------------------


def containers_left(containerd: Containerd | None) -> list[str]:
    """Driver containers that containerd still has, in words; none offline."""
    if containerd is None:
        return []
    try:
        left = driver_container.left_in(containerd)
    except CommandError as error:
        return [f"containerd cannot list its containers, so some may be left over: {error}"]
    return [
        f"container {name} in containerd: a driver container that was left behind: "
        f"run ctr -n k8s.io tasks rm -f {name}; ctr -n k8s.io containers rm {name}"
        for name in left
    ]


# --- nouveau ---------------------------------------------------------------------------------------------------------


def check_nouveau(root: Path, runner: Runner, request: SealRequest, report: Report) -> None:
    """The blacklists of nouveau and Nova, our only files outside the store: in the image and each initramfs if that was chosen, otherwise
    nowhere."""
    try:
        found = nouveau_blacklist.look(root, drivers_files(root), runner)
        report.refuse("nouveau", nouveau_blacklist.problems(found, request.blacklist_nouveau))
    except CommandError as error:
        found = nouveau_blacklist.look(root, drivers_files(root))
        report.refuse("nouveau", [f"the contents of an initramfs cannot be listed: {error}"])
    report.outside_store += [f"/{path}" for path in nouveau_blacklist.ours(root)]
    report.nouveau = nouveau_blacklist.decide(found, request.blacklist_nouveau).says


# --- usable ----------------------------------------------------------------------------------------------------------


def check_usable(
    root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, layers: Sequence[Manifest], report: Report
) -> None:
    """What a node needs besides the layer: the driver image, the compile tools for a full install, free space."""
    for kver in sorted({layer.identity.kver for layer in layers}):
        missing = toolchain.problems(runner, root, kver) if containerd else toolchain.absent(root, kver)
        if missing:
            report.refuse(
                "usable", [f"a node that cannot use the layer cannot compile for {kver}: {'; '.join(missing)}: install what is missing"]
            )
    try:
        disk_space.require_space(root, request.min_free_mb, "a compile on a node", "nvidia_prebake_seal_min_free_mb")
    except GpuNodeError as error:
        report.refuse("usable", [str(error)])
    if containerd is None:
        report.notes.append("offline: containerd was not asked whether it has the driver image")
        return
    pin = request.wanted.pin if request.wanted else ""
    for image in sorted({layer.image for layer in layers}):
        report.refuse("usable", _image_problems(containerd, image, pin, report))
    _note_images_left(root, containerd, {layer.image for layer in layers}, report)


def _image_problems(containerd: Containerd, image: str, pin: str, report: Report) -> list[str]:
    try:
        if containerd.target_digest(image, pin) is None:
            return [
                f"driver image {image} is not in containerd: device initialisation needs it, for the container toolkit and more: bake again"
            ]
        if not containerd.is_pinned(image):
            return [
                f"driver image {image} is not labelled as pinned: kubelet's garbage collection may delete it: "
                f"run ctr -n k8s.io images label {image} io.cri-containerd.pinned=pinned"
            ]
        if not containerd.honours_pins():
            report.notes.append(
                "this containerd is older than 1.6.25 and ignores the pinned label: nodes may have to pull the driver image again"
            )
    except CommandError as error:
        return [f"containerd cannot be queried about driver image {image}: {error}"]
    return []


def _note_images_left(root: Path, containerd: Containerd, needed: set[str], report: Report) -> None:
    """Counts and names the driver images in containerd that no layer names: each is 1 to 2 GB of the image that ships."""
    try:
        targets, pinned = containerd.targets(), containerd.pinned()
        kept = {targets[name] for name in needed if name in targets}
        ours = {*driver_images.read(root).pulled, *(name for name in pinned if _is_driver_image(name))}
    except (CommandError, DataError) as error:
        report.notes.append(f"it is not known whether old driver images are in containerd: {error}")
        return
    left = sorted(name for name in ours if targets.get(name, "") not in {*kept, ""})
    report.images_left = left
    if left:
        report.notes.append(
            f"{len(left)} driver images that no layer was baked from are in containerd, and ship: {', '.join(left)}: the next bake removes "
            f"those that a bake has pulled; or run ctr -n k8s.io images rm {' '.join(left)}"
        )


def _is_driver_image(name: str) -> bool:
    try:
        return reference.parse(name).kind is not None
    except InputError:
        return False
