"""Every reader of what others wrote, for tests that give it anything: each reads a file's bytes, and must return or raise GpuNodeError."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import evidence
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.diagnosis import Evidence, judge
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import (
    archive,
    build_log,
    containerd_config,
    image_files,
    marker,
    pull_errors,
    reference,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.driver_container import actions_in
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.registry import ImageSource
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.runtime_errors import not_started
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import (
    dkms,
    foreign,
    gpu_list,
    initramfs,
    kmod,
    modules,
    nouveau_blacklist,
    nvidia_smi,
    services,
    supported_gpus,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.gpu_list import Driver
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION,
    ACTIVATION_JOURNAL,
    BAKE_REPORT,
    INSTALLED_FILES,
    NODE_RECORD,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import (
    activation_record,
    installed_files,
    layers,
    node_record,
    reports,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import (
    bootloader,
    certificate,
    dpkg,
    host,
    keyrings,
    module_signature,
    mounts,
    toolchain,
    vpd,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import jsondoc
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import Result

from gpu_prebake import nodes
from tests.kit import archives, gpu_lists
from tests.kit.values import DATA, IMAGE, KVER, MARKER, VERSION, digest
from tests.kit.vpd import product_data

BOOTED = DATA / "documents-0.1.0/captured-booted"
LAYER = f"cuda-{VERSION}-open-{KVER}"
XID = "[    9.1] NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus.\n"
LOADED = "[    1.0] nvidia-nvlink: Nvlink Core is being initialized, major 240\n"
DMESG = f"[    0.0] Linux version 6.1\n{LOADED}{XID}nvidia: Unknown symbol x (err -2)\n"
OPENSSL = "subject=\n    CN=a\nserial=0A\nnotBefore=Nov 25 22:39:26 2026 GMT\nnotAfter=Nov 25 22:39:26 2036 GMT\nsha256 Fingerprint=AA:BB\n"
LISTING = (
    f"REF TYPE DIGEST SIZE PLATFORMS LABELS\n{IMAGE} application/x {digest('a')} 1.0 MiB linux/amd64 io.cri-containerd.pinned=pinned\n"
)
STATUS = (
    "Package: nvidia-fabricmanager-580\nStatus: install ok installed\nVersion: 1:580.1-1\n\nPackage: x\nStatus: deinstall ok config-files\n"
)
INDEX = {"manifests": [{"digest": digest("m"), "platform": {"os": "linux", "architecture": "amd64"}}]}
FRAMEWORK = 'mok_signing_key="/etc/keys/mok.key"\nexport mok_certificate=/etc/keys/mok.der # mine\ndkms_tree=/srv/x; x=1\n'
FLAGS = 'version = 2\nimports = ["/etc/containerd/config.d/*.toml"]\n[plugins]\n'
DUMP = (
    'version = 2\nimports = ["/etc/containerd/config.d/a.toml", "/etc/containerd/config.toml"]\noom_score = 0\n\n[cgroup]\n  path = ""\n\n'
    '[plugins]\n\n  [plugins."io.containerd.grpc.v1.cri"]\n    x = [1, 2.5, true, 2026-01-01]\n    y = {z = "a.b"}\n\n[[proxy]]\n'
)
EVENTS = [
    {"event": "runner_on_ok", "event_data": {"host": "n", "task": "t", "task_action": "gpu_boot", "res": {"changed": True, "msg": "x"}}},
    {"event": "verbose", "stdout": "n | 1.00 line\r\n\x1b[31mred", "event_data": {}},
]


class Answers:
    """A runner whose programs all print the same."""

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, argv: Sequence[str], *_: Any, **__: Any) -> Result:
        return Result(0, self.text, self.text, 0.0)

    def start(self, argv: Sequence[str]) -> Any:
        raise AssertionError(argv)


def text_of(data: bytes) -> str:
    """As a program's output is decoded."""
    return data.decode("utf-8", "replace")


