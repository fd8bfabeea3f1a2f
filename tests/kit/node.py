"""A fake node: files below a folder, a kernel, containerd with images, and the programs that the library calls, all in one runner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import footprint
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import CommandError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers, manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import module_signature
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.tree import describe, difference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import LineSink, Result

from tests.kit.values import CONFIG_DIGEST, DROPIN, IMAGE, KVER, LIBRARIES, LOADER, MACHINE, MARKER, VERSION, digest, identity
from tests.kit.values import manifest as a_manifest

# --- a clock ---------------------------------------------------------------------------------------------------------


class FakeClock:
    """Seconds that pass only when somebody sleeps or a fake program takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# --- a node ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """How a fake program ends; one that takes longer than its limit is killed there."""

    rc: int = 0
    out: str = ""
    err: str = ""
    seconds: float = 0.0


KILLED = 1e6  # seconds that no limit allows
ROOT_MOUNT = "28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
Script = Callable[["FakeNode", str], Reply]
ENTRYPOINT = 'case "$1" in\n  copy|install|build-only|install-skip-build) run "$1" ;;\nesac\n'


class FakeNode:
    """Files below ``root``, a kernel, containerd with images, and the programs that the library calls, all in one runner.

    ``scripts`` says what each run of a driver container does, one after the other, the last again and again. ``calls`` is every
    argv, ``limits``, ``typed`` and ``environments`` what each had.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kver = KVER
        self.calls: list[list[str]] = []
        self.limits: list[float] = []
        self.typed: list[str | None] = []
        self.environments: list[dict[str, str]] = []
        self.scripts: list[Script] = [behave]
        self.clock = FakeClock()
        self.images: dict[str, str] = {}
        self.pinned: set[str] = set()
        self.content: dict[str, dict[str, Any]] = {}
        self.containers: list[str] = []
        self.entrypoint = ENTRYPOINT
        self.daemon_ready = True
        self.dmesg = ""
        self.smi = Reply(0, "NVIDIA-SMI\n")
        self.makes_no_nodes = False
        self.insert_error = ""
        self.held_modules: set[str] = set()
        self.bound_for_good = False
        self.missing_programs: set[str] = set()
        self.pulls: list[Reply] = []
        self.imports: list[Reply] = []
        self.archive_names: list[str] = []
        self.help = "   --user value   user[:password]\n"
        self.remote: dict[str, str] = {}
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
        self.depmod_says = ""
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
        """What the contract's device initialisation leaves: second copies of the libraries, the runtime drop-in."""
        for name in ("libcuda", "libnvidia-ml"):
            self.put(f"{LOADER}/{name}.so.{version}", f"{name} {version}")
            self.link(f"{LOADER}/{name}.so.1", f"{name}.so.{version}")
        if dropin:
            self.put(DROPIN, dropin)
            self.put("usr/lib/udev/rules.d/71-nvidia-dev-char.rules", "rules")

    # containerd

    def add_image(self, reference: str, arch: str = "amd64", config: str = CONFIG_DIGEST) -> None:
        index, manifest_digest = digest("index " + reference), digest("manifest " + reference)
        self.images[reference] = index
        platform = {"os": "linux", "architecture": arch}
        self.content[index] = {"manifests": [{"digest": manifest_digest, "platform": platform}]}
        self.content[manifest_digest] = {"config": {"digest": config}}

    @property
    def driver_runs(self) -> list[str]:
        """The actions that driver containers were sent, in order."""
        return [argv[-1] for argv in self.calls if argv[0] == "ctr" and "--privileged" in argv]

    def run_limits(self) -> list[float]:
        return [limit for argv, limit in zip(self.calls, self.limits) if argv[0] == "ctr" and "--privileged" in argv]

    def called(self, *words: str) -> list[list[str]]:
        return [argv for argv in self.calls if argv[: len(words)] == list(words)]

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
        reply = self._answer(words)
        self.clock.now += min(reply.seconds, timeout_s)
        for line in reply.out.splitlines() if on_line else ():
            on_line(line)
        if reply.seconds > timeout_s:
            raise CommandError(words, None, reply.out, f"timed out after {timeout_s:.0f} s, killed", True)
        if ok is not None and reply.rc not in ok:
            raise CommandError(words, reply.rc, reply.out + reply.err, f"exit status {reply.rc}")
        return Result(reply.rc, reply.out, reply.err, reply.seconds)

    def start(self, argv: Sequence[str]) -> FakeRunning:
        """The two programs that a sandbox has in the background: its watcher, and its PID 1."""
        words = list(argv)
        self.calls.append(words)
        if words[0] == "unshare":
            return FakeRunning(self.sandbox_says)
        assert words[0] == "flock", words
        return FakeRunning(at_end=None if self.watcher_dies else lambda: self._take_sandbox_away(words[-1]))

    def _take_sandbox_away(self, folder: str) -> None:
        self.overlays = [overlay for overlay in self.overlays if not overlay.merged.is_relative_to(folder)]
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            Path(folder).parent.rmdir()

    def _do_flock(self, words: list[str]) -> Reply:
        self._take_sandbox_away(words[-1])
        return Reply()

    def _do_mount(self, words: list[str]) -> Reply:
        if words[:2] == ["-t", "overlay"]:
            options = dict(option.split("=") for option in words[4].split(","))
            overlay = FakeOverlay(Path(options["lowerdir"]), Path(options["upperdir"]), Path(words[-1]))
            overlay.mount(self.root / STORE)
            self.overlays.append(overlay)
        return Reply()

    def _do_nsenter(self, words: list[str]) -> Reply:
        assert words[:3] == ["-t", str(self.sandbox_pid), "-m"], words
        assert words[3] == "depmod", words
        with self._in_sandbox(self.overlays[0].merged):
            modules = sorted(str(p) for p in (self.root / "lib/modules" / words[4]).glob("updates/**/*.ko"))
            self.put(f"usr/lib/modules/{words[4]}/modules.dep", "".join(f"{Path(m).name}:\n" for m in modules))
        return Reply()

    @contextlib.contextmanager
    def _in_sandbox(self, merged: Path) -> Iterator[None]:
        """What is done to the node's files in the body happens in ``merged``, and shows in the upper folders."""
        outside, self.root = self.root, merged
        try:
            yield
        finally:
            self.root = outside
            for overlay in self.overlays:
                overlay.sync([other.merged for other in self.overlays if other is not overlay])

    def _answer(self, words: list[str]) -> Reply:
        name = words[0].replace("-", "_")
        handler = getattr(self, f"_do_{name}", None)
        if handler is None:
            raise AssertionError(f"the fake node has no such program: {words}")
        answer: Reply = handler(words[1:])
        return answer

    def _do_ctr(self, words: list[str]) -> Reply:
        if not self.daemon_ready:
            return Reply(1, err='ctr: failed to dial "/run/containerd/containerd.sock": connection refused\n')
        if words == ["version"]:
            return Reply()
        assert words[:2] == ["-n", "k8s.io"], words
        return self._ctr(words[2:])

    def _ctr(self, words: list[str]) -> Reply:
        what = words[:2]
        if what[0] == "images":
            return self._images(what[1], words[2:])
        if what == ["content", "get"]:
            return Reply(out=json.dumps(self.content[words[2]])) if words[2] in self.content else Reply(1, err="not found")
        if what == ["containers", "ls"]:
            return Reply(out="".join(f"{c}\n" for c in self.containers))
        if what == ["containers", "rm"]:
            self.containers.remove(words[2])
            return Reply()
        if what == ["run", "--rm"]:
            return Reply(out=self.entrypoint) if words[3:] == ["gpuask", "cat", "/entrypoint.sh"] else Reply(1, err="no such file")
        if what == ["run", "--privileged"]:
            source = next(word for word in words if "dst=/mnt/gpu" in word).split("src=")[1].split("/opt/gpu")[0]
            if source:
                with self._in_sandbox(Path(source)):
                    return self._run_driver(words[-3], words[-1])
            return self._run_driver(words[-3], words[-1])
        assert what[0] in ("tasks", "snapshots"), words
        return Reply()

    def _images(self, command: str, words: list[str]) -> Reply:
        if words == ["--help"]:
            return Reply(out=self.help)
        if command == "ls":
            shown = {r: d for r, d in self.images.items() if words in (["-q"], [f"name=={r}"], [])}
            return Reply(out="".join(f"{r}\n" for r in shown) if words == ["-q"] else images_listing(shown, self.pinned))
        if command == "pull":
            reply = self.pulls.pop(0) if self.pulls else Reply()
            if reply.rc == 0:
                self.add_image(words[-1], config=self.remote.get(words[-1], CONFIG_DIGEST))
            return reply
        if command == "import":
            return self._import(words)
        if command == "tag":
            self.images[words[2]] = self.images[words[1]]
        elif command == "rm":
            assert words[0] == "--sync"
            for name in words[1:]:
                self.images.pop(name, None)
        else:
            assert command == "label", words
        return Reply()

    def _import(self, words: list[str]) -> Reply:
        """As containerd 1.6: the names in the archive, and one by digest below the base name; both stay where unpacking failed."""
        for name in (*self.archive_names, f"{words[words.index('--base-name') + 1]}@{digest('archived')}"):
            self.add_image(name)
        return self.imports.pop(0) if self.imports else Reply()

    def _run_driver(self, container: str, action: str) -> Reply:
        assert (self.root / "opt/gpu").is_dir(), "the contract's folder is not there"
        assert container not in self.containers, "already exists"
        self.containers.append(container)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        reply = script(self, action)
        if reply.seconds < KILLED and container in self.containers:  # ctr lived to the end, and --rm removed it
            self.containers.remove(container)
        return reply

    def _do_containerd(self, words: list[str]) -> Reply:
        if words == ["--version"]:
            return Reply(out="containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n")
        assert words == ["config", "dump"]
        file = self.root / DROPIN
        return Reply(out="base\n" + (file.read_text(encoding="utf-8") if file.exists() else ""))

    def _do_modinfo(self, words: list[str]) -> Reply:
        if len(words) == 1:
            file = Path(words[0])
        else:
            assert (words[0], words[2]) == ("-b", "-k")
            file = Path(words[1]) / "lib/modules" / words[3] / "updates/dkms" / f"{words[4]}.ko"
        if not file.is_file():
            return Reply(1, err=f"modinfo: ERROR: Module {words[-1]} not found.\n")
        data = file.read_bytes()
        signer = "signer:         somebody\n" if data.endswith(module_signature.MARKER) else ""
        return Reply(out=f"filename:       {file}\n{signer}" + data.decode("utf-8", "replace"))

    def loaded_names(self) -> list[str]:
        return [line.split()[0].replace("_", "-") for line in (self.root / "proc/modules").read_text().splitlines()]

    def insert(self, name: str, version: str) -> None:
        kernel_name = name.replace("-", "_")
        table = self.root / "proc/modules"
        lines = [line for line in table.read_text().splitlines() if line.split()[0] != kernel_name]
        # A kernel shows no module without its version: killed between these two, the version alone is there, which nobody reads.
        self.put(f"sys/module/{kernel_name}/version", version + "\n")
        table.write_text("".join(f"{line}\n" for line in [f"{kernel_name} 16384 0 - Live 0x0000000000000000 (OE)", *lines]))

    def _do_modprobe(self, words: list[str]) -> Reply:
        if words[0] == "-r":
            name = words[1]
            if name in self.held_modules:
                return Reply(1, err=f"modprobe: FATAL: Module {name} is in use.\n")
            table = self.root / "proc/modules"
            lines = [line for line in table.read_text().splitlines() if line.split()[0] != name.replace("-", "_")]
            table.write_text("".join(f"{line}\n" for line in lines))
            return Reply()
        name = words[0]
        if name in self.loaded_names():
            return Reply()
        if self.insert_error:
            return Reply(1, err=f"modprobe: ERROR: could not insert '{name}': {self.insert_error}\n")
        info = self._do_modinfo(["-b", str(self.root), "-k", self.kver, name])
        if info.rc:
            return Reply(1, err=f"modprobe: FATAL: Module {name} not found in directory /lib/modules/{self.kver}\n")
        fields = {line.split(":")[0]: line.split(":", 1)[1].strip() for line in info.out.splitlines()}
        if fields["vermagic"].split()[0] != self.kver:
            return Reply(1, err=f"modprobe: ERROR: could not insert '{name}': Exec format error\n")
        self.insert(name, fields["version"])
        return Reply()

    def _do_nvidia_smi(self, words: list[str]) -> Reply:
        return self.smi

    def _do_nvidia_modprobe(self, words: list[str]) -> Reply:
        if self.makes_no_nodes:
            return Reply(1)  # it says nothing then
        self.put("dev/nvidiactl")
        return Reply()

    def _do_dmesg(self, words: list[str]) -> Reply:
        return Reply(out=self.dmesg)

    def _do_systemctl(self, words: list[str]) -> Reply:
        if words == ["restart", "containerd"]:
            self.put("run/containerd-config", self._do_containerd(["config", "dump"]).out)
        return Reply()

    def _do_depmod(self, words: list[str]) -> Reply:
        return Reply(err=self.depmod_says) if "-e" in words else Reply()

    def _do_ldconfig(self, words: list[str]) -> Reply:
        return Reply()

    def _do_lsinitramfs(self, words: list[str]) -> Reply:
        return Reply(out=Path(words[0]).read_text(encoding="utf-8"))

    def _do_update_initramfs(self, words: list[str]) -> Reply:
        assert words[:2] == ["-u", "-k"], words
        conf = "".join(f"{p.relative_to(self.root)}\n" for p in sorted((self.root / "etc/modprobe.d").glob("*.conf")))
        self.put(f"boot/initrd.img-{words[2]}", "init\n" + conf)
        return Reply()

    def _bind(self, verb: str, address: str, path: str) -> Reply:
        """As sysfs does where an address is written to a driver's ``bind`` or ``unbind``."""
        driver, _slash, name = path.removeprefix("/sys/bus/pci/drivers/").partition("/")
        assert name == verb, path
        link = self.root / f"sys/bus/pci/devices/{address}/driver"
        if self.bound_for_good:
            return Reply(seconds=KILLED)
        if (verb == "unbind") is not link.is_symlink():
            return Reply(1, err="sh: 1: printf: I/O error\n")
        if verb == "bind":
            self.link(str(link.relative_to(self.root)), f"../../drivers/{driver}")
        else:
            link.unlink()
        return Reply()

    def _do_ldd(self, words: list[str]) -> Reply:
        return Reply(out="\tlinux-vdso.so.1 (0x00007ffd)\n")

    def _do_udevadm(self, words: list[str]) -> Reply:
        assert words == ["settle"], words
        return Reply()

    def _do_sh(self, words: list[str]) -> Reply:
        if words[-1].startswith("/sys/bus/pci/drivers/"):
            return self._bind(*words[2:])
        return Reply(1 if words[-1] in self.missing_programs else 0)

    def _do_dpkg_query(self, words: list[str]) -> Reply:
        names = words[3:]
        return Reply(out="".join(f"{name} installed\n" for name in names if name not in self.missing_programs))

    def _do_umount(self, words: list[str]) -> Reply:
        return Reply()


