"""The layers of the driver images: root filesystem, stand-in driver, NVIDIA's driver, and the contract's own files.

Content comes from lab/images; C code is compiled by the machine's gcc, Debian's packages are fetched from its mirror.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.driverimages import ocilayout
from lab.machine import host, paths, sources
from lab.machine.errors import LabError
from lab.machine.progress import step

IMAGES = paths.TOP / "lab/images"
GPU = "opt/gpu"
TIMEOUT_S = 600.0

BASE_PACKAGES = ("bash", "coreutils", "util-linux")  # what entrypoint.sh starts; install.sh runs with the host's tools
BASE_KEPT = ("bin", "etc/passwd", "etc/group", "lib", "lib64", "sbin", "usr")
BASE_DROPPED = ("doc", "man", "locale", "info", "lintian", "bash-completion", "common-licenses", "perl5", "bug")

NVIDIA_PACKAGES = (
    "firmware-nvidia-gsp",
    "libcuda1",
    "libnvidia-cfg1",
    "libnvidia-ml1",
    "libnvidia-ptxjitcompiler1",
    "nvidia-driver",  # NVIDIA's list of supported GPUs is in its documentation
    "nvidia-kernel-dkms",
    "nvidia-modprobe",
    "nvidia-smi",
)

PROGRAMS = ("nvidia-smi", "nvidia-modprobe")
LIBRARIES = ("libnvidia-ml", "libcuda")
DAEMONS = {"fabricmanager": "nv-fabricmanager", "persistenced": "nvidia-persistenced", "toolkit": ""}
"""Packages in lab/images/packages, and the program that is compiled into each."""


def content_key() -> list[str]:
    """Everything in lab/images, and the compiler's version."""
    compiler = host.run(["gcc", "--version"], timeout_s=TIMEOUT_S).stdout.partition("\n")[0]
    files = sorted(path for path in IMAGES.rglob("*") if path.is_file() and path.name != "README.md")
    content = [f"{path.relative_to(IMAGES)}\0{_mode(path):o}\0{path.read_text()}" for path in files]
    return [compiler, _source(), *content]


def base_key() -> list[str]:
    """What the shared root filesystem is made from."""
    return ["base", sources.lab_sources(), _source()]


def build_base(out: Path) -> None:
    """Write the layer of the shared root filesystem: bash and the few programs that entrypoint.sh needs."""
    log = paths.make_private(paths.cache() / "logs") / "driver-base.log"
    log.unlink(missing_ok=True)
    with step("driver images: shared root filesystem"), _scratch(out) as scratch:
        sources_file, root, kept = scratch / "sources.list", scratch / "root", scratch / "kept"
        sources_file.write_text(sources.lab_sources())
        argv = ["mmdebstrap", "--variant=extract", "--mode=root", f"--include={','.join(BASE_PACKAGES)}"]
        host.run([*argv, sources.RELEASE, str(root), str(sources_file)], timeout_s=TIMEOUT_S, log=log)
        for name in BASE_DROPPED:
            shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
        for name in BASE_KEPT:
            if (root / name).exists():
                (kept / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).rename(kept / name)
        for name in ("dev", "mnt/actions", "mnt/gpu", "proc", "run", "sys", "tmp"):
            (kept / name).mkdir(parents=True)
        (kept / "bin/sh").symlink_to("bash")
        ocilayout.write_layer(kept, out)


def build_standin(out: Path, version: str, licence: str, fault: str) -> None:
    """Write the layer of the stand-in driver: DKMS source, libraries, programs."""
    with _scratch(out) as scratch:
        driver = scratch / "tree" / GPU / "driver"
        source = driver / "src"
        _copy(IMAGES / "standin/module", source)
        _fill_in(source / "dkms.conf", version)
        (source / "fault.mk").write_text(f"STANDIN_FAULT := {fault}\n")
        (source / "standin-config.h").write_text(config_header(licence, fault))
        for name in ("bin", "lib"):
            (driver / name).mkdir()
        for name in PROGRAMS:
            _compile(name, driver / "bin" / name, version)
        (driver / "bin/nvidia-modprobe").chmod(0o4755)
        for name in LIBRARIES:
            _compile(name, driver / f"lib/{name}.so.{version}", version, "-fPIC", "-shared", f"-Wl,-soname,{name}.so.1")
            (driver / f"lib/{name}.so.1").symlink_to(f"{name}.so.{version}")
            (driver / f"lib/{name}.so").symlink_to(f"{name}.so.1")
        ocilayout.write_layer(scratch / "tree", out)


def config_header(licence: str, fault: str) -> str:
    """Text of the stand-in module's standin-config.h."""
    lines = [f'#define STANDIN_LICENSE "{licence}"']
    if fault == "compile":
        lines.append("#define STANDIN_FAULT_COMPILE")
    return "\n".join([*lines, ""])


def nvidia_key() -> list[str]:
    """What NVIDIA's driver is made from. Its version is the one that the mirror has on the day of the download."""
    return [sources.lab_sources(), _source()]


def build_nvidia(out: Path) -> None:
    """Fetch NVIDIA's packages by apt, without installing them, and arrange the driver as `out`/tree, with upstream's names."""
    with step("driver images: NVIDIA's packages from Debian"), _scratch(out) as scratch:
        _download(scratch)
        unpacked = scratch / "unpacked"
        for package in sorted(scratch.glob("*.deb")):
            host.run(["dpkg-deb", "-x", str(package), str(unpacked)], timeout_s=TIMEOUT_S)
        _arrange(unpacked, out / "tree" / GPU / "driver")
    nvidia_version(out)


