"""Waiting for an answer from the broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from anyamqp.errors import RequestTimeout

T = TypeVar("T")


async def answered_within(
    seconds: float | None, work: Awaitable[T], request: str, progress: Callable[[], str] | None = None
) -> T:
    """Wait for an answer from the broker.

    Args:
        seconds: the time that the answer may take; None for any.
        work: waits for the answer.
        request: the name of the request, for the error.
        progress: describes the progress of the connection, for the error.

    Raises:
        RequestTimeout: the answer took longer.
    """
    with anyio.move_on_after(seconds):
        return await work
    why = "" if progress is None else f"; {progress()}"
    raise RequestTimeout(f"{request}: no answer within {seconds} s{why}")