@dataclass(frozen=True)
class FakeOverlay:
    """An overlay by copying: ``merged`` begins as a copy of ``lower``, and ``sync`` writes into ``upper`` what differs then.

    ``copied_up`` are paths that a real one would have copied up as well, without a change.
    """

    lower: Path
    upper: Path
    merged: Path
    copied_up: list[str] = field(default_factory=list)

    def mount(self, store: Path) -> None:
        def ignored(folder: str, names: list[str]) -> list[str]:
            return [name for name in names if Path(folder, name) == store]

        for path in self.merged.iterdir():
            self._remove(path)
        shutil.copytree(self.lower, self.merged, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        for path in self.upper.rglob("*"):
            if stat.S_ISCHR(path.lstat().st_mode):
                self._remove(self.merged / path.relative_to(self.upper))

    def sync(self, others: Collection[Path] = ()) -> None:
        """``others`` are what else is mounted, in which this one has no part."""
        for path in sorted(self.merged.rglob("*")):
            inside = path.relative_to(self.merged)
            if any(path.is_relative_to(other) and other != path and not self.merged.is_relative_to(other) for other in others):
                continue
            if str(inside) in self.copied_up or self._differs(path, self.lower / inside):
                self._copy_up(inside)
        for path in sorted(self.lower.rglob("*")):
            inside = path.relative_to(self.lower)
            if any((self.merged / inside).is_relative_to(other) and not self.merged.is_relative_to(other) for other in others):
                continue
            above = self.merged / inside.parent
            is_seen = above.is_symlink() or not above.is_dir() or str(inside).startswith(STORE)
            if not is_seen and not os.path.lexists(self.merged / inside):
                self._parents(inside)
                self._remove(self.upper / inside)
                os.mknod(self.upper / inside, stat.S_IFCHR, os.makedev(0, 0))

    def _differs(self, path: Path, other: Path) -> bool:
        if not os.path.lexists(other):
            return True
        one, two = path.lstat(), other.lstat()
        if one.st_mode != two.st_mode:
            return True
        if stat.S_ISLNK(one.st_mode):
            return path.readlink() != other.readlink()
        return stat.S_ISREG(one.st_mode) and path.read_bytes() != other.read_bytes()

    def _copy_up(self, inside: Path) -> None:
        self._parents(inside)
        source, target = self.merged / inside, self.upper / inside
        if source.is_dir() and not source.is_symlink():
            if target.exists() and not target.is_dir():
                target.unlink()
            target.mkdir(exist_ok=True)
            target.chmod(source.stat().st_mode & 0o7777)
            return
        self._remove(target)
        if stat.S_ISFIFO(source.lstat().st_mode):
            os.mkfifo(target)
        else:
            shutil.copy2(source, target, follow_symlinks=False)

    def _parents(self, inside: Path) -> None:
        for parent in reversed(list(inside.parents)[:-1]):
            if not (self.upper / parent).is_dir():
                (self.upper / parent).unlink(missing_ok=True)
                (self.upper / parent).mkdir()
            (self.upper / parent).chmod((self.merged / parent).stat().st_mode & 0o7777)

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class FakeRunning:
    """A program in the background that says one line; ``at_end`` is what it does when its input ends, None for one that was killed."""

    def __init__(self, says: str = "", at_end: Callable[[], None] | None = lambda: None) -> None:
        self.says = says
        self.at_end = at_end

    def line(self, timeout_s: float) -> str:
        return self.says

    def end(self, timeout_s: float) -> int | None:
        if self.at_end is None:
            return -9
        self.at_end()
        return 0


def images_listing(images: Mapping[str, str], pinned: Collection[str] = ()) -> str:
    """As ``ctr images ls`` of containerd 1.6 prints it."""
    kind = "application/vnd.oci.image.index.v1+json"
    rows = [
        f"{reference} {kind} {target} 245.1 MiB linux/amd64 {'io.cri-containerd.pinned=pinned' if reference in pinned else '-'}"
        for reference, target in images.items()
    ]
    return "\n".join(["REF TYPE DIGEST SIZE PLATFORMS LABELS", *rows]) + "\n"


def behave(node: FakeNode, action: str) -> Reply:
    """A driver image that does what it is asked, and takes a minute and a half for a compile."""
    if action in ("build-only", "install"):
        node.build()
    if action in ("install", "install-skip-build"):
        node.insert("nvidia", VERSION)
        node.initialise_device()
    return Reply(out="T 1 done\n", seconds=90.0 if action != "install-skip-build" else 5.0)


def bake_layer(node: FakeNode, **build: Any) -> manifest.Manifest:
    """Builds on the node and records it as a bake would."""
    before = footprint.listing(node.root)
    node.build(**build)
    change = difference(before, footprint.listing(node.root))
    flavour = {"NVIDIA": "proprietary"}.get(build.get("licence", ""), "open")
    who = identity(
        kver=build.get("kver") or node.kver, version=build.get("version", VERSION), kind=build.get("kind", "cuda"), flavour=flavour
    )
    layer = a_manifest(who, files=describe(node.root, change.added))
    layers.write(node.root, layer)
    return layer
