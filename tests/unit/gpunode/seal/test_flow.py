"""The seal on a fake image: its checks (inert, covered, usable, right), and what each refusal says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import gpus, nouveau_blacklist, supported_gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BusyError, InputError, SealError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, BAKE_JOURNAL_OF_0_1, LAYERS, SEAL_REPORT
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal.report import Report
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal.request import SealRequest, request_from
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import setuid
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.module_signature import Signer
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

from tests.kit import gpu_lists
from tests.kit import layer as layernode
from tests.kit.layer import LIBRARY, LayerNode, snapshot
from tests.kit.node import FakeNode, bake_layer
from tests.kit.values import IMAGE, KVER, NEWER


@pytest.fixture
def both() -> Iterator[tuple[LayerNode, Manifest]]:
    with layernode.fast_folder() as folder:
        node, layer = layernode.a_node(folder)
        shutil.rmtree(node.root / "sys", ignore_errors=True)
        node.pinned.add(IMAGE)
        for program in ("dkms", "depmod", "ldconfig", "lsof", "make", "mount", "update-initramfs"):
            node.put(f"usr/bin/{program}", "x")
        yield node, layer


@pytest.fixture
def node(both: tuple[LayerNode, Manifest]) -> LayerNode:
    return both[0]


@pytest.fixture
def layer(both: tuple[LayerNode, Manifest]) -> Manifest:
    return both[1]


def sealed(node: FakeNode, offline: bool = False, **request: Any) -> Report:
    return flow.seal(node.root, node, None if offline else Containerd(node), SealRequest(**{"min_free_mb": 0, **request}))


def refusals(node: FakeNode, **request: Any) -> dict[str, str]:
    """All that each check refused, as one text for each check."""
    with pytest.raises(SealError) as caught:
        sealed(node, **request)
    found: dict[str, str] = {}
    for refusal in caught.value.details["report"]["refusals"]:
        found[refusal["check"]] = f"{found.get(refusal['check'], '')}{refusal['problem']}; "
    return found


def test_an_inert_image_is_sealed_and_the_decision_is_replayed_for_every_generation(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    report = sealed(node)
    assert report.refusals == []
    wanted = [g.name for g in gpus.GENERATIONS if not g.refusal(layer.identity.flavour, layer.identity.version)]
    assert [r["gpu"] for r in report.replayed] == wanted
    assert {(r["action"], r["code"]) for r in report.replayed} == {("install-skip-build", "baked_layer_matches")}
    assert snapshot(node.root) == before
    kept = json.loads((node.root / SEAL_REPORT).read_text())
    assert (kept["kernels"], kept["layers"], kept["refusals"]) == ([KVER], [layer.layer], [])


def test_offline_containerd_is_not_asked(node: LayerNode) -> None:
    node.calls.clear()
    report = sealed(node, offline=True)
    assert report.refusals == []
    assert not node.called("ctr")
    assert "containerd was not asked" in " ".join(report.notes)


def test_an_image_that_is_mounted_read_only_is_right_and_a_machine_that_is_so_is_not(
    node: LayerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of the image will have their own filesystem; on a machine whose own root is read-only no layer could be put in place."""
    real = os.statvfs

    def read_only(path: Any) -> Any:
        found = real(path)
        names = ("f_frsize", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
        return SimpleNamespace(f_flag=found.f_flag | os.ST_RDONLY, **{name: getattr(found, name) for name in names})

    monkeypatch.setattr(os, "statvfs", read_only)
    assert sealed(node, offline=True).refusals == []
    assert "read-only filesystem" in refusals(node)["right"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            lambda n: n.put(f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko.zst", "x"), "nvidia.ko.zst: a kernel module", id="module"
        ),
        pytest.param(
            lambda n: n.put(f"usr/lib/modules/{KVER}/modules.alias", "alias pci:v000010DEd* nvidia_drm\nalias pci:x nouveau\n"),
            "udev would load nvidia_drm:",
            id="alias",
        ),
        pytest.param(
            lambda n: n.put("var/lib/dkms/nvidia/580.126.09/source/dkms.conf", "x"),
            "/var/lib/dkms/nvidia/580.126.09: registered with DKMS",
            id="DKMS",
        ),
        pytest.param(
            lambda n: (n.put("srv/dkms/nvidia/570.1/source/x"), n.put("etc/dkms/framework.conf", "dkms_tree=/srv/dkms\n")),
            "/srv/dkms/nvidia/570.1: registered with DKMS",
            id="DKMS in another tree",
        ),
        pytest.param(
            lambda n: (n.put("srv/570.1/source/x"), n.link("var/lib/dkms/nvidia-current", "/srv")),
            "/var/lib/dkms/nvidia-current/570.1: registered with DKMS",
            id="DKMS behind a link",
        ),
        pytest.param(lambda n: n.put("usr/local/bin/helper", "x", 0o4755), "/usr/local/bin/helper: setuid", id="setuid"),
        pytest.param(lambda n: n.put("usr/bin/nvidia-smi", "x"), "/usr/bin/nvidia-smi: a file of layer", id="program of the layer"),
        pytest.param(lambda n: n.put("usr/local/bin/nvidia-smi", "x"), "/usr/local/bin/nvidia-smi: a driver program in PATH", id="program"),
        pytest.param(
            lambda n: n.put("usr/lib/x86_64-linux-gnu/libcuda.so.1", "x"), "libcuda.so.1: a driver library where the loader", id="library"
        ),
        pytest.param(
            lambda n: (n.put("etc/ld.so.conf.d/own.conf", "/opt/own\n"), n.link("opt/own/libnvidia-ml.so.1", "gone")),
            "/opt/own/libnvidia-ml.so.1: a driver library where the loader",
            id="dangling library in a configured folder",
        ),
        pytest.param(
            lambda n: n.put("etc/ld.so.cache", "x\0libcuda.so.1\0"), "/etc/ld.so.cache: it contains a driver library", id="loader's cache"
        ),
        pytest.param(
            lambda n: n.put("var/lib/dpkg/status", "Package: libcuda1\nStatus: install ok installed\n"), "package libcuda1: ", id="package"
        ),
        pytest.param(lambda n: n.containers.append("gpuprebuild-2"), "container gpuprebuild-2 in containerd", id="container"),
        pytest.param(lambda n: n.containers.append("gpuinstall"), "container gpuinstall in containerd", id="another's container"),
        pytest.param(
            lambda n: n.put(BAKE_JOURNAL_OF_0_1, "{}"),
            "a bake of version 0.1.0 was killed: start",
            id="journal of a bake",
        ),
        pytest.param(lambda n: n.put("var/lib/gpu-prebake/activation-journal.json", "{}"), "a run was interrupted: bake", id="journal"),
        pytest.param(
            lambda n: n.put("var/lib/gpu-prebake/boot-removal-under-way.json", "{}"),
            "a removal was interrupted: run",
            id="a boot's removal",
        ),
        pytest.param(lambda n: n.put("var/lib/gpu-prebake/removal-under-way.json", "{}"), "a removal was interrupted: run", id="removal"),
        pytest.param(lambda n: n.put("var/lib/dkms/mok.key", "x"), "/var/lib/dkms/mok.key: a private key", id="key"),
        pytest.param(
            lambda n: (n.put("etc/dkms/framework.conf", 'mok_signing_key="/etc/keys/dkms.key"\n'), n.put("etc/keys/dkms.key", "x")),
            "/etc/keys/dkms.key: a private key",
            id="key where DKMS is told to have it",
        ),
        pytest.param(lambda n: n.put("opt/gpu/config.sh", "DRIVER_VERSION=1"), "/opt/gpu: a scratch folder", id="scratch"),
        pytest.param(lambda n: n.put("opt/gpu/data", "x"), "/opt/gpu: it contains data, which is not a driver image's", id="path taken"),
        pytest.param(lambda n: n.put("var/lib/gpu-prebake/captures/1-a/merged", "x"), "captures/1-a: left by a capture", id="capture"),
        pytest.param(lambda n: n.put("var/lib/gpu-prebake/captures/x/merged", "x"), "captures/x: not ours", id="not ours"),
        pytest.param(lambda n: activate.activate(n.root, n, layers.read_all(n.root)[0][0]), "in place", id="the layer itself"),
    ],
)
def test_what_is_live_or_left_over_is_named(node: LayerNode, change: Callable[[LayerNode], object], said: str) -> None:
    change(node)
    assert said in refusals(node)["inert"]


