"""The variables of ``-e`` options, read by Ansible's own readers, so that what Ansible understands is understood here too."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.splitter import parse_kv
from ansible.parsing.vault import VaultLib, VaultSecret, get_file_vault_secret

_VAULT = b"$ANSIBLE_VAULT;"


class Vaulted(str):
    """A value that was encrypted, so it is a secret whatever its name; empty if it cannot be decrypted here."""

    __slots__ = ()


UNREAD = Vaulted()
"""Stands for what cannot be read here. Ansible reads it, or reports the error."""


class ExtraVars:
    """Reads the values of ``-e``. ``passwords`` are those of vaults that were typed, ``files`` the values of ``--vault-id`` and
    ``--vault-password-file``."""

    def __init__(self, passwords: Iterable[str] = (), files: Iterable[str] = ()) -> None:
        self._loader = DataLoader()
        secrets = [("default", VaultSecret(password.encode())) for password in passwords]
        named = [*files, *constants.DEFAULT_VAULT_IDENTITY_LIST, *filter(None, [constants.DEFAULT_VAULT_PASSWORD_FILE])]
        secrets += [found for found in map(self._from_file, named) if found]
        self._loader.set_vault_secrets(secrets)
        self._vault = VaultLib(secrets)

    def read(self, values: Sequence[str]) -> dict[str, Any]:
        """The variables by their names, in plain types. An option that cannot be read is one variable, named like the option."""
        found: dict[str, Any] = {}
        for value in filter(None, values):
            try:
                found.update(self._read(value))
            except (AnsibleError, OSError, ValueError, RecursionError):
                found[value if value.startswith("@") else "-e"] = UNREAD
        return found

    def _read(self, value: str) -> dict[str, Any]:
        is_secret = False
        if value.startswith("@"):
            is_secret = _is_encrypted(value[1:])
            data = self._loader.load_from_file(value[1:])
        elif value[0] in "[{":
            data = self._loader.load(value)
        else:
            data = parse_kv(value)
        if not isinstance(data, Mapping):
            raise AnsibleError("not a mapping")
        return {str(key): self._plain(item, is_secret) for key, item in data.items() if key != "_raw_params"}

    def _plain(self, value: Any, is_secret: bool) -> Any:
        """A value in plain types, without Ansible's own; encrypted ones are decrypted."""
        ciphertext = getattr(value, "_ciphertext", None)
        if ciphertext is not None:
            return self._decrypted(ciphertext)
        if isinstance(value, Mapping):
            return {str(key): self._plain(item, is_secret) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(item, is_secret) for item in value]
        if value is None or isinstance(value, bool):
            return value
        if is_secret:
            return Vaulted(value)
        return value if isinstance(value, (int, float)) else f"{value}"

    def _decrypted(self, ciphertext: str | bytes) -> Vaulted:
        try:
            return Vaulted(self._vault.decrypt(ciphertext).decode("utf-8", "replace"))
        except (AnsibleError, ValueError):
            return UNREAD

    def _from_file(self, named: str) -> tuple[str, VaultSecret] | None:
        """The secret of a password file or script, None for one that is typed, or that Ansible will not be able to read either."""
        label, at, source = named.rpartition("@")
        if at and source in ("prompt", "prompt_ask_vault_pass"):
            return None
        try:
            secret = get_file_vault_secret(filename=source, vault_id=label or "default", loader=DataLoader())
            secret.load()
        except (AnsibleError, OSError):
            return None
        return label or "default", secret


def _is_encrypted(name: str) -> bool:
    """Whether Ansible Vault encrypted a file. Raises OSError for a pipe, which can be read only once, and Ansible must read it."""
    path = Path(name).expanduser()
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as stream:
        return stream.read(len(_VAULT)) == _VAULT
