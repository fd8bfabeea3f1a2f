"""The lab's driver images: a stand-in in several variants, and NVIDIA's own driver. One table of recipes, one call to build.

An image has three layers: a small root filesystem shared by all, the driver (lab/driverimages/driverparts.py), and on top the files that
the driver-container contract requires: entrypoint, install.sh, configuration and packages.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.driverimages import driverparts, ocilayout, publicparts
from lab.machine import cache, host
from lab.machine.errors import LabError
from lab.machine.progress import step
from lab.nodes.base import REGISTRY_NAME

ALL_ACTIONS = ("copy", "install", "build-only", "install-skip-build")
STANDIN_VERSION = "580.126.09"
KEPT = 40  # every image and its layers, and those of the last run or two


@dataclass(frozen=True)
class Recipe:
    """The build arguments of one image; `version` is empty if it is that of the packages."""

    name: str
    version: str = STANDIN_VERSION
    type: str = "cuda"
    stamp: str = "20260601000000"
    is_standin: bool = True
    licence: str = "Dual MIT/GPL"
    fault: str = "none"
    known_actions: tuple[str, ...] = ALL_ACTIONS
    refuse_skip: bool = False
    accept_no_device: bool = False
    is_public: bool = False
    """Whether its scripts do all that those of the public images do (lab/images/public)."""

    @property
    def kind(self) -> str:
        """Driver kind: the type's first word."""
        return self.type.partition("-")[0]


@dataclass(frozen=True)
class ImageDir:
    """A built image: its OCI layout, the reference to push it to, the digests of manifest and config, and the driver in it."""

    name: str
    layout: Path
    reference: str
    digest: str
    config_digest: str
    version: str
    kind: str


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("standin"),
        Recipe("standin-other-version", version="550.90.07", stamp="20260430040408"),
        Recipe("standin-grid", type="grid"),
        Recipe("standin-no-build-only", known_actions=("copy", "install")),
        Recipe("standin-build-fails", fault="compile"),
        Recipe("standin-build-hangs", fault="hang"),
        Recipe("standin-build-hangs-once", fault="hang-once"),
        Recipe("standin-fills-disk", fault="fill-disk"),
        Recipe("standin-deletes-library", fault="delete-library"),
        Recipe("standin-changes-distribution", fault="change-distribution"),
        Recipe("standin-mixed-builds", fault="other-build"),
        Recipe("standin-refuses-skip", refuse_skip=True),
        Recipe("standin-proprietary", licence="NVIDIA"),
        Recipe("standin-accept-no-device", accept_no_device=True),
        Recipe("standin-public", is_public=True, stamp="20260602000000"),
        # The GPU of the lab's VMs never answers nvidia-smi: this image accepts that, the strict one does not.
        Recipe("nvidia", version="", is_standin=False, licence="NVIDIA", accept_no_device=True),
        Recipe("nvidia-strict", version="", is_standin=False, licence="NVIDIA"),
    )
}


def build(name: str) -> ImageDir:
    """Return the image of that name, built on first use (needs root; Debian's packages come from the machine's mirror)."""
    recipe = find(name)
    host.need_root(f"building the driver image {name}")
    host.need_tools("mmdebstrap", "apt-get", "dpkg", "dpkg-deb", "gcc")
    base = cache.entry("driver-layer", driverparts.base_key(), driverparts.build_base, keep=KEPT)
    if recipe.is_standin:
        version, tree = recipe.version, None
    else:
        tree = cache.entry("nvidia-driver", driverparts.nvidia_key(), driverparts.build_nvidia, keep=2)
        version = driverparts.nvidia_version(tree)
    driver = _driver_layer(recipe, tree)
    parts = [json.dumps([asdict(recipe), version]), *driverparts.content_key(), _source(), base.name, driver.name]
    folder = cache.entry("driver-image", parts, lambda out: _build(out, recipe, version, [base, driver]), keep=KEPT)
    return ImageDir(**{**json.loads((folder / "image.json").read_text()), "layout": folder / "layout"})


def find(name: str) -> Recipe:
    """The recipe of that name. Raises LabError if there is none."""
    if name not in RECIPES:
        raise LabError(f"there is no driver image {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]


def reference(recipe: Recipe, version: str) -> str:
    """The image's reference in the lab's registry, named as the contract requires."""
    return f"{REGISTRY_NAME}/{recipe.name}/aks-gpu-{recipe.type}:{version}-{recipe.stamp}"


def arguments(recipe: Recipe, version: str) -> dict[str, str]:
    """The build arguments, by their names in config.sh and in the labels."""
    return {
        "DRIVER_VERSION": version,
        "DRIVER_KIND": recipe.kind,
        "STANDIN": str(int(recipe.is_standin)),
        "LICENSE": recipe.licence,
        "FAULT": recipe.fault,
        "KNOWN_ACTIONS": " ".join(recipe.known_actions),
        "REFUSE_SKIP": str(int(recipe.refuse_skip)),
        "ACCEPT_NO_DEVICE": str(int(recipe.accept_no_device)),
    }


def config_sh(recipe: Recipe, version: str) -> str:
    """Text of /opt/gpu/config.sh, which entrypoint and install.sh read."""
    what = "stand-in for a driver image, for tests" if recipe.is_standin else "driver image made from Debian's packages"
    lines = [f"{key}={shlex.quote(value)}" for key, value in arguments(recipe, version).items()]
    return "\n".join([f"# gpu-prebake lab: {what}", *lines, ""])


def labels(recipe: Recipe, version: str) -> Mapping[str, str]:
    """Labels of the image."""
    what = "stand-in for NVIDIA's driver" if recipe.is_standin else "NVIDIA's driver; toolkit and fabric manager are stand-ins"
    shown = {f"gpu-prebake.lab.{key.lower()}": value for key, value in arguments(recipe, version).items()}
    return {"org.opencontainers.image.title": recipe.name, "org.opencontainers.image.description": what, **shown}


def _driver_layer(recipe: Recipe, nvidia: Path | None) -> Path:
    if nvidia is not None:
        return cache.entry("driver-layer", [nvidia.name], lambda out: driverparts.pack_nvidia(nvidia, out), keep=KEPT)
    arguments = (recipe.version, recipe.licence, recipe.fault)
    parts = [*arguments, *driverparts.content_key()]
    return cache.entry("driver-layer", parts, lambda out: driverparts.build_standin(out, *arguments), keep=KEPT)


def _build(out: Path, recipe: Recipe, version: str, lower: list[Path]) -> None:
    with step(f"driver image {recipe.name} {version}"):
        top = out / "top"
        top.mkdir()
        if recipe.is_public:
            publicparts.build_top(top, version, recipe.kind)
        else:
            driverparts.build_top(top, version, config_sh(recipe, version), "build-only" not in recipe.known_actions)
        name = reference(recipe, version)
        tag = name.rpartition(":")[2]
        written = ocilayout.write_layout(out / "layout", tag, [*lower, top], labels(recipe, version), ["/entrypoint.sh"])
    image = {"name": recipe.name, "reference": name, **asdict(written), "version": version, "kind": recipe.kind}
    (out / "image.json").write_text(json.dumps(image))


def _source() -> str:
    return "".join(Path(str(module.__file__)).read_text() for module in (sys.modules[__name__], ocilayout, publicparts))