@pytest.mark.parametrize(
    "harmless",
    [
        pytest.param(lambda n: n.put("usr/bin/nvidia-ctk", "x"), id="container toolkit"),
        pytest.param(lambda n: n.put("usr/lib/x86_64-linux-gnu/libnvidia-container.so.1", "x"), id="its library"),
        pytest.param(lambda n: n.put(f"usr/lib/modules/{KVER}/kernel/video/nvidiafb.ko", "x"), id="nvidiafb"),
        pytest.param(lambda n: n.containers.append("pod"), id="somebody's container"),
        pytest.param(
            lambda n: (n.put("usr/bin/sudo", "x", 0o4755), n.put("var/lib/dpkg/info/sudo.list", "/usr/bin/sudo\n")),
            id="a package's setuid file",
        ),
        pytest.param(
            lambda n: (n.put("opt/agent", "x", 0o4755), n.put("var/lib/gpu-prebake/bake-report.json", '{"setuid_before": ["opt/agent"]}')),
            id="setuid before the bake",
        ),
        pytest.param(
            lambda n: n.put(
                f"usr/lib/modules/{KVER}/modules.alias", "alias wmi:603E9613-EF25-4338-A3D0-C46177516DB7 nvidia_wmi_ec_backlight\n"
            ),
            id="a module of the kernel's own whose name begins alike",
        ),
        pytest.param(
            lambda n: n.put("var/lib/docker/overlay2/1/diff/bin/su", "x", 0o4755),
            id="a setuid file of a container's image",
        ),
    ],
)
def test_what_is_no_drivers_and_no_bakes_is_let_be(node: LayerNode, harmless: Callable[[LayerNode], object]) -> None:
    harmless(node)
    assert sealed(node).refusals == []


