"""The demo's page in a real browser, Debian's Chromium: `make test-all PART=page`. Screenshots for people are in build/page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.demo import demopage
from lab.machine import paths
from tests.page import browser

WIDTHS = (360, 859, 860, 1280)
PHOTOS = paths.TOP / "build/page"


def report(is_hostile: bool) -> dict[str, Any]:
    """The report of a real run; the hostile one has texts that cannot be broken into lines."""
    found = dict(json.loads((paths.TOP / "tests/data/demo/report.json").read_text()))
    if is_hostile:
        found["nodes"][0]["reason"] = "x" * 400
        found["nodes"][1]["warnings"] = ["/a/path" * 60]
        found["nodes"][2]["driver_says"] = "y" * 300
    return found


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("is_hostile", [False, True], ids=["real", "hostile"])
def test_the_page_fits_and_no_texts_overlap(is_hostile: bool, is_dark: bool, tmp_path: Path) -> None:
    PHOTOS.mkdir(parents=True, exist_ok=True)
    photo = PHOTOS / f"{'hostile' if is_hostile else 'real'}-{'dark' if is_dark else 'light'}.png"
    seen = browser.look(demopage.render(report(is_hostile)), tmp_path, WIDTHS, is_dark, photo)
    assert seen.console == []
    assert sorted(seen.widths) == list(WIDTHS)
    for width, found in seen.widths.items():
        assert (found["page"], found["content"]) == (width, width)
        assert found["loaded"] == []
        assert found["background"] == ("rgb(13, 17, 23)" if is_dark else "rgb(255, 255, 255)")
        (picture,) = found["pictures"]  # either the wide or the narrow one
        assert (picture["cut"], picture["clash"]) == ([], [])
        assert picture["texts"] > 30
    assert photo.stat().st_size > 10000
