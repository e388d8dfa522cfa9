"""Waiting for an answer of the broker's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from anyamqp.errors import RequestTimeout

T = TypeVar("T")


async def answered_within(
    seconds: float | None, work: Awaitable[T], request: str, progress: Callable[[], str] | None = None
) -> T:
    """Wait for an answer of the broker's.

    Args:
        seconds: the time that it may take; None for any.
        work: waits for it.
        request: what is to be answered, for the error.
        progress: tells how the connection does, for the error.

    Raises:
        RequestTimeout: it took longer.
    """
    with anyio.move_on_after(seconds):
        return await work
    why = "" if progress is None else f"; {progress()}"
    raise RequestTimeout(f"{request}: no answer within {seconds} s{why}")
