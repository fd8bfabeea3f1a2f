"""A fake node: a system's files below a folder, and a runner whose programs are fakes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import footprint
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import CommandError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers, manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.tree import describe, difference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import jsondoc
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import LineSink, Result

from tests.kit import sandbox
from tests.kit.programs import PROGRAMS
from tests.kit.reply import Program, Reply, Script
from tests.kit.sandbox import FakeOverlay, FakeRunning
from tests.kit.values import CONFIG_DIGEST, DROPIN, IMAGE, KVER, LIBRARIES, LOADER, MACHINE, MARKER, VERSION, digest, identity
from tests.kit.values import manifest as a_manifest

ROOT_MOUNT = "28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
ENTRYPOINT = 'case "$1" in\n  copy|install|build-only|install-skip-build) run "$1" ;;\nesac\n'


# A part of fabric manager's files, which are in no package.
FABRIC_MANAGER = ("usr/bin/nv-fabricmanager", "usr/share/nvidia/nvswitch/topology")


class FakeClock:
    """Seconds that pass only when somebody sleeps or a fake program takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeNode:
    """Files below ``root``, a kernel, containerd with images, and a runner of ``programs``, which a test may replace.

    ``calls`` has every argv; ``limits``, ``typed`` and ``environments`` have the other arguments of each call. ``scripts`` are what the
    runs of driver containers do, one after the other; the last is repeated.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kver = KVER
        self.clock = FakeClock()
        self.calls: list[list[str]] = []
        self.limits: list[float] = []
        self.typed: list[str | None] = []
        self.environments: list[dict[str, str]] = []
        self.programs: dict[str, Program] = dict(PROGRAMS)
        self.missing_programs: set[str] = set()
        # the kernel and the driver
        self.dmesg = ""
        self.depmod_says = ""
        self.smi = Reply(0, "NVIDIA-SMI\n")
        self.makes_no_nodes = False
        self.insert_error = ""
        self.held_modules: set[str] = set()
        self.bound_for_good = False
        # systemd
        self.running: set[str] = set()
        self.stuck_units: set[str] = set()
        # containerd
        self.scripts: list[Script] = [behave]
        self.daemon_ready = True
        self.images: dict[str, str] = {}
        self.pinned: set[str] = set()
        self.content: dict[str, dict[str, Any]] = {}
        self.containers: list[str] = []
        self.entrypoint = ENTRYPOINT
        self.gpu_lists = Reply()  # what a search of the driver image for lists of GPUs prints
        self.pulls: list[Reply] = []
        self.imports: list[Reply] = []
        self.archive_names: list[str] = []
        self.archive_holds = ""
        self.served = ""
        self.help = "   --user value   user[:password]\n"
        self.remote: dict[str, str] = {}
        # the sandbox of a bake
        self.mountinfo = ROOT_MOUNT
        self.sandbox_pid = 4242
        self.sandbox_says = "ready 4242"
        self.watcher_dies = False
        self.overlays: list[FakeOverlay] = []
        self._make_root()
        self.add_image(IMAGE)

    # files

    def put(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        return file

    def link(self, path: str, target: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    def _make_root(self) -> None:
        for folder in (
            "usr/lib/modules",
            LOADER,
            "usr/bin",
            "usr/share",
            "usr/src",
            "boot",
            "etc",
            "opt",
            "var/lib/dpkg",
            "var/lib/dkms",
            "tmp",
            "proc",
        ):
            (self.root / folder).mkdir(parents=True)
        self.link("lib", "usr/lib")  # merged /usr, as on every Debian of today
        self.put("etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n')
        self.put("etc/machine-id", MACHINE + "\n")
        self.put("etc/containerd/config.toml", 'version = 2\nimports = ["/etc/containerd/config.d/*.toml"]\n')
        self.put("usr/include/stdio.h")
        self.put("usr/bin/gcc", "gcc")
        self.put("var/lib/dpkg/lock-frontend")
        self.put("var/lib/dpkg/status")
        self.put("proc/modules")
        self.put("proc/self/mountinfo", self.mountinfo)
        self.add_kernel(KVER)

    def add_kernel(self, kver: str, headers: bool = True) -> None:
        self.put(f"usr/lib/modules/{kver}/kernel/fs/ext4.ko", "ext4")
        self.put(f"usr/lib/modules/{kver}/modules.dep", "")
        if headers:
            self.put(f"usr/src/linux-headers-{kver}/Makefile", "all:\n")
            self.link(f"usr/lib/modules/{kver}/build", f"../../../src/linux-headers-{kver}")

    def add_gpu(self, device: str = "0x2330", pci_class: str = "0x030200", driver: str = "", address: str = "0000:01:00.0") -> None:
        folder = f"sys/bus/pci/devices/{address}"
        kind = f"bc{pci_class[2:4]}sc{pci_class[4:6]}i{pci_class[6:8]}"
        alias = f"pci:v000010DEd{device[2:].upper():0>8}sv000010DEsd000016C1{kind}"
        for name, text in (("vendor", "0x10de"), ("device", device), ("class", pci_class), ("modalias", alias)):
            self.put(f"{folder}/{name}", text + "\n")
        if driver:
            (self.root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
            self.link(f"{folder}/driver", f"../../drivers/{driver}")

    def tree(self, *roots: str) -> dict[str, str]:
        """Every file and link below ``roots`` (default: all of the node) with content or target, for comparing."""
        found: dict[str, str] = {}
        for name in roots or ("",):
            for path in sorted((self.root / name).rglob("*")):
                relative = str(path.relative_to(self.root))
                if path.is_symlink():
                    found[relative] = f"-> {path.readlink()}"
                elif path.is_file():
                    found[relative] = f"{path.stat().st_mode & 0o7777:o} {path.read_text(encoding='utf-8', errors='replace')}"
        return found

    def driver_tree(self) -> dict[str, str]:
        """All that an installation could have touched, generated files apart."""
        return {p: text for p, text in self.tree(*(r for r in footprint.ROOTS if r != "lib")).items() if not footprint.is_ignored(p)}

    # what a driver image does

    def build(self, version: str = VERSION, kver: str = "", kind: str = "cuda", licence: str = "Dual MIT/GPL", **options: Any) -> None:
        """What the contract's build leaves; ``without`` names parts to leave out, ``marker`` changes lines of it."""
        kver, without, marker = kver or self.kver, options.get("without", ()), options.get("marker", {})
        for name in ("nvidia", "nvidia-uvm"):
            text = f"version:        {version}\nlicense:        {licence}\nvermagic:       {kver} SMP preempt mod_unload modversions \n"
            if name not in without:
                self.put(f"usr/lib/modules/{kver}/updates/dkms/{name}.ko", text)
            if "dkms" not in without:
                self.put(f"var/lib/dkms/nvidia/{version}/{kver}/x86_64/module/{name}.ko", text)
        if "dkms" not in without:
            self.link(f"var/lib/dkms/nvidia/kernel-{kver}-x86_64", f"{version}/{kver}/x86_64")
        self.link(f"var/lib/dkms/nvidia/{version}/source", f"/usr/src/nvidia-{version}")
        self.put(f"usr/src/nvidia-{version}/dkms.conf", f'PACKAGE_VERSION="{version}"\n')
        if "libraries" not in without:
            for name in ("libcuda", "libnvidia-ml"):
                self.put(f"{LIBRARIES}/{name}.so.{version}", f"{name} {version}")
                self.link(f"{LIBRARIES}/{name}.so.1", f"{name}.so.{version}")
        self.put("etc/ld.so.conf.d/nvidia.conf", f"/{LIBRARIES}\n")
        self.put("etc/modprobe.d/blacklist-nouveau.conf", "blacklist nouveau\n")
        self.put("usr/bin/nvidia-smi", f"smi {version}", 0o755)
        self.put("usr/bin/nvidia-modprobe", f"modprobe {version}", 0o4755)
        lines = {"kernel": kver, "driver_version": version, "driver_kind": kind, "arch": "x86_64", **marker}
        if "marker" not in without:
            self.put(MARKER, "".join(f"{key}={value}\n" for key, value in lines.items()))

    def initialise_device(self, version: str = VERSION, dropin: str = "runtime") -> None:
        """What the contract's device initialisation leaves: second copies of the libraries, the runtime drop-in, fabric manager."""
        for name in ("libcuda", "libnvidia-ml"):
            self.put(f"{LOADER}/{name}.so.{version}", f"{name} {version}")
            self.link(f"{LOADER}/{name}.so.1", f"{name}.so.{version}")
        if dropin:
            self.put(DROPIN, dropin)
            self.put("usr/lib/udev/rules.d/71-nvidia-dev-char.rules", "rules")
            for path in FABRIC_MANAGER:
                self.put(path, f"fabric manager {version}")

    # containerd

    def add_image(self, reference: str, arch: str = "amd64", config: str = CONFIG_DIGEST) -> None:
        index, manifest_digest = digest("index " + reference), digest("manifest " + reference)
        self.images[reference] = index
        platform = {"os": "linux", "architecture": arch}
        self.content[index] = {"manifests": [{"digest": manifest_digest, "platform": platform}]}
        self.content[manifest_digest] = {"config": {"digest": config}}

    @property
    def driver_runs(self) -> list[str]:
        """The actions of the driver containers that were run, in order."""
        return [argv[-1] for argv in self.calls if argv[0] == "ctr" and "--privileged" in argv]

    def run_limits(self) -> list[float]:
        """The time limit of each run of a driver container, in seconds."""
        return [limit for argv, limit in zip(self.calls, self.limits) if argv[0] == "ctr" and "--privileged" in argv]

    def called(self, *words: str) -> list[list[str]]:
        """The calls that begin with ``words``."""
        return [argv for argv in self.calls if argv[: len(words)] == list(words)]

    # modules in the kernel

    def loaded_names(self) -> list[str]:
        """The modules that are loaded, the latest first, with ``-`` in their names."""
        return [line.split()[0].replace("_", "-") for line in (self.root / "proc/modules").read_text().splitlines()]

    def insert(self, name: str, version: str) -> None:
        """Loads a module into the kernel."""
        kernel_name = name.replace("-", "_")
        table = self.root / "proc/modules"
        lines = [line for line in table.read_text().splitlines() if line.split()[0] != kernel_name]
        # A kernel shows no module without its version: killed between these two, the version alone is there, which nobody reads.
        self.put(f"sys/module/{kernel_name}/version", version + "\n")
        table.write_text("".join(f"{line}\n" for line in [f"{kernel_name} 16384 0 - Live 0x0000000000000000 (OE)", *lines]))

    # the runner

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 60.0,
        ok: Collection[int] | None = (0,),
        env: Mapping[str, str] | None = None,
        on_line: LineSink = None,
        typed: str | None = None,
    ) -> Result:
        words = list(argv)
        self.calls.append(words)
        self.typed.append(typed)
        self.environments.append(dict(env or {}))
        self.limits.append(timeout_s)
        if words[0] in self.missing_programs:
            raise CommandError(words, None, "", "missing or not executable (No such file or directory)")
        if words[0] not in self.programs:
            raise AssertionError(f"the fake node has no such program: {words}")
        reply = self.programs[words[0]](self, words[1:])
        self.clock.now += min(reply.seconds, timeout_s)
        for line in reply.out.splitlines() if on_line else ():
            on_line(line)
        if reply.seconds > timeout_s:
            raise CommandError(words, None, reply.out, f"timed out after {timeout_s:.0f} s, killed", True)
        if ok is not None and reply.rc not in ok:
            raise CommandError(words, reply.rc, reply.out + reply.err, f"exit status {reply.rc}")
        return Result(reply.rc, reply.out, reply.err, reply.seconds)

    def start(self, argv: Sequence[str]) -> FakeRunning:
        """Starts one of a sandbox's two background programs: its watcher or its PID 1."""
        words = list(argv)
        self.calls.append(words)
        if words[0] == "unshare":
            return FakeRunning(self.sandbox_says)
        assert words[0] == "flock", words
        return FakeRunning(at_end=None if self.watcher_dies else lambda: sandbox.take_away(self, words[-1]))

    @contextlib.contextmanager
    def in_sandbox(self, merged: Path) -> Iterator[None]:
        """In the body, ``root`` is ``merged``; afterwards the overlays' upper folders have what was changed there."""
        outside, self.root = self.root, merged
        try:
            yield
        finally:
            self.root = outside
            for overlay in self.overlays:
                overlay.sync([other.merged for other in self.overlays if other is not overlay])


