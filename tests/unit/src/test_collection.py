"""Where the program finds the collection: in Ansible's own folders, in the way in which Ansible itself reads their list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[3] / "src"
FIND = "from gpu_prebake import collection; found = collection.find(); print(found.folder, found.version, found.is_clone)"


def found(program: Path, **environment: str) -> str:
    """What a program that is installed in ``program`` finds."""
    return subprocess.run(
        [sys.executable, "-c", FIND],
        cwd=program,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(program), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program outside of any clone, as pip installs it."""
    package = tmp_path / "site/gpu_prebake"
    package.mkdir(parents=True)
    for file in (SRC / "gpu_prebake").glob("*.py"):
        (package / file.name).write_text(file.read_text())
    return tmp_path / "site"


def install(collections: Path) -> Path:
    folder = collections / "ansible_collections/gpu/prebake"
    folder.mkdir(parents=True)
    (folder / "MANIFEST.json").write_text(json.dumps({"collection_info": {"version": "7.8.9"}}))
    return folder


def test_where_ansible_galaxy_installs_without_any_setting(program: Path, tmp_path: Path) -> None:
    folder = install(tmp_path / "home/.ansible/collections")
    assert found(program, HOME=str(tmp_path / "home")) == f"{folder} 7.8.9 False"


def test_where_the_environment_says(program: Path, tmp_path: Path) -> None:
    folder = install(tmp_path / "mine")
    assert found(program, HOME=str(tmp_path / "home"), ANSIBLE_COLLECTIONS_PATH=str(tmp_path / "mine")) == f"{folder} 7.8.9 False"
