"""Regular expressions that are compiled on first use.

Compiling those of a whole library takes longer than a node's start may take, and one run uses few of them.
"""

from __future__ import annotations

import re
from typing import Any, AnyStr, cast


class _OnUse:
    def __init__(self, text: str | bytes, flags: int) -> None:
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        value = getattr(re.compile(self._text, self._flags), name)
        self.__dict__[name] = value  # found there from now on
        return value


def expression(text: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """``re.compile``, put off until the expression is used first; one that is wrong is only found then."""
    return cast("re.Pattern[AnyStr]", _OnUse(text, flags))
