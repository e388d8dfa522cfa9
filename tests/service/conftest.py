"""Fixtures of all tests of the service."""

from __future__ import annotations

import pytest

from feature_service import pause


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service tries again without a second's patience."""
    monkeypatch.setattr(pause, "FIRST", 0.02)
