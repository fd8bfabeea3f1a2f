"""Apt sources: both file formats are read, and the lab's own text is derived from the machine's mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.machine import sources
from lab.machine.errors import LabError
from lab.machine.sources import Source

DEB822 = """\
Types: deb
# a comment inside a stanza
URIs: http://mirror.example/debian/
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("deb http://m.example/debian bookworm main", [Source("http://m.example/debian", "bookworm")], id="plain"),
        pytest.param(
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/d/ bookworm main",
            [Source("http://m.example/d", "bookworm")],
            id="options",
        ),
        pytest.param("deb [ arch=amd64 ] http://m.example/d bookworm main", [Source("http://m.example/d", "bookworm")], id="spaced"),
        pytest.param("deb-src http://m.example/debian bookworm main", [], id="source"),
        pytest.param("# deb http://m.example/debian bookworm main", [], id="comment"),
        pytest.param("deb http://m.example", [], id="short"),
    ],
)
def test_reads_one_line_style(line: str, expected: list[Source]) -> None:
    assert list(sources.parse_one_line(line)) == expected


def test_reads_deb822_style_and_skips_disabled_stanzas() -> None:
    assert list(sources.parse_deb822(DEB822)) == [
        Source("http://mirror.example/debian", "bookworm"),
        Source("http://mirror.example/debian", "bookworm-updates"),
        Source("http://mirror.example/debian-security", "bookworm-security"),
    ]


def test_derives_all_suites_from_the_machines_files(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    text = sources.lab_sources(tmp_path)
    words = [line.split()[2:] for line in text.splitlines()]
    everything = ["main", "contrib", "non-free", "non-free-firmware"]
    assert words == [
        ["http://mirror.example/debian", "bookworm", *everything],
        ["http://mirror.example/debian", "bookworm-updates", *everything],
        ["http://mirror.example/debian-security", "bookworm-security", *everything],
        ["http://mirror.example/debian", "bookworm-backports", "main"],
    ]


def test_names_the_suite_that_is_missing() -> None:
    with pytest.raises(LabError, match="no source for bookworm-security"):
        sources.render([Source("http://m.example/debian", "bookworm")])
