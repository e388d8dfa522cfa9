"""How long the ledger takes for each way to confirm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyamqp.protocol.confirms import Ledger
from support.benchmark import Benchmark

WINDOW = 256
SETS = 20


def full() -> tuple[tuple[Ledger[int]], dict[str, Any]]:
    """A full window, as the arguments of the measured function."""
    ledger: Ledger[int] = Ledger()
    for number in range(WINDOW):
        ledger.add(number)
    return (ledger,), {}


def one_by_one(ledger: Ledger[int]) -> int:
    return sum(len(ledger.settle(tag, multiple=False)) for tag in range(1, WINDOW + 1))


def backwards(ledger: Ledger[int]) -> int:
    return sum(len(ledger.settle(tag, multiple=False)) for tag in range(WINDOW, 0, -1))


def in_sixteens(ledger: Ledger[int]) -> int:
    return sum(len(ledger.settle(tag, multiple=True)) for tag in range(16, WINDOW + 1, 16))


def settles_a_window(benchmark: Benchmark, settle: Callable[[Ledger[int]], int]) -> None:
    settled = benchmark.pedantic(settle, setup=full, rounds=SETS)
    assert settled == WINDOW


def test_add_a_window(benchmark: Benchmark) -> None:
    (ledger,), _ = benchmark(full)
    assert len(ledger) == WINDOW


def test_settle_a_window_one_by_one(benchmark: Benchmark) -> None:
    settles_a_window(benchmark, one_by_one)


def test_settle_a_window_backwards(benchmark: Benchmark) -> None:
    settles_a_window(benchmark, backwards)


def test_settle_a_window_in_sixteens(benchmark: Benchmark) -> None:
    settles_a_window(benchmark, in_sixteens)