def behave(node: FakeNode, action: str) -> Reply:
    """A driver image that does what it is asked, and takes a minute and a half for a compile."""
    if action in ("build-only", "install"):
        node.build()
    if action in ("install", "install-skip-build"):
        node.insert("nvidia", VERSION)
        node.initialise_device()
    return Reply(out="T 1 done\n", seconds=90.0 if action != "install-skip-build" else 5.0)


def write_as_0_1_0(root: Path, layer: manifest.Manifest) -> None:
    """Writes a manifest as version 0.1.0 did. Only that version baked layers that are not stored."""
    document = {name: value for name, value in asdict(layer).items() if name not in ("stored", "gpus")}
    document.update({name: [manifest.plain_entry(entry) for entry in getattr(layer, name)] for name in ("files", "originals")})
    document["indexes"] = [{**vars(index), "after": manifest.plain_entry(index.after)} for index in layer.indexes]
    path = layers.path_of(root, layer.layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(jsondoc.dump({**document, "schema": 2, "mode": "captured" if layer.stored else "in_place"}), encoding="utf-8")


def bake_layer(node: FakeNode, **build: Any) -> manifest.Manifest:
    """Builds on the node and records it as a bake in place of version 0.1.0 did."""
    before = footprint.listing(node.root)
    node.build(**build)
    change = difference(before, footprint.listing(node.root))
    flavour = {"NVIDIA": "proprietary"}.get(build.get("licence", ""), "open")
    who = identity(
        kver=build.get("kver") or node.kver, version=build.get("version", VERSION), kind=build.get("kind", "cuda"), flavour=flavour
    )
    layer = a_manifest(who, files=describe(node.root, change.added))
    write_as_0_1_0(node.root, layer)
    return layer
