"""The top layer of an image that does all that the public driver images do: its scripts, fabric manager as plain files, four packages.

Content comes from lab/images/public; what is the same in every image of the lab comes from lab/images/common.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from lab.driverimages import ocilayout
from lab.driverimages.driverparts import GPU, IMAGES, _compile, _copy, _scratch, pack_package

PUBLIC = IMAGES / "public"
TOOLKIT = "1.17.8-1"
PACKAGES = ("libnvidia-container1", "libnvidia-container-tools", "nvidia-container-toolkit-base", "nvidia-container-toolkit")
DESTINATION = "/usr/bin/lib64"
_ARCH = "x86_64"


def config_sh(version: str, kind: str) -> str:
    """Text of /opt/gpu/config.sh, with the variables of the public images."""
    variables = {
        "DRIVER_VERSION": version,
        "DRIVER_KIND": kind,
        "NVIDIA_CONTAINER_TOOLKIT_VER": TOOLKIT,
        "NVIDIA_PACKAGES": " ".join(PACKAGES),
        "GPU_DEST": DESTINATION,
    }
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items())


def runfile(version: str, kind: str) -> str:
    """The name of the folder into which NVIDIA's runfile was unpacked."""
    return f"NVIDIA-Linux-{_ARCH}-{version}{'-grid-azure' if kind == 'grid' else ''}"


def build_top(out: Path, version: str, kind: str) -> None:
    """Write the top layer."""
    with _scratch(out) as scratch:
        tree = scratch / "tree"
        gpu = tree / GPU
        _copy(PUBLIC / "entrypoint.sh", tree / "entrypoint.sh")
        _copy(PUBLIC / "install.sh", tree / "opt/actions/install.sh")
        for name in ("package_manager_helpers.sh", "fm_run_package_installer.sh", "10-nvidia-runtime.toml"):
            _copy(PUBLIC / name, gpu / name)
        _copy(IMAGES / "common/blacklist-nouveau.conf", gpu / "blacklist-nouveau.conf")
        _copy(IMAGES / "common/71-nvidia-dev-char.rules", gpu / "71-nvidia-char-dev.rules")
        (gpu / "config.sh").write_text(config_sh(version, kind))
        _runfile(gpu / runfile(version, kind))
        if kind == "cuda":
            _fabric_manager(gpu / f"fabricmanager-linux-{_ARCH}-{version}", version)
        for name in PACKAGES:
            _package(name, scratch / name, gpu)
        ocilayout.write_layer(tree, out)


def _runfile(folder: Path) -> None:
    """The installer, beside which it finds the driver of the layer below."""
    _copy(IMAGES / "common/nvidia-installer", folder / "nvidia-installer")
    for name in ("config.sh", "driver"):
        (folder / name).symlink_to(f"../{name}")


def _fabric_manager(folder: Path, version: str) -> None:
    _copy(PUBLIC / "fabricmanager", folder)
    _compile("nv-fabricmanager", folder / "bin/nv-fabricmanager", version)
    (folder / "lib").mkdir()
    _compile("libnvfm", folder / "lib/libnvfm.so.1", version, "-fPIC", "-shared", "-Wl,-soname,libnvfm.so.1")
    (folder / "lib/libnvfm.so").symlink_to("libnvfm.so.1")


def _package(name: str, tree: Path, folder: Path) -> None:
    _copy(PUBLIC / "packages" / name, tree)
    if name == "nvidia-container-toolkit-base":  # the same programs and units as in the lab's one package
        for part in ("lib", "usr", "DEBIAN/postinst", "DEBIAN/prerm"):
            _copy(IMAGES / "packages/toolkit" / part, tree / part)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("@TOOLKIT@", TOOLKIT))
    pack_package(tree, folder)