def test_filesystems_of_other_machines_are_not_looked_into(node: LayerNode) -> None:
    table = "".join(f"{n} 28 8:{n} / {point} rw - {kind} x rw\n" for n, (point, kind) in enumerate([("/usr", "xfs"), ("/srv", "nfs4")], 40))
    node.put("proc/self/mountinfo", node.mountinfo + table)
    node.put("usr/local/bin/evil", "x", 0o4755)
    node.put("srv/bin/su", "x", 0o4755)
    assert setuid.setuid(node.root) == ("usr/local/bin/evil",)


def test_no_image_is_sealed_while_something_changes_it(node: LayerNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "LOCK", tmp_path / "lock")
    with files.locked(tmp_path / "lock", "a bake"), pytest.raises(BusyError, match="a bake"):
        flow.seal(Path("/"), node, None, SealRequest())


def test_an_initramfs_that_holds_a_module_is_named(node: LayerNode) -> None:
    node.put("usr/bin/lsinitramfs")
    node.put(f"boot/initrd.img-{KVER}", f"usr/lib/modules/{KVER}/kernel/video/nvidiafb.ko\n")
    assert sealed(node).refusals == []
    node.put(f"boot/initrd.img-{KVER}", f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko.zst\n")
    assert f"/boot/initrd.img-{KVER}: contains a module" in refusals(node)["inert"]
    node.missing_programs.add("lsinitramfs")
    assert f"/boot/initrd.img-{KVER}: contains a module" in refusals(node)["inert"], "by dracut's program"
    node.missing_programs.add("lsinitrd")
    assert f"/boot/initrd.img-{KVER}: its contents cannot be listed" in refusals(node)["inert"]


def test_an_image_that_0_1_0_baked_in_place_may_have_its_layer_live_and_nothing_else(tmp_path: Path) -> None:
    node = FakeNode(tmp_path / "root")
    node.pinned.add(IMAGE)
    bake_layer(node)
    node.put(f"usr/lib/modules/{KVER}/modules.alias", "alias pci:v000010DEd* nvidia\n")
    report = sealed(node)
    assert report.refusals == []
    assert report.summary.startswith(f"sealed: live (baked in place), covered: {KVER}, fast path for turing")
    node.missing_programs.add("modinfo")
    assert "cannot be replayed: modinfo " in refusals(node)["right"]
    node.missing_programs.clear()
    node.put("usr/bin/nvidia-settings", "another's", 0o4755)
    node.put("var/lib/dkms/nvidia/550.90.07/source/dkms.conf", "x")
    node.put("usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07", "x")
    node.put(f"boot/initrd.img-{KVER}", f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko\n")
    node.put("var/lib/dkms/mok.key", "x")
    found = refusals(node)["inert"].split("; ")
    assert [line.split(": ")[0] for line in found if line] == [
        f"/boot/initrd.img-{KVER}",
        "/var/lib/dkms/nvidia/550.90.07",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07",
        "/usr/bin/nvidia-settings",
        "/usr/bin/nvidia-settings",
        "/var/lib/dkms/mok.key",
    ]


def activated_by_a_bake(node: LayerNode, layer: Manifest) -> None:
    activate.activate(node.root, node, layer, for_image=True)
    node.put(f"usr/lib/modules/{KVER}/modules.alias", "alias pci:v000010DEd* nvidia\n")


def test_a_layer_that_a_bake_in_place_activated_is_live_and_nothing_else_may_be(node: LayerNode, layer: Manifest) -> None:
    activated_by_a_bake(node, layer)
    report = sealed(node)
    assert (report.refusals, report.in_place) == ([], [layer.layer])
    assert report.summary.startswith(f"sealed: live (baked in place), covered: {KVER}, fast path for turing")
    node.put("usr/bin/nvidia-settings", "another's", 0o4755)
    found = refusals(node)["inert"].split("; ")
    assert {line.split(": ")[0] for line in found if line} == {"/usr/bin/nvidia-settings"}


def unverified(node: LayerNode, layer: Manifest) -> None:
    activate.activate(node.root, node, layer, hash_user_space=False, for_image=True)


def of_another_bake(node: LayerNode, layer: Manifest) -> None:
    activated_by_a_bake(node, layer)
    layers.write(node.root, replace(layer, identity=replace(layer.identity, config_digest=f"sha256:{'9' * 64}")))


def changed(node: LayerNode, layer: Manifest) -> None:
    activated_by_a_bake(node, layer)
    (node.root / LIBRARY).unlink()


def damaged(node: LayerNode, layer: Manifest) -> None:
    activated_by_a_bake(node, layer)
    (node.root / ACTIVATION).write_text("{")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        pytest.param(lambda n, one: activate.activate(n.root, n, one), "and not by a bake in this image: deactivate it", id="a machine's"),
        pytest.param(unverified, "and not by a bake in this image: deactivate it", id="not read completely"),
        pytest.param(of_another_bake, "and not by a bake in this image: deactivate it", id="of another bake"),
        pytest.param(changed, f"/{LIBRARY}: No such file", id="a file is missing"),
        pytest.param(damaged, f"/{ACTIVATION}: ", id="damaged record"),
    ],
)
def test_any_other_activation_is_refused(
    node: LayerNode, layer: Manifest, prepare: Callable[[LayerNode, Manifest], object], said: str
) -> None:
    prepare(node, layer)
    assert said in refusals(node)["inert"]


