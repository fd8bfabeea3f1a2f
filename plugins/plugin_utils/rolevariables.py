"""Which names among a play's variables are slips: they begin with a role's name, and the role has no such variable."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches
from fnmatch import fnmatchcase

_AS_CLOSE = 0.9
"""How alike the beginning of a name and a role's name must be to count as misspelled: one letter more, less or other."""


def unknown(names: Iterable[str], role: str, known: Collection[str], ignored: Iterable[str]) -> dict[str, str]:
    """Each name that begins with the role's, in small or capital letters, and is neither known nor ignored; with the nearest known one."""
    prefix, patterns = f"{role}_", tuple(ignored)
    found = (name for name in names if name.lower().startswith(prefix) and name not in known)
    return {name: _nearest(name, known) for name in sorted(found) if not any(fnmatchcase(name, pattern) for pattern in patterns)}


def misspelled(names: Iterable[str], role: str, known: Collection[str]) -> dict[str, str]:
    """Each name whose end is that of a known one and whose beginning is almost the role's name; with the known one."""
    ends = {name[len(role) :]: name for name in known}
    found = {}
    for name in sorted(name for name in names if name.endswith(tuple(ends)) and not name.startswith((f"{role}_", "_"))):
        end = max((end for end in ends if name.endswith(end)), key=len)
        if SequenceMatcher(None, name[: -len(end)], role).ratio() >= _AS_CLOSE:
            found[name] = ends[end]
    return found


def refusal(role: str, found: Mapping[str, str]) -> str:
    """The message about unknown names. It shows no value."""
    named = "; ".join(f"{name}{f' (did you mean {near}?)' if near else ''}" for name, near in found.items())
    return (
        f"the role {role} has no variable of this name: {named}. Correct the name. If it is another role's or your own, "
        f"list it in {role}_ignored_variables, or begin it with something else than {role}_"
    )


def _nearest(name: str, known: Collection[str]) -> str:
    begun = [one for one in known if one.startswith(f"{name.lower()}_")]  # its last words are missing, such as a unit
    return next(iter([*begun, *get_close_matches(name.lower(), known, n=1)]), "")
