"""Booting a node whose driver lies inert in the store: put in place where it matches, taken away where no driver belongs."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, preconditions, verify
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import deactivate as activation_deactivate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, ACTIVATION_JOURNAL, NODE_RECORD
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, objects_of
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree

from tests.kit import layer as layernode
from tests.kit.layer import LIBRARY, MODULE, LayerNode, snapshot
from tests.kit.node import FakeNode, Reply, behave
from tests.kit.values import IMAGE, KVER, LOADER, NEWER, VERSION, digest, policy
from tests.unit.gpunode.boot.test_apply import INSTALL, SKIP, fails

GRID = "registry.lab:5000/aks/aks-gpu-grid:580.126.09-20260430040408"
# What a node has anew after a boot that put nothing in place; its own records apart.
BOOTS_OWN = ("proc/", "sys/", "dev/", "run/", "opt/", "var/log/")


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LayerNode, Manifest]]:
    with layernode.fast_folder() as folder:
        monkeypatch.setattr(paths, "LOCK", folder / "lock")
        monkeypatch.setattr("os.geteuid", lambda: 0)
        node, layer = layernode.a_node(folder)
        node.add_gpu()
        node.put(f"{LOADER}/libc.so.6", "the system")
        monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=node.kver, machine="x86_64"))
        yield node, layer


@pytest.fixture
def node(both: tuple[LayerNode, Manifest]) -> LayerNode:
    return both[0]


@pytest.fixture
def layer(both: tuple[LayerNode, Manifest]) -> Manifest:
    return both[1]


def boot(node: LayerNode, want: Policy | None = None, check: bool = False) -> Outcome:
    return flow.boot(node, want or policy(delay_s=0), check, root=node.root)[1]


def lose_gpu(node: LayerNode) -> None:
    for path in sorted((node.root / "sys/bus/pci").rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()


def placed(node: LayerNode) -> dict[str, object]:
    return {p: what for p, what in snapshot(node.root).items() if not f"{p}/".startswith(BOOTS_OWN)}


def test_a_matching_layer_is_put_in_place_and_the_build_is_skipped(node: LayerNode, layer: Manifest) -> None:
    outcome = boot(node)
    assert (outcome.result, outcome.code, outcome.containers) == ("fast", "baked_layer_matches", 1)
    assert node.driver_runs == [SKIP]
    active = activation_record.read(node.root)
    assert active
    assert (active.layer, active.verified) == (layer.layer, True)
    done = node_record.read(node.root)
    assert done
    assert done.state == node_record.INITIALISED
    assert MODULE in done.modules[KVER]


def test_the_next_boot_runs_no_container(node: LayerNode) -> None:
    boot(node)
    again = boot(node)
    assert (again.result, again.changed, again.containers) == ("ready", False, 0)


def test_a_container_that_refuses_the_skip_and_compiles_is_reported_and_the_next_boot_is_ready(node: LayerNode) -> None:
    """As the scenario skip-refused: the image's own check refuses a good layer that was put in place."""

    def compiles(node: FakeNode, action: str) -> Reply:
        node.build()
        return behave(node, action)

    node.scripts = [compiles]
    outcome = boot(node)
    assert (outcome.result, outcome.code, node.driver_runs) == ("compiled", "skip_refused", [SKIP])
    done = node_record.read(node.root)
    assert done
    assert (done.state, done.built_here) == (node_record.INITIALISED, True)
    again = boot(node)
    assert (again.result, again.code, again.changed) == ("ready", "already_initialised", False)