GENERIC = "6.1.0-56-amd64"


def with_nouveau(node: LayerNode) -> None:
    """Adds a generic kernel with nouveau, and the blacklist that a bake then writes."""
    node.put("usr/bin/lsinitramfs")
    node.add_kernel(GENERIC)
    node.put(f"usr/lib/modules/{GENERIC}/kernel/drivers/gpu/drm/nouveau/nouveau.ko")
    node.put(nouveau_blacklist.PATH, nouveau_blacklist.TEXT)
    node.put(f"boot/initrd.img-{GENERIC}", f"init\n{nouveau_blacklist.PATH}\n")


def test_the_one_file_outside_the_store_is_reported(node: LayerNode) -> None:
    report = sealed(node)
    assert (report.outside_store, report.nouveau) == ([], "no installed kernel has a module of nouveau or nova_core: nothing is written")
    with_nouveau(node)
    report = sealed(node, kernels=[KVER])
    assert report.outside_store == [f"/{nouveau_blacklist.PATH}"]
    assert f"/{nouveau_blacklist.PATH}" in report.nouveau


@pytest.mark.parametrize(
    ("change", "chosen", "said"),
    [
        pytest.param(
            lambda n: n.put(nouveau_blacklist.PATH, "blacklist nouveau\n"),
            True,
            f"/{nouveau_blacklist.PATH} is not what a bake writes",
            id="changed",
        ),
        pytest.param(
            lambda n: n.put(nouveau_blacklist.PATH, ""),
            False,
            f"/{nouveau_blacklist.PATH} is not what a bake writes",
            id="changed, not chosen",
        ),
        pytest.param(
            lambda n: (n.root / nouveau_blacklist.PATH).unlink(),
            True,
            f"/{nouveau_blacklist.PATH}: missing, and kernel {GENERIC} has",
            id="gone",
        ),
        pytest.param(
            lambda n: n.put(f"boot/initrd.img-{GENERIC}", "init\n"),
            True,
            f"/boot/initrd.img-{GENERIC}: lacks /{nouveau_blacklist.PATH}: run update-initramfs -u -k {GENERIC}",
            id="initramfs lacks it",
        ),
        pytest.param(lambda n: None, False, f"/{nouveau_blacklist.PATH}: must not be here (", id="not chosen"),
        pytest.param(
            lambda n: (n.root / nouveau_blacklist.PATH).unlink(),
            False,
            f"/boot/initrd.img-{GENERIC}: contains /{nouveau_blacklist.PATH}: run update-initramfs -u -k {GENERIC}",
            id="not chosen, still in the initramfs",
        ),
        pytest.param(
            lambda n: (n.put("etc/modprobe.d/mine.conf", "blacklist nouveau\n"), (n.root / nouveau_blacklist.PATH).unlink()),
            True,
            f"/boot/initrd.img-{GENERIC}: lacks /etc/modprobe.d/mine.conf: run update-initramfs -u -k {GENERIC}",
            id="the owner's own, not in the initramfs",
        ),
    ],
)
def test_an_image_that_is_not_as_the_choice_about_nouveau_says_is_refused(
    node: LayerNode, change: Callable[[LayerNode], object], chosen: bool, said: str
) -> None:
    with_nouveau(node)
    change(node)
    found = refusals(node, kernels=[KVER], blacklist_nouveau=chosen)
    assert set(found) == {"nouveau"}
    assert said in found["nouveau"]


