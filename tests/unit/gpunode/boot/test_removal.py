"""A boot removes our layer from a node where no driver belongs, and leaves what is not ours."""

from __future__ import annotations

import os

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, node_record

from tests.kit.boot import flow_boot, lose_gpu, placed
from tests.kit.layer import LIBRARY, MODULE, LayerNode
from tests.kit.values import NEWER, VERSION, policy


@pytest.mark.parametrize("managed", [True, False], ids=["lost its gpu", "opted out"])
def test_an_active_layer_is_removed_where_no_driver_belongs(layered: LayerNode, managed: bool) -> None:
    before = placed(layered)
    flow_boot(layered)
    if managed:
        lose_gpu(layered)
    outcome = flow_boot(layered, policy(managed=managed))
    assert (outcome.result, outcome.changed, outcome.code) == ("removed", True, "no_gpu" if managed else "not_managed")
    assert "nvidia" not in layered.loaded_names()
    assert activation_record.read(layered.root) is None
    assert node_record.read(layered.root) is None
    left = {p for p in placed(layered) if p not in before}
    assert left <= {"etc/containerd/config.d", "etc/containerd/config.d/10-nvidia-runtime.toml", "usr/lib/udev", "usr/lib/udev/rules.d"}
    now = placed(layered)
    assert {p: (before[p], now.get(p)) for p in before if now.get(p) != before[p]} == {}


def test_packages_that_a_driver_container_installed_stay_and_are_named(layered: LayerNode) -> None:
    flow_boot(layered)
    layered.put("var/lib/dpkg/status", "Package: nvidia-container-toolkit\nVersion: 1\nStatus: install ok installed\n\n")
    outcome = flow_boot(layered, policy(managed=False))
    assert any(warning.startswith("left: package nvidia-container-toolkit") for warning in outcome.warnings)


def test_nouveau_stays_loaded_where_a_layer_is_only_removed(layered: LayerNode) -> None:
    flow_boot(layered)
    layered.insert("nouveau", "")
    flow_boot(layered, policy(managed=False))
    assert layered.loaded_names() == ["nouveau"]


def test_what_the_kernel_hook_built_from_the_layers_source_is_removed_too(layered: LayerNode) -> None:
    before = placed(layered)
    flow_boot(layered)
    built = layered.kernel_hook_builds(NEWER)
    outcome = flow_boot(layered, policy(managed=False))
    assert outcome.result == "removed"
    assert [path for path in built if os.path.lexists(layered.root / path)] == []
    assert not (layered.root / "var/lib/dkms/nvidia").exists()
    assert {p for p in before if p not in placed(layered)} == set()
    assert ["depmod", "-b", str(layered.root), NEWER] in layered.calls


# --- what is not ours stays and is named ---------------------------------------------------
DKMS = f"var/lib/dkms/nvidia/{VERSION}"
SOURCES = f"usr/src/nvidia-{VERSION}"
OPERATORS = "run/nvidia/validations/.driver-ctr-ready"


def install_distributions_driver(node: LayerNode) -> dict[str, str]:
    """A package's driver of the same version, such as Ubuntu's nvidia-dkms-580, which uses the same paths."""
    theirs = {f"{SOURCES}/Kbuild": "theirs", f"{SOURCES}/dkms.conf": f'PACKAGE_VERSION="{VERSION}"\n'}
    for path, text in theirs.items():
        node.put(path, text)
    listed = "".join(f"/{path}\n" for path in (SOURCES, *theirs))
    node.put("var/lib/dpkg/info/nvidia-dkms-580.list", f"/.\n{listed}")
    node.put("var/lib/dpkg/status", "Package: nvidia-dkms-580\nVersion: 1\nStatus: install ok installed\n\n")
    return theirs


def kept_paths(outcome: Outcome) -> list[str]:
    kept = next((w for w in outcome.warnings if w.startswith("kept: ")), "kept: ").removeprefix("kept: ")
    return [one.partition(": ")[0].lstrip("/") for one in kept.split("; ") if one]


def test_what_an_owner_changed_stays_and_is_named(layered: LayerNode) -> None:
    flow_boot(layered)
    (layered.root / LIBRARY).chmod(0o600)
    layered.put(MODULE, f"version:        {VERSION}\nthe owner's\n")
    layered.put(f"{DKMS}/owners-notes", "mine")
    outcome = flow_boot(layered, policy(managed=False))
    assert outcome.result == "removed"
    assert {LIBRARY, MODULE, DKMS} <= set(kept_paths(outcome))
    assert [path for path in kept_paths(outcome) if not (layered.root / path).exists()] == []
    assert (layered.root / DKMS / "owners-notes").read_text() == "mine"


@pytest.mark.parametrize("loses_gpu", [False, True], ids=["foreign driver", "and no gpu"])
def test_a_distributions_driver_of_the_same_version_stays_whole(layered: LayerNode, loses_gpu: bool) -> None:
    flow_boot(layered)
    theirs = install_distributions_driver(layered)
    built = layered.kernel_hook_builds(NEWER)
    if loses_gpu:
        lose_gpu(layered)
    layered.put("sys/module/nvidia/version", "570.1\n")  # the package's driver is loaded, in another version
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("removed", "no_gpu" if loses_gpu else "foreign_driver")
    assert "nvidia" in layered.loaded_names()
    assert {path: (layered.root / path).read_text() for path in theirs} == theirs
    assert [path for path in built if not os.path.lexists(layered.root / path)] == []
    assert activation_record.read(layered.root) is None
    assert not (layered.root / LIBRARY).exists()


@pytest.mark.parametrize("users", [0, 1])
def test_on_an_operators_node_the_layer_is_removed_and_its_modules_if_not_in_use(layered: LayerNode, users: int) -> None:
    flow_boot(layered)
    layered.put(OPERATORS)
    table = layered.root / "proc/modules"
    table.write_text(table.read_text().replace(" 0 - ", f" {users} - "))
    outcome = flow_boot(layered)
    assert (outcome.result, outcome.code) == ("removed", "operator_owned")
    assert ("nvidia" in layered.loaded_names()) == bool(users)
    assert any("nvidia" in warning and "reboot" in warning for warning in outcome.warnings) == bool(users)
    assert not (layered.root / LIBRARY).exists()
    assert (layered.root / OPERATORS).exists()


def test_on_an_opted_out_node_modules_in_use_stop_the_removal_before_any_file(layered: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_boot(layered)
    before = placed(layered)
    monkeypatch.setattr(
        "ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.holders.device_holders", lambda _: ("python (42)",)
    )
    with pytest.raises(BootError, match=r"python \(42\)") as caught:
        flow_boot(layered, policy(managed=False))
    assert caught.value.code == "driver_in_use"
    assert placed(layered) == before
