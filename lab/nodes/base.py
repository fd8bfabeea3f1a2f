"""The bases: Debian root filesystems from which native nodes and VMs are made; the usual one has both cloud kernels."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.machine import cache, host, paths, sources, ssh
from lab.machine.errors import LabError
from lab.machine.progress import say, step

REGISTRY_ADDRESS = "10.213.0.1"
REGISTRY_PORT = 5000
REGISTRY_NAME = f"registry.lab:{REGISTRY_PORT}"
"""The registry's name on nodes, defined in their /etc/hosts and in containerd's hosts.toml."""

PACKAGES = (
    "apt",
    "attr",
    "ca-certificates",
    "containerd",
    "dbus",
    "dkms",
    "gcc",
    "initramfs-tools",
    "iproute2",
    "iptables",
    "kmod",
    "libc6-dev",
    "lsof",
    "make",
    "mount",
    "openssh-server",
    "pciutils",
    "procps",
    "python3-apt",
    "python3-minimal",
    "runc",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "zstd",
)

# The metapackages have the same names in both suites. So the packages on which those of backports depend are installed
# by name; apt does not choose backports by itself (priority 100). The headers bring their own compiler and pahole.
BACKPORTS_NAMES = """
import apt
for name in "linux-image-cloud-amd64", "linux-headers-cloud-amd64":
    for version in apt.Cache()[name].versions:
        if any(origin.archive.endswith("-backports") for origin in version.origins):
            print(version.dependencies[0][0].name)
            break
"""
BACKPORTS_HOOK = f"""
set -eu
# systemd-resolved, just installed, has made this a link to what is not there yet
mv "$1/etc/resolv.conf" "$1/etc/resolv.conf.link"
cat /etc/resolv.conf > "$1/etc/resolv.conf"
wanted=$(chroot "$1" /usr/bin/python3 -c {shlex.quote(BACKPORTS_NAMES)})
[ "$(echo "$wanted" | wc -w)" = 2 ] || {{ echo "no cloud kernel with headers in backports, only: $wanted"; exit 1; }}
chroot "$1" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $wanted
mv "$1/etc/resolv.conf.link" "$1/etc/resolv.conf"
"""

FILES = {
    "etc/hostname": "node\n",
    "etc/hosts": f"127.0.0.1 localhost node\n{REGISTRY_ADDRESS} registry.lab\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/systemd/network/80-dhcp.network": "[Match]\nName=eth* en*\n\n[Network]\nDHCP=yes\n",
    "etc/containerd/config.toml": (
        "version = 2\n"
        'imports = ["/etc/containerd/config.d/*.toml"]\n\n'
        '[plugins."io.containerd.grpc.v1.cri".registry]\n'
        '  config_path = "/etc/containerd/certs.d"\n'
    ),
    f"etc/containerd/certs.d/{REGISTRY_NAME}/hosts.toml": (
        f'server = "http://{REGISTRY_NAME}"\n\n[host."http://{REGISTRY_NAME}"]\n  capabilities = ["pull", "resolve"]\n'
    ),
    # VMs have a virtio disk and nothing else, and a small initramfs unpacks faster under emulation.
    "etc/initramfs-tools/conf.d/lab": "MODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
}
FOLDERS = ("etc/containerd/config.d",)

# The lab needs none of these, and each costs a second or more of an emulated boot.
MASKED = (
    "systemd-networkd-wait-online.service",
    "e2scrub_reap.service",
    "e2scrub_all.timer",
    "systemd-pstore.service",
)
ENABLED = ("systemd-networkd", "systemd-resolved", "ssh", "containerd")


@dataclass(frozen=True)
class Variant:
    """One base: its kernel packages, how many kernels it has in all, whether one of these comes from backports, and whether
    `update-initramfs -u` does its work there, which takes most of a minute under emulation."""

    name: str
    kernel_packages: tuple[str, ...]
    kernels: int
    with_backports: bool
    updates_initramfs: bool


CLOUD = Variant("cloud", ("linux-headers-cloud-amd64", "linux-image-cloud-amd64"), 2, with_backports=True, updates_initramfs=False)
# One kernel only: update-initramfs takes the newest, and that must be the one that boots.
GENERIC = Variant("generic", ("linux-headers-amd64", "linux-image-amd64"), 1, with_backports=False, updates_initramfs=True)
VARIANTS = {variant.name: variant for variant in (CLOUD, GENERIC)}


@dataclass(frozen=True)
class Kernel:
    """One kernel of a root filesystem: its release and the files that QEMU boots."""

    kver: str
    vmlinuz: Path
    initrd: Path


def root(variant: Variant = CLOUD) -> Path:
    """The base's root filesystem, built on first use (needs root). Copy it; never boot or change it."""
    host.need_root("building the base")
    host.need_tools("mmdebstrap", "ssh-keygen", "unshare")
    return cache.entry("base", key_parts(variant), lambda folder: _build(folder, variant), keep=4) / "root"


