"""Reading and writing the node record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import NODE_RECORD
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import node_record

from tests.kit import values as support


def test_round_trip(tmp_path: Path) -> None:
    node_record.write(tmp_path, support.a_record(containerd_restarts=1, containerd_config="ab"))
    assert node_record.read(tmp_path) == support.a_record(containerd_restarts=1, containerd_config="ab")
    assert (tmp_path / NODE_RECORD).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / NODE_RECORD).parent.stat().st_mode & 0o777 == 0o700


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert node_record.read(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        pytest.param("schema", 9, "layout version 9", id="newer layout"),
        pytest.param("state", "activated", "state 'activated' is unknown", id="unknown state"),
        pytest.param("state", [], "state", id="state is a list"),
        pytest.param("machine_id", 7, "machine_id", id="machine id is a number"),
        pytest.param("identity", {}, "wrong shape", id="empty identity"),
        pytest.param("identity", None, "identity", id="no identity"),
        pytest.param("identity", {**vars(support.identity()), "version": "../x"}, "is not a driver version", id="version leads out"),
        pytest.param("identity", {**vars(support.identity()), "version": ""}, "is not a driver version", id="no version"),
        pytest.param("identity", {**vars(support.identity()), "version": 580.1}, "version", id="version is a number"),
        pytest.param("modules", [], "modules", id="modules are a list"),
        pytest.param("modules", {"6.1": ["usr/x"]}, "modules", id="a kernel's modules are a list"),
        pytest.param("modules", {"6.1": {"usr/x": 5}}, "modules", id="a hash is a number"),
        pytest.param("modules", {"6.1": {"etc/../home": "00"}}, "leads outside", id="a module leads out"),
        pytest.param("libraries", ["usr/x"], "libraries", id="libraries are a list"),
        pytest.param("libraries", {"home/x": "00"}, "leads outside", id="a library leads out"),
        pytest.param("containerd_restarts", "1", "containerd_restarts", id="a number is text"),
        pytest.param("built_here", "no", "built_here", id="text for a truth value"),
        pytest.param("boot_id", 7, "boot_id", id="boot id is a number"),
        pytest.param("more", 1, "wrong shape", id="an unknown field"),
    ],
)
def test_refuses_a_bad_record(tmp_path: Path, key: str, value: Any, message: str) -> None:
    node_record.write(tmp_path, support.a_record())
    file = tmp_path / NODE_RECORD
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(DataError, match=message) as caught:
        node_record.read(tmp_path)
    assert caught.value.code == "record_invalid"


def test_cut_off_at_any_byte_it_is_a_data_error(tmp_path: Path) -> None:
    node_record.write(tmp_path, support.a_record())
    file = tmp_path / NODE_RECORD
    whole = file.read_text().rstrip()
    for length in range(len(whole)):
        file.write_text(whole[:length])
        with pytest.raises(DataError):
            node_record.read(tmp_path)


def test_the_same_driver_for_another_kernel_is_the_same_driver() -> None:
    assert support.a_record().same_driver(support.identity(kver="6.12"))
    assert not support.a_record().same_driver(support.identity(version="580.1"))
    assert support.a_record().same_driver(support.identity(flavour="")), "which flavour an install gives is known only afterwards"
