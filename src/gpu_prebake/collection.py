"""Finds the collection: the clone that this program runs from, or the folder where Ansible has it installed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible import constants

NAME = "gpu.prebake"


class CollectionMissingError(Exception):
    """The collection is in none of Ansible's folders."""


@dataclass(frozen=True)
class Collection:
    """The collection: its folder, its version, and the environment variables with which Ansible finds it."""

    folder: Path
    version: str
    environment: dict[str, str]
    is_clone: bool

    def playbook(self, name: str) -> str:
        """The argument with which ansible-playbook runs one of the collection's playbooks."""
        return str(self.folder / f"playbooks/{name}.yml") if self.is_clone else f"{NAME}.{name}"

    def has(self, word: str) -> bool:
        """Whether a word of ansible-playbook's command line is one of the collection's playbooks."""
        return word.startswith(f"{NAME}.") or Path(word).resolve().parent == (self.folder / "playbooks").resolve()


def find() -> Collection:
    """The collection for this run. Raises CollectionMissingError."""
    top = Path(__file__).resolve().parents[2]
    if (top / "galaxy.yml").is_file() and (top / "collections/ansible_collections/gpu/prebake").exists():
        return _clone(top)
    for folder in constants.COLLECTIONS_PATHS:
        path = Path(folder) / "ansible_collections/gpu/prebake"
        if (path / "MANIFEST.json").is_file():
            version = json.loads((path / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]["version"]
            return Collection(path, str(version), {}, False)
        if (path / "galaxy.yml").is_file():
            return Collection(path, _galaxy_version(path), {}, False)
    raise CollectionMissingError(
        f"the collection {NAME} is not installed where Ansible looks for collections: install it (ansible-galaxy collection install), "
        "or run gpu-prebake from a clone"
    )


def _clone(top: Path) -> Collection:
    environment = {}
    config = os.environ.get("ANSIBLE_CONFIG", "")
    if not config:
        environment["ANSIBLE_CONFIG"] = str(top / "ansible.cfg")
    elif Path(config).resolve() != top / "ansible.cfg":  # the user's own configuration: it stays in force, and finds the clone too
        paths = constants.COLLECTIONS_PATHS
        environment["ANSIBLE_COLLECTIONS_PATH"] = os.pathsep.join([str(top / "collections"), *map(str, paths)])
    return Collection(top, _galaxy_version(top), environment, True)


def _galaxy_version(folder: Path) -> str:
    return str(yaml.safe_load((folder / "galaxy.yml").read_text(encoding="utf-8"))["version"])
