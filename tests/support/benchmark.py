"""Types for the fixture of pytest-benchmark, which has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Benchmark(Protocol):
    """Calls a function many times, or once if benchmarks are off. Returns its result."""

    def __call__(self, function: Callable[P, R], /, *positional: P.args, **named: P.kwargs) -> R: ...

    def pedantic(
        self, target: Callable[..., R], *, setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]], rounds: int
    ) -> R: ...
