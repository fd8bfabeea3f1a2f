"""Power cuts in VMs: ``make test-power``, ``make test-all PART=power``. Outside a lab session they are an error, never skipped."""

from __future__ import annotations

import random

import pytest

pytest.register_assert_rewrite("tests.power.cutting")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", default="", help="of the cuts' steps and delays; a run says which it took")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed") or random.SystemRandom().randrange(10**6))
