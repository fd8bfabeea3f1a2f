"""Loads a page in headless Chromium, measures it at several widths, in light or dark, and takes a screenshot."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.machine import host

TIMEOUT_S = 120.0
# In each frame: is the content wider than the page, and what was requested? In each visible picture: do texts overlap, is one cut off?
_MEASURE = """
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement, pictures = [];
    for (const svg of page.querySelectorAll("svg")) {
      const outer = svg.getBoundingClientRect();
      if (!outer.width) continue;
      const texts = [...svg.querySelectorAll("text")].map(t => ({said: t.textContent, box: t.getBoundingClientRect()}));
      const cut = texts.filter(({box}) => box.left < outer.left || box.right > outer.right || box.bottom > outer.bottom);
      const clash = [];
      texts.forEach((a, i) => texts.slice(i + 1).forEach(b => {
        if (a.box.left < b.box.right - .5 && b.box.left < a.box.right - .5 && a.box.top < b.box.bottom - 2 && b.box.top < a.box.bottom - 2)
          clash.push(a.said + " / " + b.said);
      }));
      pictures.push({texts: texts.length, cut: cut.map(t => t.said), clash});
    }
    const background = frame.contentWindow.getComputedStyle(page.body).backgroundColor;
    const loaded = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name);
    found[frame.width] = {page: root.clientWidth, content: root.scrollWidth, background, pictures, loaded};
  }
  document.body.textContent = JSON.stringify(found);
});
"""


@dataclass(frozen=True)
class Seen:
    """What the browser has measured, by width; the lines of its console; the screenshot."""

    widths: dict[int, dict[str, Any]]
    console: list[str]
    photo: Path


def look(page: str, folder: Path, widths: tuple[int, ...], is_dark: bool, photo: Path) -> Seen:
    """Loads `page` in a frame of each width, without a network, and takes a screenshot at the last width."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, framed = folder / "page.html", folder / "framed.html"
    plain.write_text(page)
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>' for width in widths)
    framed.write_text(f'<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><script>{_MEASURE}</script>{frames}')
    measured = _chromium(folder, is_dark, "--dump-dom", f"file://{framed}")
    _chromium(folder, is_dark, f"--window-size={widths[-1]},2400", f"--screenshot={photo}", f"file://{plain}")
    body = re.search(r"<body>(.*)</body>", measured.stdout, re.DOTALL)
    assert body, measured.stdout[-500:] + measured.stderr[-500:]
    found = {int(width): seen for width, seen in json.loads(html.unescape(body[1])).items()}
    return Seen(found, re.findall(r".*:CONSOLE.*", measured.stderr), photo)


def _chromium(folder: Path, is_dark: bool, *arguments: str) -> host.Result:
    colours = ["--blink-settings=preferredColorScheme=0"] if is_dark else ["--blink-settings=preferredColorScheme=1"]
    argv = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    argv += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", *colours, *arguments]
    return host.run(argv, timeout_s=TIMEOUT_S)