def test_hashing_that_meets_a_half_compiled_driver_takes_nothing_back(node: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk: the container has refused the skip and compiles before the layer's user space is hashed."""
    is_half_done, is_hashed = threading.Event(), threading.Event()
    problems = verify.problems

    def compiles(node: FakeNode, action: str) -> Reply:
        (node.root / MODULE).unlink(missing_ok=True)
        is_half_done.set()
        assert is_hashed.wait(60)
        node.build()
        return behave(node, action)

    def hashed(root: Path) -> tuple[str, ...]:
        assert is_half_done.wait(60)
        found = problems(root)
        is_hashed.set()
        return found

    monkeypatch.setattr(verify, "problems", hashed)
    node.scripts = [compiles]
    outcome = boot(node)
    assert (outcome.result, outcome.code, node.driver_runs) == ("compiled", "skip_refused", [SKIP])
    again = boot(node)
    assert (again.result, again.code, again.changed) == ("ready", "already_initialised", False)


def test_check_mode_puts_nothing_in_place(node: LayerNode) -> None:
    before = snapshot(node.root, "none")
    outcome = boot(node, check=True)
    assert [step.value for step in outcome.plan.steps][:2] == ["activate-layer", "run-container"]
    assert snapshot(node.root, "none") == before


@pytest.mark.parametrize("want", [policy(managed=False), policy(GRID)], ids=["opted out", "another kind"])
def test_a_layer_that_does_not_belong_here_stays_inert(node: LayerNode, want: Policy) -> None:
    node.scripts = [fails()]
    before = placed(node)
    if want.managed:
        with pytest.raises(BootError):
            boot(node, replace(want, tries=1))
    else:
        boot(node, want)
    assert activation_record.read(node.root) is None
    assert placed(node) == before


def test_a_node_without_a_gpu_touches_nothing(node: LayerNode) -> None:
    lose_gpu(node)
    before = snapshot(node.root, "none")
    outcome = boot(node)
    assert (outcome.code, outcome.changed) == ("no_gpu", False)
    assert snapshot(node.root, "none") == before
    assert not [argv for argv in node.calls if argv[0] in ("ctr", "modprobe", "depmod", "ldconfig")]


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel and image", "image"])
def test_an_install_over_an_active_layer_writes_into_no_object_of_the_store(node: LayerNode, layer: Manifest, kernel: bool) -> None:
    """The contract's cp opens what is there and writes: through a hard link, into the store."""
    boot(node)
    if kernel:
        node.add_kernel(NEWER)
        node.kver = NEWER
    node.add_image(IMAGE, config=digest("another"))

    def installs(n: LayerNode, action: str) -> Reply:
        if (n.root / LIBRARY).exists():
            (n.root / LIBRARY).write_text("another image's, of the same version")
        return behave(n, action)

    node.scripts = [installs]  # type: ignore[list-item]
    assert boot(node).result == "compiled"
    assert Store(node.root).problems(objects_of(layer)) == ()


def test_another_kernel_leaves_the_layer_inert_and_installs(node: LayerNode) -> None:
    node.add_kernel(NEWER)
    node.kver = NEWER
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "kernel_mismatch")
    assert activation_record.read(node.root) is None


# --- taken away ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("managed", [True, False], ids=["lost its gpu", "opted out"])
def test_what_was_put_in_place_goes_where_no_driver_belongs(node: LayerNode, managed: bool) -> None:
    before = placed(node)
    boot(node)
    if managed:
        lose_gpu(node)
    outcome = boot(node, policy(managed=managed))
    assert (outcome.result, outcome.changed, outcome.code) == ("removed", True, "no_gpu" if managed else "not_managed")
    assert "nvidia" not in node.loaded_names()
    assert activation_record.read(node.root) is None
    assert node_record.read(node.root) is None
    left = {p for p in placed(node) if p not in before}
    assert left <= {"etc/containerd/config.d", "etc/containerd/config.d/10-nvidia-runtime.toml", "usr/lib/udev", "usr/lib/udev/rules.d"}
    now = placed(node)
    assert {p: (before[p], now.get(p)) for p in before if now.get(p) != before[p]} == {}


def test_packages_that_a_driver_container_installed_stay_and_are_named(node: LayerNode) -> None:
    boot(node)
    node.put("var/lib/dpkg/status", "Package: nvidia-container-toolkit\nVersion: 1\nStatus: install ok installed\n\n")
    outcome = boot(node, policy(managed=False))
    assert any(warning.startswith("left: package nvidia-container-toolkit") for warning in outcome.warnings)


