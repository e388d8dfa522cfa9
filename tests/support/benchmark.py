"""The fixture of pytest-benchmark, which has no types of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Benchmark(Protocol):
    """Calls a function many times, or once where benchmarks are switched off, and gives what it returned."""

    def __call__(self, function: Callable[P, R], /, *positional: P.args, **named: P.kwargs) -> R: ...

    def pedantic(
        self, target: Callable[..., R], *, setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]], rounds: int
    ) -> R: ...
