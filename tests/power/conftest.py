"""Power cuts in VMs: ``make test-power``, ``make test-all PART=power``. Outside of a lab session they fail; they are never skipped."""

from __future__ import annotations

import random

import pytest

pytest.register_assert_rewrite("tests.power.cutting")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", default="", help="random seed for the steps and delays of the power cuts; each run prints its seed")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed") or random.SystemRandom().randrange(10**6))