def test_the_choice_of_a_seal_is_the_bakes_unless_it_is_turned_off() -> None:
    assert request_from({"image": IMAGE}).blacklist_nouveau
    assert request_from({"image": IMAGE, "blacklist_nouveau": True}).blacklist_nouveau
    assert not request_from({"image": IMAGE, "blacklist_nouveau": False}).blacklist_nouveau


def test_without_a_layer_nothing_is_sealed(node: LayerNode, layer: Manifest) -> None:
    shutil.rmtree(node.root / LAYERS)
    assert "nothing was baked" in refusals(node)["layers"]


def test_an_image_that_need_not_be_baked_is_looked_at_only_with_a_layer(node: LayerNode) -> None:
    node.put("var/lib/dpkg/status", "Package: libcuda1\nStatus: install ok installed\n")
    assert "package libcuda1" in refusals(node, must_be_baked=False)["inert"]
    shutil.rmtree(node.root / LAYERS)
    report = sealed(node, must_be_baked=False)
    assert (report.refusals, report.summary) == ([], "nothing was baked, so there is nothing to prove")
    assert [note for note in report.notes if "set nvidia_prebake_enabled" in note], "notes become warnings"


def test_a_kernel_that_boots_must_have_a_layer(node: LayerNode) -> None:
    node.add_kernel(NEWER)
    assert "it is not known which one boots" in refusals(node)["covered"]
    node.put("boot/grub/grub.cfg", f"menuentry 'x' {{\n\tlinux /boot/vmlinuz-{NEWER}\n}}\n")
    assert f"kernel {NEWER} boots by default or was requested, and has no layer" in refusals(node)["covered"]


