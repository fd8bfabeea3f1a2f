"""Apt sources for the lab's root filesystems, derived from the machine's own: its mirror is used, none is in the code.

Formats: sources.list(5), one-line style and deb822 style.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.machine.errors import LabError

RELEASE = "bookworm"
COMPONENTS = "main contrib non-free non-free-firmware"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Source:
    """One mirror and one suite of it, as a sources file names them."""

    uri: str
    suite: str


def lab_sources(etc_apt: Path = Path("/etc/apt")) -> str:
    """One-line style text for all the suites the lab needs; LabError if the machine's sources lack a mirror."""
    return render(read_sources(etc_apt))


def read_sources(etc_apt: Path) -> list[Source]:
    """All binary sources that apt would read below `etc_apt`."""
    found: list[Source] = []
    for path in [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*.list"))]:
        if path.is_file():
            found += parse_one_line(path.read_text())
    for path in sorted((etc_apt / "sources.list.d").glob("*.sources")):
        found += parse_deb822(path.read_text())
    return found


def render(sources: Iterable[Source]) -> str:
    """Sources text for the release, its updates, security and backports, from the mirrors in `sources`."""
    sources = list(sources)
    main = _mirror(sources, RELEASE)
    security = _mirror(sources, f"{RELEASE}-security")
    options = f"[signed-by={KEYRING}]"
    return "".join(
        f"deb {options} {uri} {suite} {components}\n"
        for uri, suite, components in (
            (main, RELEASE, COMPONENTS),
            (main, f"{RELEASE}-updates", COMPONENTS),
            (security, f"{RELEASE}-security", COMPONENTS),
            (main, f"{RELEASE}-backports", "main"),
        )
    )


def parse_one_line(text: str) -> Iterator[Source]:
    """Sources of a one-line style file; comments, options and deb-src lines are skipped."""
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        if len(words) > 1 and words[1].startswith("["):
            end = next((i for i, word in enumerate(words) if word.endswith("]")), len(words) - 1)
            words = [words[0], *words[end + 1 :]]
        if len(words) >= 3:
            yield Source(words[1].rstrip("/"), words[2].rstrip("/"))


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources of a deb822 style file; disabled and source-only stanzas are skipped."""
    for stanza in _stanzas(text):
        if stanza.get("enabled", "yes").lower() in ("no", "false") or "deb" not in stanza.get("types", "").split():
            continue
        for uri in stanza.get("uris", "").split():
            for suite in stanza.get("suites", "").split():
                yield Source(uri.rstrip("/"), suite.rstrip("/"))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            if name:
                fields[name] += " " + line.strip()
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()


def _mirror(sources: list[Source], suite: str) -> str:
    for source in sources:
        if source.suite == suite:
            return source.uri
    raise LabError(
        f"no source for {suite} in /etc/apt/sources.list or /etc/apt/sources.list.d: the lab takes its Debian mirror "
        f"from there; add a line for {suite} (the lab is tested on Debian 12 only)"
    )
