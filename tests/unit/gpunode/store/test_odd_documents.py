"""Documents that are no files, or that have numbers which no file can have: each is invalid, and nobody waits for it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION,
    ACTIVATION_JOURNAL,
    INSTALLED_FILES,
    NODE_RECORD,
    STORE,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import (
    activation_record,
    installed_files,
    layers,
    node_record,
    reports,
)

from tests.kit.values import DATA

BOOTED = DATA / "documents-0.1.0/captured-booted"
READERS: dict[str, Callable[[Path], Any]] = {
    ACTIVATION: activation_record.read,
    ACTIVATION_JOURNAL: activation_record.read_journal,
    INSTALLED_FILES: installed_files.read,
    NODE_RECORD: node_record.read,
}


@pytest.mark.parametrize("document", READERS)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a link"])
def test_a_document_that_is_no_file_is_invalid(tmp_path: Path, document: str, make: Callable[[Path], object]) -> None:
    (tmp_path / STORE).mkdir(parents=True)
    make(tmp_path / document)
    with pytest.raises(DataError, match=r"cannot be read|it is a link"):
        READERS[document](tmp_path)


def test_a_manifest_that_is_no_file_is_an_invalid_layer(tmp_path: Path) -> None:
    path = layers.path_of(tmp_path, "x")
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    good, bad = layers.read_all(tmp_path)
    assert good == ()
    assert "not a regular file" in bad[0]


@pytest.mark.parametrize("text", ["[" * 10**5, "[]", '"x"', '{"setuid_before": 7}', '{"setuid_before": [[]]}', "\0"])
def test_an_odd_report_of_a_bake_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / STORE).mkdir(parents=True)
    (tmp_path / STORE / "bake-report.json").write_text(text)
    assert reports.setuid_before(tmp_path) == ()


def changed(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    shutil.copytree(BOOTED, root / STORE)
    document = json.loads((root / ACTIVATION).read_text())
    change(document)
    (root / ACTIVATION).write_text(json.dumps(document))


def odd_time(document: dict[str, Any], value: int) -> None:
    document["derived"][0]["before"][0]["mtime_ns"] = value


def odd_size(document: dict[str, Any], value: int) -> None:
    next(entry for entry in document["placed"] if entry["type"] == "file")["size"] = value


@pytest.mark.parametrize("number", [10**30, 2**63, -(10**30), 10**4000])
@pytest.mark.parametrize("change", [odd_time, odd_size])
def test_a_number_that_the_kernel_does_not_take_is_invalid(tmp_path: Path, change: Callable[[Any, int], None], number: int) -> None:
    """It would be an OverflowError where the file is put back."""
    changed(tmp_path, lambda document: change(document, number))
    with pytest.raises(DataError):
        activation_record.read(tmp_path)


@pytest.mark.parametrize("when", ["", "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59", "0001-01-01T00:00:00+23:59"])
def test_any_time_of_an_activation_can_be_compared(tmp_path: Path, when: str) -> None:
    changed(tmp_path, lambda document: document.update(activated=when))
    active = activation_record.read(tmp_path)
    assert active
    assert isinstance(active.activated_ns, int)
