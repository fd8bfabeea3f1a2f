"""Bringing a layer to a state: by name, under the lock, from the command line."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import command, paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import deactivate, flow, preconditions
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation.flow import ABSENT, ACTIVE, INACTIVE, LayerChange
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import holders
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError, BusyError, DataError, InputError, LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, ACTIVATION_JOURNAL, STOPPED_SERVICES
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import host
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

from tests.kit import layer as layernode
from tests.kit import systemd
from tests.kit.layer import DELETED, LIBRARY, MODULE, REPLACED, LayerNode, snapshot
from tests.kit.values import DROPIN, VERSION

RULES = "usr/lib/udev/rules.d/71-nvidia-dev-char.rules"
TOP = Path(__file__).parents[4]


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LayerNode, Manifest]]:
    monkeypatch.setattr(paths, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(host, "require_root", lambda: None)
    with layernode.fast_folder() as folder:
        yield layernode.a_node(folder)


@pytest.fixture
def node(both: tuple[LayerNode, Manifest]) -> LayerNode:
    return both[0]


@pytest.fixture
def name(both: tuple[LayerNode, Manifest]) -> str:
    return both[1].layer


def wants(node: LayerNode, state: str, layer: str = "", check: bool = False) -> LayerChange:
    return flow.set_state(node, state, layer, check, root=node.root)


def test_each_state_is_reached_once(node: LayerNode, name: str) -> None:
    before = snapshot(node.root)
    changes = [(state, wants(node, state, name).changed) for state in (ACTIVE, ACTIVE, INACTIVE, INACTIVE, ABSENT, ABSENT)]
    assert changes == [(ACTIVE, True), (ACTIVE, False), (INACTIVE, True), (INACTIVE, False), (ABSENT, True), (ABSENT, False)]
    assert snapshot(node.root) == before


def test_the_answer_says_what_was_done(node: LayerNode, name: str) -> None:
    done = wants(node, ACTIVE, name)
    assert (done.layer, done.indexes_swapped) == (name, True)
    assert set(done.how) == {"link", "copy", "made"}
    (node.root / REPLACED).write_text("mine")
    gone = wants(node, INACTIVE)
    assert gone.layer == name
    assert f"/{MODULE}" in gone.removed
    assert f"/{DELETED}" in gone.restored
    (kept,) = (entry for entry in layers.read_all(node.root)[0][0].originals if entry.path == REPLACED)
    aside = f"what was there before is in /{layernode.set_aside(kept)}"
    assert gone.kept == [f"/{REPLACED}: its sha256 was changed after the layer was put in place; {aside}"]


def test_another_layer_stays_where_a_name_is_given(node: LayerNode, name: str) -> None:
    wants(node, ACTIVE, name)
    assert not wants(node, INACTIVE, "cuda-1.2-open-6.1").changed
    assert activation_record.read(node.root)


def test_an_active_layer_is_not_absent_by_itself(node: LayerNode, name: str) -> None:
    wants(node, ACTIVE, name)
    for check in (True, False):
        with pytest.raises(LayerError, match="deactivate it first"):
            wants(node, ABSENT, name, check)


@pytest.mark.parametrize("state", [ACTIVE, INACTIVE, ABSENT])
def test_check_changes_nothing_and_says_what_would(node: LayerNode, name: str, state: str) -> None:
    if state == INACTIVE:
        wants(node, ACTIVE, name)
    before, calls = snapshot(node.root, "none"), len(node.calls)
    assert wants(node, state, name, check=True).changed
    assert snapshot(node.root, "none") == before
    assert len(node.calls) == calls
    wants(node, state, name)
    assert not wants(node, state, name, check=True).changed


def test_check_fails_where_the_layer_would_be_refused(node: LayerNode, name: str) -> None:
    node.put(LIBRARY, "foreign")
    with pytest.raises(LayerError, match=LIBRARY):
        wants(node, ACTIVE, name, check=True)


@pytest.mark.parametrize(("state", "layer"), [(ACTIVE, ""), (ABSENT, ""), ("gone", "x")])
def test_what_cannot_be_meant_is_refused(node: LayerNode, state: str, layer: str) -> None:
    with pytest.raises(InputError):
        wants(node, state, layer)


def test_an_unknown_layer_is_named_with_those_that_are_there(node: LayerNode, name: str) -> None:
    with pytest.raises(LayerError, match=name):
        wants(node, ACTIVE, "cuda-1.2-open-6.1")


# --- loaded modules ------------------------------------------------------------------------------------------------------


def is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "device_holders", lambda _: ("python (42)",))


def test_its_modules_are_unloaded_before_its_files_go(node: LayerNode, name: str) -> None:
    wants(node, ACTIVE, name)
    for module, version in (("nvidia", VERSION), ("nvidia-uvm", ""), ("nouveau", "")):
        node.insert(module, version)
    done = wants(node, INACTIVE)
    assert set(done.modules) == {"nvidia", "nvidia-uvm"}
    assert node.loaded_names() == ["nouveau"]
    assert done.resident == []


def test_modules_of_another_version_are_not_its(node: LayerNode, name: str) -> None:
    wants(node, ACTIVE, name)
    node.insert("nvidia", "570.1")
    done = wants(node, INACTIVE)
    assert (done.modules, done.resident, node.loaded_names()) == ([], [], ["nvidia"])


@pytest.mark.parametrize("sign", ["", "run/nvidia/validations/.driver-ctr-ready"], ids=["alone", "beside an operator's driver"])
def test_services_that_were_stopped_run_again_where_another_driver_stays(node: LayerNode, name: str, sign: str) -> None:
    wants(node, ACTIVE, name)
    node.insert("nvidia", VERSION)
    systemd.add_unit(node, "nvidia-dcgm")
    if sign:
        node.put(sign)
    assert wants(node, INACTIVE).services == ["nvidia-dcgm"]
    assert node.running == ({"nvidia-dcgm"} if sign else set())
    assert not (node.root / STOPPED_SERVICES).exists()


def test_services_run_again_where_a_deactivation_fails(node: LayerNode, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise DataError("no")

    wants(node, ACTIVE, name)
    node.insert("nvidia", VERSION)
    systemd.add_unit(node, "nvidia-dcgm")
    monkeypatch.setattr(deactivate, "deactivate", fails)
    with pytest.raises(DataError):
        wants(node, INACTIVE)
    assert node.called("systemctl", "stop")
    assert node.running == {"nvidia-dcgm"}


@pytest.mark.parametrize("check", [True, False])
def test_while_somebody_has_the_driver_open_nothing_goes(node: LayerNode, name: str, check: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wants(node, ACTIVE, name)
    node.insert("nvidia", VERSION)
    before = snapshot(node.root)
    is_held(monkeypatch)
    with pytest.raises(BootError, match=r"python \(42\)") as caught:
        wants(node, INACTIVE, check=check)
    assert caught.value.code == "driver_in_use"
    assert snapshot(node.root) == before


def test_until_a_reboot_modules_may_stay_and_are_named(node: LayerNode, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wants(node, ACTIVE, name)
    node.insert("nvidia", VERSION)
    is_held(monkeypatch)
    status, answer, _ = runs(node, "deactivate", "--until-reboot", live=True)
    assert (status, answer["changed"], answer["resident"]) == (0, True, ["nvidia"])
    assert not (node.root / MODULE).exists()
    assert node.loaded_names() == ["nvidia"]


def test_on_an_operators_node_modules_that_are_used_stay(node: LayerNode, name: str) -> None:
    wants(node, ACTIVE, name)
    node.insert("nvidia", VERSION)
    table = node.root / "proc/modules"
    table.write_text(table.read_text().replace(" 0 - ", " 1 - "))
    node.put("run/nvidia/validations/.driver-ctr-ready")
    done = wants(node, INACTIVE)
    assert (done.resident, node.loaded_names()) == (["nvidia"], ["nvidia"])


def test_for_an_image_the_kernel_is_none_of_its_business(node: LayerNode, name: str) -> None:
    wants(node, ACTIVE, name)
    node.insert("nvidia", VERSION)
    assert runs(node, "deactivate")[1]["changed"] is True
    assert node.loaded_names() == ["nvidia"]


def test_what_device_initialisation_brought_stays_and_is_named(node: LayerNode, name: str) -> None:
    wants(node, ACTIVE, name)
    node.initialise_device()
    node.put("var/lib/dpkg/status", "Package: nvidia-container-toolkit\nVersion: 1\nStatus: install ok installed\n\n")
    left = wants(node, INACTIVE).left
    fabric_manager = ["/usr/bin/nv-fabricmanager", "/usr/share/nvidia/nvswitch"]
    named = [sentence.partition(": ")[0] for sentence in left]
    assert named == ["package nvidia-container-toolkit", f"/{DROPIN}", f"/{RULES}", *fabric_manager]
    assert (node.root / DROPIN).exists()


# --- two runs at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [ACTIVE, INACTIVE, ABSENT])
def test_a_second_run_leaves_and_names_the_first(node: LayerNode, name: str, state: str) -> None:
    before = snapshot(node.root, "none")
    with files.locked(paths.LOCK, "a bake"), pytest.raises(BusyError, match="a bake"):
        wants(node, state, name)
    assert snapshot(node.root, "none") == before


def test_of_two_at_once_one_does_it_and_the_other_leaves(node: LayerNode, name: str) -> None:
    """The first run holds the lock and is stopped in the middle until the second has been refused."""
    stop, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:

        def say(line: str) -> None:
            if line == "activate: place":
                os.write(stop[1], b"x")
                os.read(go[0], 1)

        try:
            flow.set_state(node, ACTIVE, name, say=say, root=node.root)
        finally:
            os._exit(0)
    os.read(stop[0], 1)
    with pytest.raises(BusyError, match=str(child)):
        wants(node, ACTIVE, name)
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    assert not wants(node, ACTIVE, name).changed
    assert activation_record.read_journal(node.root) is None
    for end in (*stop, *go):
        os.close(end)


def test_a_killed_run_frees_the_lock_and_the_next_goes_on(node: LayerNode, name: str) -> None:
    before = snapshot(node.root)
    child = os.fork()
    if child == 0:

        def die(line: str) -> None:
            if line == "activate: place":
                os.kill(os.getpid(), signal.SIGKILL)

        flow.set_state(node, ACTIVE, name, say=die, root=node.root)
    os.waitpid(child, 0)
    assert activation_record.read_journal(node.root)
    assert wants(node, INACTIVE).changed
    assert snapshot(node.root) == before
    assert wants(node, ACTIVE, name).changed


@pytest.mark.parametrize("document", [ACTIVATION, ACTIVATION_JOURNAL])
def test_where_the_record_is_damaged_only_taking_away_is_done(node: LayerNode, name: str, document: str) -> None:
    before = snapshot(node.root)
    wants(node, ACTIVE, name)
    node.put(document, "")
    for state in (ACTIVE, ABSENT):
        for check in (True, False):
            with pytest.raises(DataError, match=document) as caught:
                wants(node, state, name, check)
            assert caught.value.code == "activation_invalid"
            assert "python3 -m gpunode.command deactivate" in str(caught.value)
    assert wants(node, INACTIVE, check=True).changed
    done = wants(node, INACTIVE)
    assert (done.changed, done.kept) == (True, [])
    assert f"/{LIBRARY}" in done.removed
    assert snapshot(node.root) == before
    assert wants(node, ACTIVE, name).changed


def test_a_damaged_record_beside_a_journal_is_not_needed(node: LayerNode, name: str) -> None:
    before = snapshot(node.root)
    wants(node, ACTIVE, name)
    active = activation_record.read(node.root)
    assert active
    activation_record.write_journal(node.root, activation_record.Journal(activation_record.DEACTIVATE, active))
    node.put(ACTIVATION, "{")
    assert wants(node, ACTIVE, name).changed
    assert wants(node, INACTIVE).changed
    assert snapshot(node.root) == before


# --- the command line ----------------------------------------------------------------------------------------------------


def runs(node: LayerNode, *words: str, live: bool = False) -> tuple[int, dict[str, Any], str]:
    out, err = io.StringIO(), io.StringIO()
    status = command.main(["--root", str(node.root), *words], node, out, err, live)
    return status, json.loads(out.getvalue()), err.getvalue()


def test_commands_do_it_and_answer_in_json(node: LayerNode, name: str) -> None:
    before = snapshot(node.root)
    status, answer, said = runs(node, "activate", name)
    assert (status, answer["state"], answer["changed"]) == (0, "active", True)
    assert "activate: record" in said.splitlines()
    assert runs(node, "--check", "deactivate")[1]["changed"] is True
    assert runs(node, "deactivate")[1]["layer"] == name
    assert snapshot(node.root) == before
    assert runs(node, "discard", name)[0] == 0
    assert layernode.store_files(node.root) == set()


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "for real"])
def test_what_the_disk_says_has_a_code_too(node: LayerNode, name: str, check: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/usr/bin")

    monkeypatch.setattr(preconditions, "check", broken)
    status, answer, said = runs(node, *check, "activate", name)
    assert (status, answer["code"]) == (1, "os_error")
    assert "/usr/bin: Input/output error" in said


def test_what_is_no_system_is_refused(node: LayerNode) -> None:
    status, answer, _ = runs(node, "--root", str(node.root / "nowhere"), "deactivate")
    assert (status, answer["code"]) == (1, "bad_input")


def test_a_refusal_has_its_code(node: LayerNode) -> None:
    status, answer, said = runs(node, "activate", "cuda-1.2-open-6.1")
    assert (status, answer["code"]) == (1, "layer_missing")
    assert said.startswith("layer_missing: ")


def test_busy_has_a_status_of_its_own(node: LayerNode) -> None:
    with files.locked(paths.LOCK, "a bake"):
        status, answer, _ = runs(node, "deactivate")
    assert (status, answer["code"]) == (75, "busy")


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, "os_error"), (errno.ENOSPC, "no_space"), (errno.EROFS, "read_only")])
def test_what_the_disk_says_is_an_answer_and_no_traceback(node: LayerNode, monkeypatch: pytest.MonkeyPatch, number: int, code: str) -> None:
    def broken(*_: object) -> None:
        raise OSError(number, "what the disk says", "/run/gpu-prebake/lock")

    monkeypatch.setattr(files, "locked", broken)
    status, answer, _ = runs(node, "deactivate")
    assert (status, answer["code"]) == (1, code)
    assert answer["error"].startswith("/run/gpu-prebake/lock: what the disk says: ")


@pytest.mark.parametrize("words", [[], ["activate"], ["discard"], ["remove"]])
def test_wrong_usage_is_two(node: LayerNode, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words, node)
    assert caught.value.code == 2
    assert "usage: gpunode.command" in capsys.readouterr().err


@pytest.mark.subprocess
def test_it_runs_as_a_module_without_the_collection(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    shown = subprocess.run(
        [sys.executable, "-m", "gpunode.command", "--root", str(tmp_path), "--check", "deactivate"],
        env={"PYTHONPATH": str(TOP / "plugins/module_utils"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    answer = json.loads(shown.stdout)
    assert answer["code"] == "not_root" if os.geteuid() else answer["changed"] is False, shown.stderr
