"""Each request that the broker does not answer ends with a RequestTimeout that names it, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio.testing

import anyamqp
from anyamqp import RequestTimeout
from anyamqp.wire import methods
from support.handbroker import connected
from tools.simulate.clock import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Virtual time on both loops."""
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": lambda: VirtualLoop(lambda: None)}


REQUESTS: dict[type[methods.Method], Callable[[anyamqp.Channel], Awaitable[object]]] = {
    methods.Queue.Declare: lambda channel: channel.declare_queue("q"),
    methods.Exchange.Declare: lambda channel: channel.declare_exchange("e"),
    methods.Queue.Bind: lambda channel: channel.bind_queue("q", "e"),
    methods.Basic.Get: lambda channel: channel.get("q"),
}


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.name)
async def test_request_without_an_answer_times_out_by_name(kind: type[methods.Method]) -> None:
    async with connected(request_timeout=7.0) as (broker, connection), connection.channel() as channel:
        broker.habits.silent_to.add(kind)
        with pytest.raises(RequestTimeout, match=rf"^{kind.name.lower()}.*: no answer within 7\.0 s"):
            await REQUESTS[kind](channel)


async def test_channel_that_the_broker_does_not_open_times_out() -> None:
    async with connected(request_timeout=7.0) as (broker, connection):
        broker.habits.silent_to.add(methods.Channel.Open)
        with pytest.raises(RequestTimeout, match=r"no answer within 7\.0 s"):
            async with connection.channel():
                pytest.fail("opened")


async def test_secret_that_is_not_acknowledged_times_out() -> None:
    async with connected(request_timeout=7.0) as (_, connection):
        with pytest.raises(RequestTimeout, match=r"no answer within 7\.0 s"):
            await connection.update_secret("new")


async def test_transaction_that_is_not_committed_in_time_times_out() -> None:
    async with connected(request_timeout=7.0) as (broker, connection), connection.channel() as channel:
        broker.habits.silent_to.add(methods.Tx.Commit)
        with pytest.raises(RequestTimeout, match=r"tx.commit"):
            async with channel.transaction():
                pass
