"""The worked examples of docs/testing.md, run as a user runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest_plugins = ("pytester",)

EXAMPLES = Path(__file__).parents[2] / "examples" / "testing"


@pytest.mark.parametrize(
    ("example", "tests"),
    [("first", 2), ("orders_service", 10), ("thumbnails", 4), ("prices", 6), ("other_client", 3)],
)
def test_example_passes(pytester: pytest.Pytester, example: str, tests: int) -> None:
    for path in (*EXAMPLES.glob(f"{example}.py"), EXAMPLES / f"test_{example}.py"):
        shutil.copy(path, pytester.path)
    plugins = ("-p", "no:cacheprovider", "-p", "no:anyamqp", "-p", "anyamqp.testing.plugin")
    pytester.runpytest_inprocess(*plugins, "--strict-markers").assert_outcomes(passed=tests)
