"""The node of tests/lab, for captured bakes that are too long for there: `make test-all PART=capture`."""

from __future__ import annotations

from tests.lab.conftest import bakery, pristine

__all__ = ["bakery", "pristine"]