def test_a_cloned_disk_is_a_new_node(node: LayerNode) -> None:
    boot(node)
    node.put("etc/machine-id", "f" * 32 + "\n")
    node.calls.clear()
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    active = activation_record.read(node.root)
    assert active
    assert active.machine_id == "f" * 32


# --- what is not ours stays, and what is reported as kept is there -----------------------------------------------------------


DKMS = f"var/lib/dkms/nvidia/{VERSION}"
SOURCES = f"usr/src/nvidia-{VERSION}"


def install_distributions_driver(node: LayerNode) -> dict[str, str]:
    """Another package's driver of the same version, as Ubuntu's nvidia-dkms-580: it uses just these paths."""
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


def test_what_an_owner_changed_stays_and_is_named(node: LayerNode) -> None:
    boot(node)
    (node.root / LIBRARY).chmod(0o600)
    node.put(MODULE, f"version:        {VERSION}\nthe owner's\n")
    node.put(f"{DKMS}/owners-notes", "mine")
    outcome = boot(node, policy(managed=False))
    assert outcome.result == "removed"
    assert {LIBRARY, MODULE, DKMS} <= set(kept_paths(outcome))
    assert [path for path in kept_paths(outcome) if not (node.root / path).exists()] == []
    assert (node.root / DKMS / "owners-notes").read_text() == "mine"


@pytest.mark.parametrize("loses_gpu", [False, True], ids=["foreign driver", "and no gpu"])
def test_a_distributions_driver_of_the_same_version_stays_whole(node: LayerNode, loses_gpu: bool) -> None:
    boot(node)
    theirs = install_distributions_driver(node)
    built = node.kernel_hook_builds(NEWER)
    if loses_gpu:
        lose_gpu(node)
    node.put("sys/module/nvidia/version", "570.1\n")  # by now it runs, in another version
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("removed", "no_gpu" if loses_gpu else "foreign_driver")
    assert "nvidia" in node.loaded_names()
    assert {path: (node.root / path).read_text() for path in theirs} == theirs
    assert [path for path in built if not os.path.lexists(node.root / path)] == []
    assert activation_record.read(node.root) is None
    assert not (node.root / LIBRARY).exists()


OPERATORS = "run/nvidia/validations/.driver-ctr-ready"


@pytest.mark.parametrize("users", [0, 1])
def test_on_an_operators_node_the_layer_goes_and_its_modules_while_nobody_has_them(node: LayerNode, users: int) -> None:
    boot(node)
    node.put(OPERATORS)
    table = node.root / "proc/modules"
    table.write_text(table.read_text().replace(" 0 - ", f" {users} - "))
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("removed", "operator_owned")
    assert ("nvidia" in node.loaded_names()) == bool(users)
    assert any("nvidia" in warning and "reboot" in warning for warning in outcome.warnings) == bool(users)
    assert not (node.root / LIBRARY).exists()
    assert (node.root / OPERATORS).exists()


def test_modules_that_another_process_holds_stop_an_opted_out_node_before_a_file_goes(
    node: LayerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(node)
    before = placed(node)
    monkeypatch.setattr(
        "ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.holders.device_holders", lambda _: ("python (42)",)
    )
    with pytest.raises(BootError, match=r"python \(42\)") as caught:
        boot(node, policy(managed=False))
    assert caught.value.code == "driver_in_use"
    assert placed(node) == before


def test_nouveau_is_left_where_a_layer_is_only_taken_away(node: LayerNode) -> None:
    boot(node)
    node.insert("nouveau", "")
    boot(node, policy(managed=False))
    assert node.loaded_names() == ["nouveau"]


def test_what_the_kernel_hook_has_built_from_the_layers_source_goes_with_it(node: LayerNode) -> None:
    before = placed(node)
    boot(node)
    built = node.kernel_hook_builds(NEWER)
    outcome = boot(node, policy(managed=False))
    assert outcome.result == "removed"
    assert [path for path in built if os.path.lexists(node.root / path)] == []
    assert not (node.root / "var/lib/dkms/nvidia").exists()
    assert {p for p in before if p not in placed(node)} == set()
    assert ["depmod", "-b", str(node.root), NEWER] in node.calls


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_file_in_the_way_leaves_the_layer_inert(node: LayerNode) -> None:
    node.put("usr/lib/firmware/nvidia/gsp.bin", "mine")
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "layer_unplaceable")
    assert "gsp.bin" in outcome.reason
    assert node.driver_runs == [INSTALL]


