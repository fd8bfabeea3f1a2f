"""Keeps secrets from the command line out of everything that is shown or written. What is not known to be harmless is hidden."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from gpu_prebake.extravars import Vaulted
from gpu_prebake.plaintext import clean_data, clean_text

HIDDEN = "********"
_SECRET_NAMES = re.compile(
    r"password|passwd|passphrase|secret|token|credential|api_?key|bearer"
    r"|(^|_)(pass|pw|pwd|pin|psk|otp|jwt|sas|auth|creds?|cookie|session|private|keys?$)($|_)"
    r"|(signing|private|access|secret|deploy|ssh|encryption)_?key($|_)",
)
_HARMLESS_NAMES = ("nvidia_prebake_", "gpu_boot_", "gpu_remove_", "ansible_", "packer_")
"""Variables of our roles, of Ansible itself and of Packer: they are documented, so their names say whether they are secret."""
_SHORTEST = 4
"""A shorter value is not hidden in texts: it is hardly a secret, and hiding it wherever it occurs would make texts unreadable."""


class Redactor:
    """Replaces values that must not be seen: secrets wherever they occur, and values of variables that nobody knows as whole words."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self._words: list[str] = []
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Adds a value to hide, and each of its lines, in each form in which programs print it."""
        _add(self._secrets, secret)

    def learn(self, variables: Mapping[str, Any]) -> None:
        """Adds the values of variables, also inside mappings and lists: those that are secret, and those of which nobody knows."""
        for name, value in variables.items():
            self._learn(name, value, _is_known(name))

    def _learn(self, name: str, value: Any, is_known: bool) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._learn(name if _is_secret(name) else key, item, is_known)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._learn(name, item, is_known)
        elif value is None or isinstance(value, bool):
            return
        elif isinstance(value, Vaulted) or _is_secret(name):
            self.add(str(value))
        elif not is_known:
            _add(self._words, str(value))

    def text(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for word in self._words:
            if word in text:
                text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", HIDDEN, text)
        return text

    def data(self, value: Any, name: str = "") -> Any:
        """Data for JSON without the secrets: without the known values, and without values whose names are those of secrets."""
        if isinstance(value, Mapping):
            return {str(key): self.data(item, name if _is_secret(name) else str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(item, name) for item in value]
        if isinstance(value, Vaulted) or (_is_secret(name) and not (value is None or isinstance(value, bool) or value == "")):
            return HIDDEN
        return self.text(value) if isinstance(value, str) else value

    def variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables for the report: those that are known to be harmless with their values, all others without."""
        shown = {name: self.data(value, name) if _is_known(name) else HIDDEN for name, value in variables.items()}
        return dict(clean_data(shown))


def _is_secret(name: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return bool(_SECRET_NAMES.search(re.sub(r"[^a-z0-9]+", "_", words.lower())))


def _is_known(name: str) -> bool:
    return name.startswith(_HARMLESS_NAMES) and not _is_secret(name)


def _add(known: list[str], value: str) -> None:
    for part in {value, *value.splitlines()}:
        if len(part.strip()) >= _SHORTEST:
            known.extend(form for form in _forms(part) if form not in known)
    known.sort(key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    """A value as it is, and as it stands in JSON, in JSON inside JSON, in YAML or Python, in a URL and in a shell line."""
    yield value
    yield clean_text(value)
    for is_ascii in (True, False):
        once = json.dumps(value, ensure_ascii=is_ascii)[1:-1]
        yield once
        yield json.dumps(once, ensure_ascii=is_ascii)[1:-1]
    yield repr(value)[1:-1]
    yield value.replace("'", "''")
    yield shlex.quote(value).strip("'")
    yield quote(value, safe="", errors="surrogatepass")
    yield quote_plus(value, errors="surrogatepass")