@dataclass(frozen=True)
class Reader:
    """``read`` gets an empty folder and the bytes. ``seeds`` are good inputs, from which odd ones are made."""

    read: Callable[[Path, bytes], object]
    seeds: tuple[bytes, ...]


def at(path: str, read: Callable[[Path], object], *seeds: str | bytes | Path) -> Reader:
    """A reader of the file at ``path`` in a system."""

    def reading(root: Path, data: bytes) -> object:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return read(root)

    return Reader(reading, _seeds(seeds))


def printed(read: Callable[[str], object], *seeds: str | bytes | Path) -> Reader:
    """A reader of a program's output."""
    return Reader(lambda _root, data: read(text_of(data)), _seeds(seeds))


def _seeds(given: Sequence[str | bytes | Path]) -> tuple[bytes, ...]:
    return tuple(one.read_bytes() if isinstance(one, Path) else one.encode() if isinstance(one, str) else one for one in given)


def _manifest(root: Path) -> None:
    for layer in layers.read_all(root)[0]:
        Store(root).problems(layer.files)
        layers.newer(root)


def _activation(root: Path) -> None:
    active = activation_record.read(root)
    if active:
        assert active.activated_ns is not None
        Store(root).problems(active.placed)


def _grub(root: Path, environment: bytes = b"") -> None:
    (root / bootloader.ENVIRONMENT).write_bytes(environment)
    bootloader.default_kernel(root)


def _grubenv(root: Path) -> None:
    (root / bootloader.CONFIG).write_text("set default=\"${saved_entry}\"\nmenuentry 'x' {\nlinux /vmlinuz-6.1-a\n}\n")
    bootloader.default_kernel(root)


def _registry(text: str) -> None:
    asked = Containerd(Answers(text))
    asked.config_behind(digest("x"), "x86_64")
    jsondoc.get({"x": asked._content("x")}, "x", dict, "here", "bad_data")


def _image_files(text: str) -> None:
    with contextlib.suppress(ValueError):
        image_files.parse(text)


def _listing(text: str) -> None:
    asked = Containerd(Answers(text))
    asked.target_digest(IMAGE)
    asked.names_of([IMAGE])
    asked.is_pinned(IMAGE)
    asked.honours_pins()


def _archive(root: Path, data: bytes) -> None:
    path = root / "image.tar"
    path.write_bytes(data)
    archive.check(str(path), reference.wanted(IMAGE), "x86_64")


