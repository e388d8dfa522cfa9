"""Fixtures of the simulations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.observer import Observer


@pytest.fixture
def observer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    """Holds all publishes of the test against the table of a publish (invariants 2 and 3)."""
    observer = Observer()
    observer.watch(monkeypatch)
    yield observer
    observer.check_outcomes()