def key_parts(variant: Variant = CLOUD) -> list[str]:
    """Everything that determines what the base contains."""
    public = Path(f"{ssh.key()}.pub").read_text()
    recipe = mmdebstrap_argv(Path("OUT"), Path("SOURCES"), Path("OVERLAY"), Path("KEY"), variant)
    return [*recipe, repr(FILES), repr(FOLDERS), sources.lab_sources(), public]


def kernels(boot: Path) -> list[Kernel]:
    """The kernels in a boot folder, oldest first; those without an initrd are left out."""
    found = [
        Kernel(image.name.removeprefix("vmlinuz-"), image, boot / image.name.replace("vmlinuz-", "initrd.img-"))
        for image in boot.glob("vmlinuz-*")
    ]
    return sorted((kernel for kernel in found if kernel.initrd.is_file()), key=lambda kernel: version_key(kernel.kver))


def choose(available: Sequence[Kernel], wanted: str) -> Kernel:
    """The kernel whose release is `wanted` or which belongs to that series (`6.1`). Raises LabError unless there is exactly one."""
    exact = [kernel for kernel in available if kernel.kver == wanted]
    series = [kernel for kernel in available if re.match(re.escape(wanted) + r"[.+-]", kernel.kver)]
    match = exact or series
    if len(match) != 1:
        names = ", ".join(kernel.kver for kernel in available) or "none"
        raise LabError(f"kernel {wanted!r} matches {len(match)} of the kernels here ({names}): give the full release of one")
    return match[0]


def version_key(kver: str) -> tuple[int, ...]:
    """Order of kernel releases: by their numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", kver))


def mmdebstrap_argv(out: Path, sources_file: Path, overlay: Path, public_key: Path, variant: Variant = CLOUD) -> list[str]:
    """Command line that makes the root filesystem `out`; `overlay` holds the lab's files, copied over it."""
    early = f'cp -a {shlex.quote(str(overlay))}/etc/initramfs-tools "$1/etc/"'
    packages = sorted((*PACKAGES, *variant.kernel_packages))
    no_update = 'sed -i "s/^update_initramfs=.*/update_initramfs=no/" "$1/etc/initramfs-tools/update-initramfs.conf"'
    late = (
        *([BACKPORTS_HOOK] if variant.with_backports else []),
        f'cp -a {shlex.quote(str(overlay))}/. "$1/"',
        f'install -D -m 600 {shlex.quote(str(public_key))} "$1/root/.ssh/authorized_keys"; chmod 700 "$1/root/.ssh"',
        *([] if variant.updates_initramfs else [no_update]),
        f'chroot "$1" systemctl -q enable {" ".join(ENABLED)}',
        f'chroot "$1" systemctl -q mask {" ".join(MASKED)}',
        # Empty, not "uninitialized": with that, the first boot applies systemd's presets, which takes seconds under emulation.
        ': > "$1/etc/machine-id"',
    )
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [
        *isolated,
        *("mmdebstrap", "--variant=minbase", "--skip=check/empty", "--mode=root", f"--include={','.join(packages)}"),
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale", "info")),
        f"--essential-hook={early}",
        *(f"--customize-hook={hook}" for hook in late),
        *(sources.RELEASE, str(out), str(sources_file)),
    ]


def _build(folder: Path, variant: Variant) -> None:
    sources_file, overlay = folder / "sources.list", folder / "overlay"
    sources_file.write_text(sources.lab_sources())
    write_files(overlay)
    log = paths.make_private(paths.cache() / "logs") / f"base-{variant.name}.log"
    log.unlink(missing_ok=True)
    say(f"base: building a Debian {sources.RELEASE} root filesystem, {variant.name}; log: {log}")
    with step("base: mmdebstrap"):
        argv = mmdebstrap_argv(folder / "root", sources_file, overlay, Path(f"{ssh.key()}.pub"), variant)
        host.run(argv, timeout_s=1800, log=log)
    found = kernels(folder / "root/boot")
    if len(found) != variant.kernels:
        raise LabError(f"the base has {len(found)} kernels, expected {variant.kernels}; see {log}")
    say("base: kernels " + ", ".join(kernel.kver for kernel in found))


def write_files(overlay: Path) -> None:
    """Put the lab's own files into `overlay`."""
    for name, text in FILES.items():
        path = overlay / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in FOLDERS:
        (overlay / name).mkdir(parents=True, exist_ok=True)
