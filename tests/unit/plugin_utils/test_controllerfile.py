"""Whether a file can be written later, by what is there now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.plugin_utils.controllerfile import unwritable


@pytest.mark.parametrize(
    ("path", "why"),
    [
        pytest.param("report.json", "", id="a new file"),
        pytest.param("file", "", id="a file that is there"),
        pytest.param("new/folders/report.json", "", id="folders that would be made"),
        pytest.param("folder", "it is a folder", id="a folder"),
        pytest.param("file/report.json", "/file is not a folder", id="below a file"),
        pytest.param("file/more/report.json", "/file is not a folder", id="far below a file"),
        pytest.param("dangling/report.json", "/dangling is not a folder", id="below a link to nowhere"),
    ],
)
def test_says_why_no_file_can_be_written(path: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    found = unwritable(str(tmp_path / path))
    assert why in found
    assert bool(found) is bool(why)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_this_user_may_not_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)  # root, as whom tests may run, may write everywhere
    assert f"the folder {tmp_path} is not writable" in unwritable(str(tmp_path / "new/report.json"))
