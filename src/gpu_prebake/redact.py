"""Keeps secrets from the command line out of everything that is shown or written."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

HIDDEN = "********"
_SECRET_NAMES = re.compile(
    r"(^|_)(pass|pin)($|_)|password|passwd|passphrase|secret|token|credential|(signing|private|api|access)_?key($|_)|_auth($|_)",
    re.IGNORECASE,
)
_SHORTEST = 4
"""A shorter value is not hidden: it is hardly a secret, and hiding it wherever it occurs would make texts unreadable."""


class Redactor:
    """Replaces values that must not be seen."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Adds a value to hide, and each of its lines."""
        for part in {secret, *secret.splitlines()}:
            if len(part.strip()) >= _SHORTEST and part not in self._secrets:
                self._secrets.append(part)
        self._secrets.sort(key=len, reverse=True)

    def learn(self, name: str, value: Any) -> None:
        """Adds the values of a variable that are secret by their names, also inside mappings and lists."""
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.learn(name if _is_secret(name) else str(key), item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.learn(name, item)
        elif _is_secret(name) and value is not None and not isinstance(value, bool):
            self.add(str(value))

    def text(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def data(self, value: Any, name: str = "") -> Any:
        """Data for JSON without the secrets: without the known values, and without values whose names are those of secrets."""
        if isinstance(value, Mapping):
            return {str(key): self.data(item, name if _is_secret(name) else str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(item, name) for item in value]
        if _is_secret(name) and value not in (None, "", True, False):
            return HIDDEN
        return self.text(value) if isinstance(value, str) else value


def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAMES.search(name))


def extra_vars(values: Iterable[str]) -> dict[str, Any]:
    """The variables of ``-e`` options, as far as they can be read here: ``@file``, JSON or YAML, ``key=value``. A missing file, or one that
    Ansible Vault encrypted, gives no variables here; Ansible reads it, or reports the error."""
    found: dict[str, Any] = {}
    for value in values:
        if value.startswith("@"):
            found.update(_parsed(_file_text(value[1:])))
        elif value.lstrip().startswith(("{", "[")):
            found.update(_parsed(value))
        else:
            found.update(_pairs(value))
    return found


def _file_text(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _parsed(text: str) -> dict[str, Any]:
    if text.startswith("$ANSIBLE_VAULT"):
        return {}
    try:
        data = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return {}
    return {str(key): value for key, value in data.items()} if isinstance(data, dict) else {}


def _pairs(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    return dict(word.split("=", 1) for word in words if "=" in word)
