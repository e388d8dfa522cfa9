"""The demo: the service works while its broker is cut, frozen, blocked and restarted; an account follows at the end.

A gateway feeds a synthetic market, the service publishes feature vectors, and a stand-in for the model service reads
them. The account compares the records of all three. It adds up only if no accepted vector is missing.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio

from feature_service.demo_cast import PATIENCE, SYMBOLS, Account, Cast, DemoOptions
from feature_service.demo_stage import embedded, running
from feature_service.demo_view import View, choose_view


async def demo(options: DemoOptions) -> int:
    """Run the demo. Returns 0 if the account adds up, else 1.

    Raises:
        AnyamqpError: the running broker cannot be reached.
    """
    # The view shows transitions and faults, so the logs are not needed.
    logging.getLogger("anyamqp").addHandler(logging.NullHandler())
    logging.getLogger("feature_service").addHandler(logging.NullHandler())
    seed = random.SystemRandom().randrange(10_000) if options.seed is None else options.seed
    prefix = "" if options.broker is None else f"anyamqp-demo-{seed}-"
    async with embedded() if options.broker is None else running(options.broker) as stage:
        cast = Cast(stage, seed, prefix, options.backend)
        async with choose_view(cast, options, seed) as view:
            account = await _play(cast, view, options.duration)
        view.conclude(account)
    return 0 if account.adds_up else 1


async def _play(cast: Cast, view: View, duration: float) -> Account:
    channels_at_start = channels_now = 0
    async with cast.connections["gateway"], cast.connections["model"], anyio.create_task_group() as tasks:
        await cast.declare()
        tasks.start_soon(cast.model.read, cast.connections["model"], cast.queue)
        tasks.start_soon(cast.service.run)
        async with _background(cast.feed):
            view.act("everybody connects")
            await _until(lambda: cast.is_calm and len(cast.model.seen) > len(SYMBOLS))
            channels_at_start = cast.channels
            view.act("faults")
            await cast.schedule.play(duration)
            view.act("calm again")
            await _until(lambda: cast.is_calm)
            channels_now = cast.channels
        view.act("the last vectors")
        cast.service.stop()
        await _until(lambda: cast.outbox.accepted_ids <= cast.model.seen)
        tasks.cancel_scope.cancel()
        if cast.prefix:
            with anyio.CancelScope(shield=True), anyio.move_on_after(PATIENCE):
                await cast.remove()
    # All connections are closed, so the broker's count of closes is final.
    return cast.account(channels_at_start, channels_now)


@asynccontextmanager
async def _background(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None, None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        yield
        tasks.cancel_scope.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    """Poll until several parties are in a state at once. If they never are, the account shows it."""
    with anyio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - see above
            await anyio.sleep(0.02)
