"""Tests of the built collection, installed outside of this repository: `make test-all PART=collection`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.machine import host, paths
from lab.nodes.native import NativeNode


@dataclass(frozen=True)
class Artifact:
    """The built tarball, the collections folder in which it is installed, and an empty folder to run from."""

    tarball: Path
    collections: Path
    folder: Path

    @property
    def root(self) -> Path:
        """The installed collection."""
        return self.collections / "ansible_collections/gpu/prebake"

    def run(self, *argv: str, check: bool = True, timeout_s: float = 600) -> host.Result:
        """Runs a program of Ansible's that finds the installed collection, and neither configuration nor code of this repository."""
        env = {
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
            "PYTHONPATH": "",
        }
        return host.run(["env", f"--chdir={self.folder}", *argv], timeout_s=timeout_s, check=check, env=env)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The collection, built by `ansible-galaxy collection build` and installed by `ansible-galaxy collection install` without a network."""
    place = tmp_path_factory.mktemp("artifact")
    folder = place / "elsewhere"
    folder.mkdir()
    (folder / "ansible.cfg").write_text("")
    host.run(["ansible-galaxy", "collection", "build", "--output-path", str(place), str(paths.TOP)], timeout_s=120)
    (tarball,) = place.glob("gpu-prebake-*.tar.gz")
    made = Artifact(tarball, place / "collections", folder)
    made.run("ansible-galaxy", "collection", "install", "--offline", "--collections-path", str(made.collections), str(tarball))
    return made


@pytest.fixture
def node() -> Iterator[NativeNode]:
    """A native node, in place of a machine of Packer's."""
    found = NativeNode.create("collection")
    try:
        yield found
    finally:
        found.destroy()


@pytest.fixture
def true_path(artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of the installed collection, with this repository's settings for ansible-test, which the artifact leaves out."""
    copy = tmp_path / "ansible_collections/gpu/prebake"
    shutil.copytree(artifact.root, copy)
    (copy / "tests").mkdir()
    shutil.copy(paths.TOP / "tests/config.yml", copy / "tests/config.yml")
    sanity = paths.TOP / "tests/sanity"
    if sanity.is_dir():
        shutil.copytree(sanity, copy / "tests/sanity")
    return copy
