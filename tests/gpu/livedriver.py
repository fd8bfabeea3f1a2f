"""Makes a layer from the driver of a machine whose GPU answers: its user space, below DRIVER, and modules that the kernel has loaded.

The module files on disk are fakes: they have NVIDIA's fields for modinfo and no code. Nobody here can compile for such a kernel, and
modprobe needs no more of a module that is loaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from plugins.module_utils.gpunode.bake import builder
from plugins.module_utils.gpunode.boot.policy import Policy
from plugins.module_utils.gpunode.container import reference
from plugins.module_utils.gpunode.driver.footprint import CONTRACT_LIBRARIES
from plugins.module_utils.gpunode.driver.libraries import hashes
from plugins.module_utils.gpunode.driver.modules import module_hashes
from plugins.module_utils.gpunode.store import layers, manifest, node_record
from plugins.module_utils.gpunode.store.manifest import Identity, Manifest
from plugins.module_utils.gpunode.store.objects import Store, objects_of
from plugins.module_utils.gpunode.system import host, keyrings, tree
from plugins.module_utils.gpunode.system.module_signature import Signer
from plugins.module_utils.gpunode.util.run import SystemRunner

ROOT = Path("/")
DRIVER = Path("/usr/local/nvidia")
KVER = os.uname().release
DIGEST = "sha256:" + hashlib.sha256(b"live").hexdigest()
PROGRAMS = ("nvidia-smi", "nvidia-persistenced")
RUNNER = SystemRunner()


def version() -> str:
    """The version of the module in the kernel."""
    return (ROOT / "sys/module/nvidia/version").read_text().strip()


def policy(driver: str = "") -> Policy:
    """The policy that wants a driver of this version; by default of the one in the kernel."""
    image = f"registry.example/nvidia/aks-gpu-cuda:{driver or version()}-20260601000000"
    return Policy(wanted=reference.wanted(image), expected_gpus=1)


def run(*argv: str, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a program of the machine."""
    return subprocess.run(argv, capture_output=True, text=True, check=not may_fail, timeout=120)


def take_off_the_paths() -> None:
    """Hides the driver's user space from shells and from the loader, without moving it; creates what udev and depmod would have made."""
    for config in (ROOT / "etc/ld.so.conf.d").iterdir():
        if str(DRIVER) in config.read_text() or config.name == "nvidia.conf":
            config.unlink()
    names = {path.name for path in (DRIVER / "lib64").iterdir()} | {path.name for path in (DRIVER / "bin").iterdir()}
    for folder in ("usr/bin", "usr/local/bin", "usr/lib", "usr/lib64", f"usr/lib/{host.TRIPLETS[os.uname().machine]}"):
        for path in (ROOT / folder).glob("*nvidia*" if folder.endswith("bin") else "lib*"):
            if path.name in names and (path.is_symlink() or folder.endswith("bin")):
                path.unlink()
    os.environ.pop("LD_LIBRARY_PATH", None)
    os.environ["PATH"] = ":".join(part for part in os.environ["PATH"].split(":") if not part.startswith(str(DRIVER)))
    run("ldconfig")
    (ROOT / "dev/char").mkdir(exist_ok=True)  # nvidia-modprobe links into it
    (ROOT / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    modules = ROOT / "usr/lib/modules" / KVER
    modules.mkdir(parents=True, exist_ok=True)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        (modules / name).touch()
    run("depmod", KVER)


def store_layer(scratch: Path, helper: Path) -> Manifest:
    """Writes a layer of this driver to the machine's store, recorded as signed by the key that is built into the kernel; ``helper`` is
    NVIDIA's nvidia-modprobe."""
    _fill(scratch, helper)
    paths = [str(path.relative_to(scratch)) for path in scratch.rglob("*") if path.is_symlink() or not path.is_dir()]
    folders = {str(folder) for path in paths for folder in Path(path).parents if not (ROOT / folder).exists()}
    identity = Identity(KVER, os.uname().machine, "cuda", version(), "open", DIGEST)
    layer = Manifest(
        layer=manifest.layer_name(identity),
        created="2026-11-26T00:00:00Z",
        identity=identity,
        image=policy().wanted.image.text,
        actions=("copy", "install", "build-only", "install-skip-build"),
        accept_no_device=False,
        files=tree.describe(scratch, [*sorted(folders), *sorted(paths)]),
        replaced=(),
        deleted=(),
        build_s=1.0,
        tries=1,
        warnings=(),
    )
    keys = keyrings.read(ROOT)
    signer = Signer("the kernel's own key", keys[0], "0" * 64) if keys else None
    layer = replace(layer, module_facts=builder.module_facts(RUNNER, scratch, layer.modules), signer=signer)
    store = Store(ROOT)
    for entry in objects_of(layer):
        store.put(scratch / entry.path, entry)
    layers.write(ROOT, layer)
    return layer


def _fill(scratch: Path, helper: Path) -> None:
    libraries, programs = scratch / CONTRACT_LIBRARIES, scratch / "usr/bin"
    libraries.mkdir(parents=True)
    for path in sorted((DRIVER / "lib64").iterdir()):
        if path.is_symlink():
            (libraries / path.name).symlink_to(path.readlink().name)
        elif path.is_file():
            _copy(path, libraries / path.name, 0o755)
    for name in PROGRAMS:
        _copy(DRIVER / "bin" / name, programs / name, 0o755)
    _copy(helper, programs / "nvidia-modprobe", 0o4755)
    config = scratch / "etc/ld.so.conf.d/nvidia.conf"
    config.parent.mkdir(parents=True)
    config.write_text(f"/{CONTRACT_LIBRARIES}\n")
    modules = scratch / "usr/lib/modules" / KVER / "updates/dkms"
    modules.mkdir(parents=True)
    for name, needs in (("nvidia", ""), ("nvidia-uvm", "nvidia")):
        _compile_module(scratch.with_suffix(".c"), modules / f"{name}.ko", name.replace("-", "_"), needs)


def _copy(source: Path, target: Path, mode: int) -> None:
    shutil.copyfile(source, target)
    target.chmod(mode)


def _compile_module(source: Path, target: Path, name: str, needs: str) -> None:
    words = (f"version={version()}", "license=Dual MIT/GPL", f"vermagic={KVER} SMP preempt", f"name={name}", f"depends={needs}")
    lines = [f'static const char word{n}[] __attribute__((section(".modinfo"), used)) = "{word}";' for n, word in enumerate(words)]
    source.write_text("\n".join(lines) + "\n")
    run("gcc", "-c", "-o", str(target), str(source))


def record_as_initialised(layer: Manifest) -> None:
    """Writes a node record as if a driver container had run on this node, in an earlier boot."""
    done = node_record.Record(
        machine_id=host.machine_id(ROOT),
        state=node_record.INITIALISED,
        identity=layer.identity,
        image=layer.image,
        action="install-skip-build",
        reason_code="baked_layer_matches",
        built_here=False,
        boot_id="an earlier one",
        modules={KVER: module_hashes(ROOT, KVER)},
        libraries=hashes(ROOT, layer.identity.arch),
    )
    node_record.write(ROOT, done)
