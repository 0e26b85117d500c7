"""Which tests come first."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole journeys first: they take longest, and a worker with one of them left keeps the other waiting at the end."""
    items.sort(key=lambda item: "tests/system/" not in item.path.as_posix())
