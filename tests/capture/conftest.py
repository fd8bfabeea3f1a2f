"""The node of tests/lab, for captured bakes that take too long for that suite: `make test-all PART=capture`."""

from __future__ import annotations

from tests.lab.conftest import bakery, pristine

__all__ = ["bakery", "pristine"]
