"""Files on the controller: the contents of one, and whether one can be written later, asked before the work whose result it is to hold."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from ansible.plugins.action import ActionBase

_VAULT = b"$ANSIBLE_VAULT;"


def contents(action: ActionBase, path: str) -> bytes:
    """The contents of a file that a task names, searched for as Ansible does, and decrypted if Ansible Vault encrypted it. Raises
    AnsibleError, OSError."""
    data = Path(action._find_needle("files", path)).read_bytes()
    if data.startswith(_VAULT):
        return bytes(action._loader._vault.decrypt(data, filename=path))
    return data


def unwritable(path: str) -> str:
    """Why no file can be written there, and what to do; "" if one can. Folders that are missing would be made. Changes nothing."""
    file = Path(os.path.expandvars(path)).expanduser()
    if file.is_dir():
        return "it is a folder: name a file in it"
    there = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    if not there.is_dir():
        return f"{there} is not a folder: correct the path"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"the folder {there} is not writable for {getpass.getuser()}: correct the path, or the folder's mode"
    return ""
