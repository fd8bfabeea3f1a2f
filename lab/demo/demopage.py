"""The demo's report as one self-contained HTML page: no network, no script; light or dark like the reader's system; fits a phone."""

from __future__ import annotations

from typing import Any

import jinja2

from lab.demo import demoreport, picture, timeline
from lab.machine import paths


def render(report: dict[str, Any]) -> str:
    """The HTML of the page. Texts that come from nodes (logs, names) are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.TOP / "lab/demo"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("demo.html.j2").render(
        report=report,
        headline=timeline.headline(report),
        conclusions=demoreport.conclusions(report["nodes"]),
        wide=picture.wide(report, titled=False),
        narrow=picture.narrow(report),
        facts=demoreport.facts(report["nodes"]),
        compile_steps=timeline.COMPILE_STEP_NAMES,
        sliver_s=timeline.SLIVER_S,
    )