def test_another_kernel_is_reported_or_refused(node: LayerNode) -> None:
    node.add_kernel(NEWER)
    node.put("boot/grub/grub.cfg", f"menuentry 'x' {{\n\tlinux /boot/vmlinuz-{KVER}\n}}\n")
    assert f"no layer for kernel {NEWER}" in " ".join(sealed(node).notes)
    assert f"kernel {NEWER} can be booted and has no layer" in refusals(node, uncovered="fail")["covered"]
    assert f"kernel {NEWER} boots by default or was requested" in refusals(node, kernels=("all",))["covered"]


def test_a_node_must_find_the_driver_image(node: LayerNode) -> None:
    node.pinned.clear()
    assert "not labelled as pinned" in refusals(node)["usable"]
    node.images.clear()
    assert "is not in containerd" in refusals(node)["usable"]


OTHER_IMAGE = IMAGE.replace("580.126.09", "550.90.07")


def asked(**params: Any) -> dict[str, Any]:
    """The options of a seal for which a bake's variables ask, as fields of its request."""
    return {**vars(request_from({"image": IMAGE, **params})), "min_free_mb": 0}


def test_what_is_exactly_asked_for_is_sealed(node: LayerNode, layer: Manifest) -> None:
    layers.write(node.root, replace(layer, signer=Signer("Fleet", "a1" * 20, "0f" * 32)))
    assert sealed(node, **asked(flavour=layer.identity.flavour, signed=True)).refusals == []
    assert request_from({"baked": False}).wanted is None


@pytest.mark.parametrize("offline", [False, True], ids=["in the build", "mounted"])
@pytest.mark.parametrize(
    ("params", "said"),
    [
        pytest.param(
            {"image": OTHER_IMAGE}, f"was baked from {IMAGE}, and nvidia_prebake_image is {OTHER_IMAGE}; its driver version is", id="a bump"
        ),
        pytest.param({"image": IMAGE.replace("registry.lab", "mirror.lab")}, f"it was baked from {IMAGE}, and", id="another name"),
        pytest.param({"image": f"{IMAGE}@sha256:{'1' * 64}"}, f"it was baked from {IMAGE}, and", id="a pin"),
        pytest.param({"image": "r.lab/x:1", "kind": "cuda", "version": "550.90.07"}, "its driver version is 580.126.09, and", id="version"),
        pytest.param({"image": "r.lab/x:1", "kind": "grid", "version": "580.126.09"}, "its driver kind is cuda, and", id="kind"),
        pytest.param({"flavour": "proprietary"}, "its modules are open, and nvidia_prebake_flavour is proprietary", id="flavour"),
        pytest.param({"mode": "in_place"}, "it is inert, and nvidia_prebake_mode is in_place", id="mode"),
        pytest.param({"signed": True}, "its modules are not signed, and nvidia_prebake_signing_key is given", id="signed"),
    ],
)
def test_a_layer_that_is_not_what_the_variables_ask_for_is_refused(
    node: LayerNode, layer: Manifest, params: dict[str, Any], said: str, offline: bool
) -> None:
    with pytest.raises(SealError, match="bake again with these variables") as caught:
        sealed(node, offline, **asked(**params))
    (refusal,) = (one for one in caught.value.details["report"]["refusals"] if one["check"] == "asked")
    assert said in refusal["problem"]


