"""Whole images compared, in VMs of the lab: `make test-all PART=compare`. Outside a lab session they are an error, never skipped."""

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
    """Prints what was compared, as it stands in build/compare/report.txt."""
    if REPORT.exists():
        terminalreporter.section(str(REPORT))
        terminalreporter.write(REPORT.read_text())


@pytest.fixture(scope="session", params=["standin", "nvidia"])
def image(request: pytest.FixtureRequest) -> str:
    """The name of a driver image of the lab's, which is then in the registry."""
    driver = driverimage.build(request.param)
    registry.push(driver.layout, driver.reference)
    return str(request.param)


@pytest.fixture(scope="session")
def managed(image: str) -> dict[str, Managed]:
    """By mode: an image of that mode, booted with a GPU and given to gpu_boot."""
    disks = {mode: bakedimage.bake(image, mode=mode).disk for mode in (_CAPTURED, _IN_PLACE)}
    folder = REPORT.parent

    def run(mode: str) -> Managed:
        return nodes.managed(f"compare-{mode.replace('_', '-')}-{image}", disks[mode], image, folder)

    found = nodes.side_by_side(run, (_CAPTURED, _IN_PLACE))
    return dict(zip((_CAPTURED, _IN_PLACE), found))