def test_what_the_disk_says_of_a_layers_places_is_a_reason_and_no_error(node: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/usr/bin")

    monkeypatch.setattr(preconditions, "check", broken)
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "layer_unplaceable")
    assert "/usr/bin: Input/output error" in outcome.reason


def test_an_object_that_is_damaged_after_the_look_is_found_before_the_record(node: LayerNode, layer: Manifest) -> None:
    library = next(entry for entry in layer.files if entry.path == LIBRARY)
    file = Path(Store(node.root).file(library))
    good = file.read_bytes()
    file.write_bytes(b"x" * len(good))
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert node.driver_runs == [SKIP, INSTALL]
    assert layers.why_judged_bad(node.root, layer, record_machine(node))
    assert activation_record.read(node.root) is None


def test_firmware_that_is_damaged_is_no_broken_hardware(node: LayerNode, layer: Manifest) -> None:
    """A GPU with such firmware does not start, and says just what a broken one says."""
    firmware = next(entry for entry in layer.files if entry.path == "usr/lib/firmware/nvidia/gsp.bin")
    file = Path(Store(node.root).file(firmware))
    file.write_bytes(b"x" * file.stat().st_size)

    def does_not_start(n: LayerNode, action: str) -> Reply:
        if action == INSTALL:
            return behave(n, action)
        n.insert("nvidia", VERSION)
        n.dmesg = "NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:1924)\n"
        return Reply(1, out="nvidia-smi failed\n", seconds=5.0)

    node.scripts = [does_not_start]  # type: ignore[list-item]
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert "gsp.bin" in outcome.reason
    assert layers.why_judged_bad(node.root, layer, record_machine(node))