def pack_nvidia(nvidia: Path, out: Path) -> None:
    """Write the layer of NVIDIA's driver."""
    with step("driver images: packing NVIDIA's driver"):
        ocilayout.write_layer(nvidia / "tree", out)


def nvidia_version(nvidia: Path) -> str:
    """Version of the driver in an entry made by `build_nvidia`, as its libraries are named."""
    libraries = nvidia / "tree" / GPU / "driver/lib"
    found = {path.name.partition(".so.")[2] for path in libraries.glob("*.so.*") if not path.is_symlink()}
    firmware = {path.name for path in (nvidia / "tree" / GPU / "driver/firmware").glob("gsp_*.bin")}
    if len(found) != 1 or not firmware:
        raise LabError(
            f"NVIDIA's packages from Debian do not fit together: libraries {sorted(found)}, firmware {sorted(firmware)}; "
            "expected libraries of one version and GSP firmware: check what the mirror's security suite has"
        )
    return found.pop()


def build_top(out: Path, version: str, config: str, is_older: bool) -> None:
    """Write the top layer: entrypoint (without the newer actions if `is_older`), install.sh, the files that it reads, packages."""
    with _scratch(out) as scratch:
        tree = scratch / "tree"
        gpu = tree / GPU
        for name, target in (("entrypoint.sh", tree), ("install.sh", tree / "opt/actions")):
            _copy(IMAGES / "common" / name, target / name)
        if is_older:
            entrypoint = tree / "entrypoint.sh"
            lines = entrypoint.read_text().splitlines(keepends=True)
            entrypoint.write_text("".join(line for line in lines if not line.endswith("# not in older images\n")))
        for path in sorted((IMAGES / "common").iterdir()):
            if not path.name.endswith(".sh"):
                _copy(path, gpu / path.name)
        (gpu / "config.sh").write_text(config)
        for name, program in DAEMONS.items():
            folder = gpu / "packages" / ("fabricmanager" if name == "fabricmanager" else "toolkit")
            _package(name, program, version, scratch / name, folder)
        ocilayout.write_layer(tree, out)


def _package(name: str, program: str, version: str, tree: Path, folder: Path) -> None:
    """Build the Debian package in lab/images/packages/`name` into `folder`."""
    _copy(IMAGES / "packages" / name, tree)
    _fill_in(tree / "DEBIAN/control", version)
    if program:
        (tree / "usr/bin").mkdir(parents=True)
        _compile(program, tree / "usr/bin" / program, version)
    pack_package(tree, folder)


def pack_package(tree: Path, folder: Path) -> None:
    """Build the Debian package of `tree` into `folder`, named by its name and version."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(folder)]
    host.run(argv, timeout_s=TIMEOUT_S, env={"SOURCE_DATE_EPOCH": str(ocilayout.EPOCH_S)})


def _compile(source: str, target: Path, version: str, *flags: str) -> None:
    define = f'-DSTANDIN_VERSION="{version}"'
    code = IMAGES / f"standin/user/{source}.c"
    argv = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-s", define, *flags, "-o", str(target), str(code)]
    host.run(argv, timeout_s=TIMEOUT_S)
    target.chmod(0o755)


def _download(folder: Path) -> None:
    """Fetch NVIDIA_PACKAGES into `folder` with package lists of our own: the machine's apt is left as it is."""
    sources_file = folder / "sources.list"
    sources_file.write_text(sources.lab_sources())
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    options = {
        "Dir::Etc::SourceList": str(sources_file),
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": str(folder / "state"),
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": str(folder / "cache"),
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    host.run([*apt, "update"], timeout_s=TIMEOUT_S)
    # apt downloads into the current folder
    host.run(["env", "-C", str(folder), *apt, "download", *NVIDIA_PACKAGES], timeout_s=TIMEOUT_S)


def _arrange(unpacked: Path, driver: Path) -> None:
    """Move the needed files of Debian's unpacked packages to where nvidia-installer looks for them, under upstream's names."""
    driver.mkdir(parents=True)
    source = _only(unpacked / "usr/src", "nvidia-current-*")
    source.rename(driver / "src")
    conf = driver / "src/dkms.conf"
    # Debian's modules are called nvidia-current*, for no other reason than the name of the package.
    conf.write_text(conf.read_text().replace('PACKAGE_NAME="nvidia-current"', 'PACKAGE_NAME="nvidia"'))
    _only(unpacked / "lib/firmware/nvidia", "*").rename(driver / "firmware")
    for name in ("bin", "lib"):
        (driver / name).mkdir()
    for library in sorted(unpacked.glob("usr/lib/x86_64-linux-gnu/**/*.so*")):
        library.rename(driver / "lib" / library.name)
    (unpacked / "usr/lib/nvidia/current/nvidia-smi").rename(driver / "bin/nvidia-smi")
    (unpacked / "usr/bin/nvidia-modprobe").rename(driver / "bin/nvidia-modprobe")
    (driver / "bin/nvidia-modprobe").chmod(0o4755)
    supported = _only(unpacked / "usr/share/doc/nvidia-driver", "supported-gpus.json*")
    supported.rename(driver / supported.name)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise LabError(f"NVIDIA's packages from Debian: expected one {pattern} in {folder.name}, found {len(found)}")
    return found[0]


def _copy(source: Path, target: Path) -> None:
    """Copy a file or tree, with modes that do not depend on the umask or the checkout."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(0o755)
        for path in sorted(source.iterdir()):
            _copy(path, target / path.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(_mode(source))


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def _fill_in(path: Path, version: str) -> None:
    path.write_text(path.read_text().replace("@VERSION@", version))


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A temporary folder in `out`, deleted when the build ends."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".scratch-") as folder:
        yield Path(folder)


def _source() -> str:
    return Path(__file__).read_text()
