"""Tests that compare whole images, in VMs: `make test-all PART=compare`. Outside of a lab session they fail; they are never skipped."""

from __future__ import annotations

import pytest

from lab.builds import bakedimage
from lab.driverimages import driverimage, registry
from tests.compare import nodes
from tests.compare.comparison import REPORT
from tests.compare.nodes import Managed

_CAPTURED, _IN_PLACE = bakedimage.CAPTURED, bakedimage.IN_PLACE


@pytest.fixture(scope="session", autouse=True)
def _fresh_report() -> None:
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints build/compare/report.txt, the report of what was compared."""
    if REPORT.exists():
        terminalreporter.section(str(REPORT))
        terminalreporter.write(REPORT.read_text())


@pytest.fixture(scope="session", params=["standin", "nvidia"])
def image(request: pytest.FixtureRequest) -> str:
    """The name of a driver image of the lab, which is pushed to the registry."""
    driver = driverimage.build(request.param)
    registry.push(driver.layout, driver.reference)
    return str(request.param)


@pytest.fixture(scope="session")
def managed(image: str) -> dict[str, Managed]:
    """By mode: a node of an image baked in that mode, booted with a GPU, on which gpu_boot has run."""
    disks = {mode: bakedimage.bake(image, mode=mode).disk for mode in (_CAPTURED, _IN_PLACE)}
    folder = REPORT.parent

    def run(mode: str) -> Managed:
        return nodes.managed(f"compare-{mode.replace('_', '-')}-{image}", disks[mode], image, folder)

    found = nodes.side_by_side(run, (_CAPTURED, _IN_PLACE))
    return dict(zip((_CAPTURED, _IN_PLACE), found))