def test_what_is_verified_beside_a_try_that_fails_leaves_no_record_behind(node: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contents are hashed beside the container. Where it ends later than the layer has gone, it must not record the layer again."""
    gone = threading.Event()
    real_deactivate, real_problems = activation_deactivate.deactivate, tree.problems

    def deactivate(*args: Any) -> Any:
        done = real_deactivate(*args)
        gone.set()
        return done

    def problems(root: Path, entries: Any) -> Any:
        found = real_problems(root, entries)
        assert gone.wait(60)
        return found

    node.scripts = [refuses]  # type: ignore[list-item]
    monkeypatch.setattr(activation_deactivate, "deactivate", deactivate)
    monkeypatch.setattr(verify, "tree", SimpleNamespace(problems=problems))
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert activation_record.read(node.root) is None


def refuses(node: LayerNode, action: str) -> Reply:
    """A module that does not go into this kernel."""
    if action == SKIP:
        node.insert_error = "Invalid module format"
        return Reply(1, out="no\n", seconds=5.0)
    node.insert_error = ""
    return behave(node, action)


def record_machine(node: LayerNode) -> str:
    done = node_record.read(node.root)
    assert done
    return done.machine_id


def test_a_layer_whose_second_module_cannot_be_loaded_goes_and_a_full_install_follows(node: LayerNode, layer: Manifest) -> None:
    def loads_one(node: FakeNode, action: str) -> Reply:
        if action == "install":
            node.insert_error = ""
            return behave(node, action)
        node.insert("nvidia", VERSION)
        node.insert_error = "Unknown symbol in module, or unknown parameter"
        return Reply(1, "nvidia-modprobe failed\n")

    node.scripts = [loads_one]  # type: ignore[list-item]
    outcome = boot(node)
    assert (outcome.result, outcome.code, node.driver_runs) == ("compiled", "fast_path_failed", [SKIP, INSTALL])
    assert "could not insert 'nvidia-uvm': Unknown symbol" in str(layers.why_judged_bad(node.root, layer, record_machine(node)))


def test_a_layer_that_was_judged_bad_is_not_tried_again(node: LayerNode, layer: Manifest) -> None:
    node.scripts = [refuses]  # type: ignore[list-item]
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "fast_path_failed")
    assert activation_record.read(node.root) is None
    (node.root / NODE_RECORD).unlink()
    plan = boot(node, check=True).plan
    (refusal,) = [r for r in plan.refused if r.code == "layer_judged_bad"]
    assert "could not insert 'nvidia'" in refusal.reason, "why it was judged so"
    assert layers.why_judged_bad(node.root, layer, "another machine") is None


# --- damaged documents -----------------------------------------------------------------------------------------------


def damage(node: LayerNode, document: str, text: str = "{") -> Path:
    return node.put(document, text, 0o600)


def journal_of(node: LayerNode, operation: str) -> str:
    """A journal's text, of a layer that is in place."""
    active = activation_record.read(node.root)
    assert active
    activation_record.write_journal(node.root, activation_record.Journal(operation, active))
    text = (node.root / ACTIVATION_JOURNAL).read_text()
    (node.root / ACTIVATION_JOURNAL).unlink()
    return text


def shapes(text: str, number: int) -> Iterator[str]:
    """A text cut off at many places, and full of zeros from there on, as after a power cut."""
    for at in range(0, len(text) - 1, len(text) // number):
        yield text[:at]
        yield text[:at] + "\0" * (len(text) - at)


def test_a_node_that_is_right_stays_so_whatever_the_record_of_its_layer_says(node: LayerNode) -> None:
    boot(node)
    bad = damage(node, ACTIVATION)
    before = snapshot(node.root, "none")
    outcome = boot(node)
    assert (outcome.result, outcome.containers) == ("ready", 0)
    assert any(str(bad.relative_to(node.root)) in warning for warning in outcome.warnings)
    assert snapshot(node.root, "none") == before


@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
@pytest.mark.parametrize("operation", [activation_record.ACTIVATE, activation_record.DEACTIVATE])
def test_a_damaged_document_costs_a_compile_once(node: LayerNode, layer: Manifest, document: str, operation: str) -> None:
    """In place and not initialised: what the manifests account for goes, a full install follows, and the next boot finds nothing amiss."""
    before = placed(node)
    activate.activate(node.root, node, layer)
    if document == ACTIVATION_JOURNAL:
        journal_of(node, operation)
        if operation == activation_record.ACTIVATE:
            (node.root / ACTIVATION).unlink()
    bad = damage(node, document)
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("compiled", "activation_invalid")
    assert document in outcome.reason
    assert node.driver_runs == [INSTALL]
    assert bad.with_name(bad.name + ".damaged").read_text() == "{"
    assert (activation_record.read(node.root), activation_record.read_journal(node.root)) == (None, None)
    assert layernode.REPLACED in before
    assert Store(node.root).problems(layer.files) == (), "the install did not write through a link into the store"
    again = boot(node)
    assert (again.result, again.changed, again.warnings) == ("ready", False, [])


@pytest.mark.parametrize("damaged", [ACTIVATION, ACTIVATION_JOURNAL])
def test_without_a_gpu_what_the_manifests_account_for_goes_all_the_same(node: LayerNode, layer: Manifest, damaged: str) -> None:
    before = placed(node)
    activate.activate(node.root, node, layer)
    damage(node, damaged)
    lose_gpu(node)
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("removed", "no_gpu")
    assert placed(node) == before
    assert (boot(node).result, boot(node).warnings) == ("nothing", [])


def test_with_nothing_in_place_a_damaged_record_is_only_named(node: LayerNode) -> None:
    damage(node, ACTIVATION)
    lose_gpu(node)
    before = snapshot(node.root, "none")
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("nothing", "no_gpu")
    assert any(ACTIVATION in warning for warning in outcome.warnings)
    assert snapshot(node.root, "none") == before


def test_what_nothing_accounts_for_is_not_deleted(node: LayerNode, layer: Manifest) -> None:
    activate.activate(node.root, node, layer)
    damage(node, ACTIVATION)
    mine, packages = f"{MODULE.rpartition('/')[0]}/mine.ko", "usr/lib/firmware/nvidia/gsp.bin"
    node.put(mine, "mine")
    (node.root / layernode.SETUID).unlink()
    node.put(layernode.SETUID, "changed", 0o755)
    node.put("var/lib/dpkg/info/libcuda1.list", f"/{packages}\n")
    lose_gpu(node)
    outcome = boot(node)
    assert outcome.result == "removed"
    assert (node.root / mine).read_text() == "mine"
    assert (node.root / layernode.SETUID).read_text() == "changed"
    assert (node.root / packages).exists()
    assert any(f"/{layernode.SETUID}" in warning for warning in outcome.warnings)
    assert not (node.root / MODULE).exists()


def test_an_original_that_cannot_be_put_back_leaves_what_replaced_it(node: LayerNode, layer: Manifest) -> None:
    activate.activate(node.root, node, layer)
    original = next(entry for entry in layer.originals if entry.path == layernode.REPLACED)
    Path(Store(node.root).file(original)).unlink()
    damage(node, ACTIVATION)
    lose_gpu(node)
    outcome = boot(node)
    assert outcome.result == "removed"
    assert any(f"/{layernode.REPLACED}: what was there" in warning for warning in outcome.warnings)
    assert (node.root / layernode.REPLACED).read_text() == "options nvidia\n"
    assert (node.root / layernode.DELETED).read_text() == "/old\n"


def test_where_signatures_are_enforced_the_damage_is_named_and_deactivation_mends_it(node: LayerNode, layer: Manifest) -> None:
    activate.activate(node.root, node, layer)
    damage(node, ACTIVATION)
    node.put("sys/module/module/parameters/sig_enforce", "Y\n")
    with pytest.raises(BootError, match=ACTIVATION) as caught:
        boot(node)
    assert caught.value.code == "signatures_enforced"
    assert activation_deactivate.deactivate(node.root, node).layer == layer.layer
    assert activation_record.problems(node.root) == ()


@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
def test_a_document_of_a_newer_layout_is_left_to_the_program_that_wrote_it(node: LayerNode, layer: Manifest, document: str) -> None:
    activate.activate(node.root, node, layer)
    damage(node, document, '{"schema": 2}')
    before = snapshot(node.root, "none")
    with pytest.raises(BootError, match="a newer version of this program") as caught:
        boot(node)
    assert caught.value.code == "activation_invalid"
    lose_gpu(node)
    assert boot(node).result == "nothing"
    after = snapshot(node.root, "none")
    assert {path: after.get(path) for path in before if path.startswith(layernode.STORE)} == {
        path: before[path] for path in before if path.startswith(layernode.STORE)
    }
    assert (node.root / MODULE).exists()


def test_however_a_document_is_damaged_the_node_boots(node: LayerNode, layer: Manifest) -> None:
    """Wherever it is cut off, a boot gives one plan, at whose end nothing of the layer is left and all else is as it was."""
    before = placed(node)
    activate.activate(node.root, node, layer)
    record_text, journal_text = (node.root / ACTIVATION).read_text(), journal_of(node, activation_record.DEACTIVATE)
    lose_gpu(node)
    assert activation_record.read(node.root)
    for document, text in ((ACTIVATION, record_text), (ACTIVATION_JOURNAL, journal_text)):
        for shape in shapes(text, 10):
            (node.root / ACTIVATION).write_text(record_text)
            damage(node, document, shape)
            outcome = boot(node)
            assert outcome.result == "removed"
            assert placed(node) == before
            activate.activate(node.root, node, layer)


def test_an_interrupted_activation_is_taken_back_first(node: LayerNode, layer: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(activation_record, "write", stop)
        patch.setattr(activate, "finish_taking_away", stop)
        with pytest.raises(KeyboardInterrupt):
            activate.activate(node.root, node, layer)
    assert (node.root / ACTIVATION_JOURNAL).exists()
    outcome = boot(node)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    assert not (node.root / ACTIVATION_JOURNAL).exists()