@pytest.mark.parametrize("by", ["sha256", "file"])
def test_a_layer_that_another_key_has_signed_is_refused(node: LayerNode, layer: Manifest, tmp_path: Path, by: str) -> None:
    file = tmp_path / "fleet.der"
    file.write_bytes(b"0 the certificate")
    right, wrong = hashlib.sha256(file.read_bytes()).hexdigest(), "0f" * 32
    given = {"signer": right.upper()} if by == "sha256" else {"signing_certificate": str(file)}
    layers.write(node.root, replace(layer, signer=Signer("Fleet", "a1" * 20, right)))
    assert sealed(node, **asked(signed=True, **given)).refusals == []
    layers.write(node.root, replace(layer, signer=Signer("Old", "a1" * 20, wrong)))
    said = f"signed by Old, certificate {wrong[:16]}…, and nvidia_prebake_signing_certificate is another one, {right[:16]}…"
    assert said in refusals(node, **asked(signed=True, **given))["asked"]


def test_a_certificate_that_is_no_longer_on_the_machine_is_not_compared_and_the_report_says_so(node: LayerNode, layer: Manifest) -> None:
    layers.write(node.root, replace(layer, signer=Signer("Fleet", "a1" * 20, "0f" * 32)))
    notes = sealed(node, **asked(signed=True, signing_certificate="/gone.pem")).notes
    assert [note for note in notes if "which key signed the modules was not compared, because the certificate /gone.pem" in note]


def test_a_live_layer_is_refused_where_an_inert_one_is_asked_for(node: LayerNode, layer: Manifest) -> None:
    activated_by_a_bake(node, layer)
    assert sealed(node, **asked(mode="in_place")).refusals == []
    assert "it is live in the image, and nvidia_prebake_mode is captured" in refusals(node, **asked())["asked"]


def test_the_image_in_containerd_must_have_the_pin(node: LayerNode) -> None:
    mirror = IMAGE.replace("registry.lab:5000", "mirror.lab")
    assert sealed(node, **asked(pull_image=f"{mirror}@{node.images[IMAGE]}")).refusals == []
    assert "is not in containerd" in refusals(node, **asked(pull_image=f"{mirror}@sha256:{'1' * 64}"))["usable"]


def test_driver_images_that_no_layer_needs_are_counted_and_named(node: LayerNode) -> None:
    mirror = IMAGE.replace("registry.lab:5000", "mirror.lab")
    node.images[mirror] = node.images[IMAGE]
    failed, older = "mirror.lab/driver:1", IMAGE.replace("580.126.09", "570.211.01")
    for name in (failed, older, OTHER_IMAGE, "registry.k8s.io/pause:3.9"):
        node.add_image(name)
    node.pinned |= {mirror, older, "registry.k8s.io/pause:3.9"}
    node.put(paths.DRIVER_IMAGES, json.dumps({"schema": 1, "pulled": [IMAGE, mirror, failed, "gone/driver:1"], "pinned": []}))
    report = sealed(node, **asked())
    assert (report.refusals, report.images_left) == ([], sorted([failed, older]))
    assert f"2 driver images that no layer was baked from are in containerd, and ship: {failed}, {older}" in " ".join(report.notes)
    node.put(paths.DRIVER_IMAGES, "{")
    assert "it is not known whether old driver images are in containerd" in " ".join(sealed(node, **asked()).notes)