def _log(text: str) -> None:
    for before in ("", text[: len(text) // 2], text[1:]):
        since = evidence.log_since(text, before, ["0000:02:00.0"])
        for resident in ("", VERSION):
            judge(Evidence(VERSION, resident, text[:300], (), 0, since))


def _gpu_list(_root: Path, data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = supported_gpus.read(data, "x")
        assert all(map(gpu_list.are_ranges, (found.supported, found.kernelopen, found.gsp_proprietary, *dict(found.legacy).values())))
        Driver("cuda", VERSION, "open", found).refusal("2330")


def _build(text: str) -> None:
    build_log.first_error(text)
    not_started(text)
    build_log.is_transient(text)
    build_log.is_out_of_space(text)
    build_log.deleted_library(text)
    build_log.last_lines(text)
    actions_in(text)


def _modinfo(text: str) -> None:
    found = modules.parse_modinfo(text)
    assert found is None or isinstance(found.kver, str)


def _proc_modules(text: str) -> None:
    found = modules.parse_proc_modules(text)
    modules.unload_order([modules.LoadedModule(name, "", state, users, holders) for name, (users, holders, state) in found.items()])


def _events(_root: Path, data: bytes) -> None:
    """The parts of an event that a node decides; ansible-runner makes the rest."""
    run = nodes.Run(nodes.Watcher(), str, verbosity=1)
    for event in EVENTS:
        run.take({**event, "stdout": text_of(data)})
    run.take({"event": "runner_on_failed", "event_data": {"host": "n", "res": {"msg": text_of(data), text_of(data): None}}})
    run.tick()


def _tar(make: Callable[[Path], Path]) -> bytes:
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder, "a.tar")).read_bytes()


def _both(data: bytes) -> tuple[bytes, bytes]:
    """Plain and packed."""
    return data, gzip.compress(data, mtime=0)


def _pax() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("x" * 200)
        member.pax_headers = {"comment": "x", "GNU.sparse.map": "0,1", "GNU.sparse.major": "1", "mtime": "1.5"}
        tar.addfile(member)
    return out.getvalue()


def _owned(root: Path) -> None:
    dpkg.owned_by_dpkg(root)
    (root / "usr").mkdir(exist_ok=True)
    (root / "usr/x").write_bytes(b"")
    dpkg.as_packaged(root, "usr/x")


def _package(root: Path) -> None:
    (root / "var/lib/dpkg/status").write_text("Package: libcuda1\nStatus: install ok installed\nVersion: 1\n")
    foreign.driver_packages(root)


def _framework(root: Path) -> None:
    dkms.own_keys(root)
    dkms.elsewhere(root)
    dkms.entries(root)
    dkms.registered(root)


def _status(root: Path) -> None:
    foreign.driver_packages(root)
    foreign.service_packages(root)


def _kernel_keys(root: Path) -> None:
    keyrings.read(root, lambda serial: (serial, 1, 2))


READERS: Mapping[str, Reader] = {
    "manifest": at(f"var/lib/gpu-prebake/layers/{LAYER}/manifest.json", _manifest, BOOTED / f"layers/{LAYER}/manifest.json"),
    "node-record": at(NODE_RECORD, node_record.read, BOOTED / "node-record.json"),
    "activation": at(ACTIVATION, _activation, BOOTED / "activation.json"),
    "activation-journal": at(
        ACTIVATION_JOURNAL, activation_record.read_journal, DATA / "documents-0.1.0/captured-activating/activation-journal.json"
    ),
    "installed-files": at(INSTALLED_FILES, installed_files.read, BOOTED / "placed.json"),
    "bake-report": at(BAKE_REPORT, reports.setuid_before, BOOTED / "bake-report.json"),
    "marker": at(
        MARKER, partial(marker.read, path=f"/{MARKER}"), f"kernel={KVER}\ndriver_version={VERSION}\ndriver_kind=cuda\narch=x86_64\n"
    ),
    "archive": Reader(
        _archive,
        (
            _tar(lambda path: archives.layout(path, IMAGE)),
            _tar(lambda path: archives.multi_platform(path, IMAGE, "arm64", "amd64")),
            _tar(lambda path: archives.docker(path, IMAGE)),
            _pax(),
        ),
    ),
    "registry": printed(_registry, json.dumps(INDEX), json.dumps({"config": {"digest": digest("c"), "size": 7}, "layers": []})),
    "image-files": printed(_image_files, "/opt/gpu/supported-gpus.json\neyJjaGlwcyI6IFtdfQ==\n/x\n\n"),
    "images": printed(_listing, LISTING),
    "pull-error": printed(
        lambda text: pull_errors.judge(text, "a/b:1"),
        f"ctr: failed to copy: failed open: unexpected status code https://x/blobs/{digest('x')}: 401 Unauthorized",
    ),
    "grub.cfg": at(bootloader.CONFIG, _grub, DATA / "grub/debian12-two-cloud-kernels.cfg"),
    "grubenv": at(bootloader.ENVIRONMENT, _grubenv, DATA / "grub/debian12-saved-entry.grubenv"),
    "modinfo": printed(_modinfo, DATA / "kmod/modinfo-kmod30-stand-in.txt"),
    "modules": printed(_proc_modules, "nvidia_uvm 1 0 - Live 0x0\nnvidia 9 1 nvidia_uvm,nvidia_drm, Live 0x0 (POE)\n"),
    "modules.alias": at(
        f"lib/modules/{KVER}/modules.alias",
        lambda root: kmod.by_modalias(root, KVER, "pci:v000010DEd00002330sv"),
        "alias pci:v000010DEd*sv*sd*bc03sc02i00* nvidia\n",
    ),
    "units": printed(services.parse, "Id=nvidia-gridd.service\nLoadState=loaded\nActiveState=active\n\nId=x.service\n"),
    "lsinitrd": printed(lambda text: [*initramfs.long_names(text), *initramfs.names(text)], DATA / "initramfs/lsinitrd-059.txt"),
    "symbols": printed(
        lambda text: kmod.symbol_problems(Answers(text), Path("/"), KVER), "depmod: WARNING: /lib/nvidia.ko needs unknown symbol x\n"
    ),
    "dkms": at("etc/dkms/framework.conf", _framework, FRAMEWORK),
    "build": printed(_build, DATA / "dkms/make-3.0.10-pci_resize_resource.log"),
    "supported-gpus": Reader(
        _gpu_list, tuple(each for rows in (gpu_lists.OLDER, gpu_lists.NEWER) for each in _both(gpu_lists.document(*rows).encode()))
    ),
    "compiler": at(
        "usr/src/h/.kernelvariables", lambda root: toolchain.kernel_compiler(root / "usr/src/h"), "override CC = $(if x,gcc-12)\n"
    ),
    "dpkg-status": at("var/lib/dpkg/status", _status, STATUS),
    "dpkg-package": at("var/lib/dpkg/info/libcuda1.list", _package, "/.\n/usr\n/usr/lib/x/libcuda.so.580.1\n"),
    "dpkg-list": at("var/lib/dpkg/info/x.list", _owned, "/.\n/usr\n/usr/x\n/lib/y\n"),
    "dpkg-sums": at("var/lib/dpkg/info/x.md5sums", _owned, "d41d8cd98f00b204e9800998ecf8427e  usr/x\n"),
    "kernel-log": printed(_log, DMESG, XID),
    "vpd": Reader(lambda _root, data: vpd.read_only_fields(data), (product_data({"PN": "x", "VA": "MLX:SMDL=SW_MNG"}),)),
    "nvidia-smi": printed(
        nvidia_smi.parse_fabric, "GPU 00000000:01:00.0\n    Fabric\n        State : Completed\n        Status : Success\n    ECC\n"
    ),
    "ld.so.cache": at("etc/ld.so.cache", foreign.cached_libraries, b"glibc-ld.so.cache1.1\0\1\0libcuda.so\0/opt/x/libcuda.so.580.1\0"),
    "containerd-config": at(
        containerd_config.MAIN, lambda root: containerd_config.why_no_runtime(containerd_config.read_main(root)), FLAGS, DUMP
    ),
    "containerd-dump": printed(containerd_config.fingerprint, DUMP, FLAGS),
    "hosts.toml": at(
        "hosts/registry.lab_5000_/hosts.toml",
        lambda root: ImageSource(hosts_dir=str(root / "hosts"), plain_http=True).check_hosts("registry.lab:5000/x"),
        'server = "https://registry.lab:5000"\n',
    ),
    "os-release": at("etc/os-release", host.os_release, 'PRETTY_NAME="Debian"\nID=debian\nID_LIKE="a b"\nVERSION_ID="12"\n'),
    "mountinfo": printed(mounts.parse, DATA / "mounts/mountinfo-after-killed-build.txt"),
    "keys": at("proc/keys", _kernel_keys, DATA / "proc/keys-6.1-cloud"),
    "certificate": printed(lambda text: certificate.parse(Path("x"), "PEM", text, text, text), OPENSSL),
    "module": at(
        "m.ko",
        lambda root: module_signature.read(root / "m.ko"),
        b"ELF" + b"\0" * 40 + b"\0\0\2\0\0\0\0\0\0\0\0\x20" + module_signature.MARKER,
    ),
    "modprobe.d": at("etc/modprobe.d/x.conf", lambda root: nouveau_blacklist.look(root, ()), "blacklist nouveau\nalias nouveau off\n"),
    "events": Reader(
        _events, tuple(event.get("stdout", "ok: [n]").encode() for event in EVENTS if isinstance(event.get("stdout", ""), str))
    ),
}