def test_a_node_must_be_able_to_build_for_itself(node: LayerNode) -> None:
    assert (
        "MB are missing: give the build machine a larger disk, or set nvidia_prebake_seal_min_free_mb"
        in refusals(node, min_free_mb=90_000_000)["usable"]
    )
    headers = node.root / f"usr/lib/modules/{KVER}/build"
    headers.unlink()
    for offline in (False, True):
        with pytest.raises(SealError, match=f"cannot compile for {KVER}: the headers of kernel {KVER} are missing"):
            sealed(node, offline)
    node.link(f"usr/lib/modules/{KVER}/build", f"/usr/src/linux-headers-{KVER}")
    assert sealed(node, offline=True).refusals == [], "an absolute link is followed inside the image"
    (node.root / "usr/bin/gcc").unlink()
    with pytest.raises(SealError, match="gcc is missing"):
        sealed(node, offline=True)


def test_a_driver_that_is_known_to_drive_no_gpu_is_not_right(tmp_path: Path) -> None:
    node = FakeNode(tmp_path / "root")
    image = IMAGE.replace("580.126.09", "340.108")
    node.add_image(image)
    node.pinned.add(image)
    layer = bake_layer(node, version="340.108")
    layers.write(node.root, replace(layer, image=image))
    assert "its open modules of 340.108 support no known GPU" in refusals(node)["right"]


def test_generations_that_the_modules_do_not_drive_are_refused(node: LayerNode) -> None:
    assert sealed(node, generations=("hopper",)).refusals == []
    assert "volta GPUs need proprietary" in refusals(node, generations=("hopper", "volta"))["right"]


LISTED = supported_gpus.read(
    gpu_lists.document(
        *(gpu_lists.row(device, gpu_lists.OPEN) for device in ("2331", "4000")),
        *(gpu_lists.row("2900"), gpu_lists.row("1e30", legacy="570.xx")),
    ).encode(),
    gpu_lists.PATH,
)


def test_the_decision_is_replayed_for_gpus_of_the_drivers_list(node: LayerNode, layer: Manifest) -> None:
    layers.write(node.root, replace(layer, gpus=LISTED))
    assert [one["gpu"] for one in sealed(node).replayed] == ["ampere", "hopper", "grace-hopper", "ada", "device 4000"]
    assert "(device 1e30) needs another driver image: driver branch 570.xx is the last" in refusals(node, generations=("turing",))["right"]
    assert "(device 2900): the list of GPUs in driver" in refusals(node, generations=("blackwell",))["right"]


def test_a_damaged_object_is_not_right(node: LayerNode, layer: Manifest) -> None:
    module = next(entry for entry in layer.files if entry.path.endswith("/nvidia.ko"))
    object_file = node.root / "var/lib/gpu-prebake/objects"
    for path in object_file.rglob("*"):
        if path.is_file() and path.stat().st_size == module.size:
            path.write_bytes(b"x" * module.size)
    found = refusals(node)
    assert "contents_mismatch" in found.get("right", ""), found


def test_check_mode_writes_no_report(node: LayerNode) -> None:
    flow.seal(node.root, node, Containerd(node), SealRequest(min_free_mb=0), write=False)
    assert not (node.root / SEAL_REPORT).exists()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        pytest.param({"uncovered": "ignore"}, "neither report nor fail", id="uncovered"),
        pytest.param({"gpu_generations": ["hoper"]}, "hoper unknown; known are kepler-grid, kepler, maxwell", id="generation"),
        pytest.param({}, "nvidia_prebake_image: a reference such as", id="no image"),
        pytest.param({"image": IMAGE, "mode": "in-place"}, "nvidia_prebake_mode: 'in-place' is not one of", id="mode"),
        pytest.param({"image": IMAGE, "flavour": "closed"}, "nvidia_prebake_flavour: 'closed' is not one of", id="flavour"),
    ],
)
def test_bad_input_is_named(params: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        request_from(params)


def test_an_image_with_every_object_is_needed_to_boot(node: LayerNode) -> None:
    """The seal verifies a library's content too, although a boot hashes it later."""
    for path in (node.root / "var/lib/gpu-prebake/objects").rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"libcuda"):
            path.write_bytes(b"x" * path.stat().st_size)
            break
    else:
        raise AssertionError(f"no object of {LIBRARY}")
    assert "libcuda" in refusals(node)["layers"]
