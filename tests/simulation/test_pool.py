"""A pool of channels: lending, waiting, and its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

import anyamqp
from anyamqp import Channel, ChannelPool, Connection, ConnectionClosed, InvalidUse, NotFound, RequestTimeout, State
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


@asynccontextmanager
async def connected(*, channel_max: int = 2047) -> AsyncGenerator[tuple[Broker, Connection], None]:
    async with (
        Broker(channel_max=channel_max) as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
    ):
        yield broker, connection


async def borrow(pool: ChannelPool, lent: list[Channel]) -> None:
    """Borrow a channel and give it back."""
    async with pool.channel(5) as channel:
        lent.append(channel)


async def test_a_channel_that_was_given_back_is_lent_again() -> None:
    async with connected() as (broker, connection), connection.channel_pool(2) as pool:
        async with pool.channel() as first:
            pass
        async with pool.channel() as second:
            assert second is first
            async with pool.channel() as third:
                assert third is not first
        assert broker.channel_count == 2
    assert broker.channel_count == 0


async def test_a_channel_that_was_closed_is_not_lent_again() -> None:
    async with connected() as (_, connection), connection.channel_pool(1) as pool:
        async with pool.channel() as broken:
            with pytest.raises(NotFound):
                await broken.get("missing")
        async with pool.channel(5) as channel:
            assert channel is not broken
            await channel.declare_queue("q")


async def test_a_channel_that_is_closed_while_it_is_idle_is_not_lent_again() -> None:
    async with connected() as (broker, connection), connection.channel_pool(1) as pool:
        async with pool.channel() as idle:
            pass
        broker.close_channels(406, "PRECONDITION_FAILED - an operator's doing")
        await eventually(lambda: idle.state is State.CLOSED)
        async with pool.channel(5) as channel:
            assert channel is not idle
            await channel.declare_queue("q")


async def test_who_comes_when_all_are_lent_waits_until_one_is_back() -> None:
    async with connected() as (broker, connection), connection.channel_pool(1) as pool:
        lent: list[Channel] = []
        async with anyio.create_task_group() as tasks, pool.channel() as channel:
            tasks.start_soon(borrow, pool, lent)
            await anyio.wait_all_tasks_blocked()
            assert lent == []
            lent.append(channel)
        assert lent[1] is lent[0]
        assert broker.channel_count == 1


async def test_who_waits_too_long_is_told_so_and_takes_nothing() -> None:
    async with connected() as (_, connection), connection.channel_pool(1) as pool:
        async with pool.channel():
            with pytest.raises(RequestTimeout, match=r"0\.01 s"):
                async with pool.channel(0.01):
                    pytest.fail("lent")
        async with pool.channel(5) as channel:
            await channel.declare_queue("q")


async def test_a_borrowing_that_fails_leaves_its_room() -> None:
    async with connected() as (_, connection), connection.channel_pool(1) as pool:
        await connection.close()
        for _ in range(2):
            with pytest.raises(ConnectionClosed):
                async with pool.channel(5):
                    pytest.fail("lent")


async def test_a_returned_channel_goes_to_a_borrower_without_a_number() -> None:
    """The pool may have two channels, the connection only one."""
    async with connected(channel_max=1) as (_, connection), connection.channel_pool(2) as pool:
        lent: list[Channel] = []
        async with anyio.create_task_group() as tasks, pool.channel() as channel:
            tasks.start_soon(borrow, pool, lent)
            await anyio.wait_all_tasks_blocked()
            lent.append(channel)
        assert lent[1] is lent[0]


async def test_a_number_that_is_free_again_goes_to_who_waits_for_one() -> None:
    async with connected(channel_max=1) as (_, connection), connection.channel_pool(2) as pool:
        lent: list[Channel] = []
        async with anyio.create_task_group() as tasks, connection.channel():
            tasks.start_soon(borrow, pool, lent)
            await anyio.wait_all_tasks_blocked()
            assert lent == []
        assert len(lent) == 1


async def test_a_closed_pool_lends_nothing_and_closes_what_comes_back() -> None:
    async with connected() as (broker, connection):
        async with connection.channel_pool(1) as pool:
            lent = pool.channel()
            channel = await lent.__aenter__()
        with pytest.raises(InvalidUse, match="pool is closed"):
            async with pool.channel():
                pytest.fail("lent")
        assert channel.state is State.OPEN
        await lent.__aexit__(None, None, None)
        await eventually(lambda: broker.channel_count == 0)


async def test_who_still_waits_when_the_pool_closes_gets_no_channel() -> None:
    async with connected() as (broker, connection), anyio.create_task_group() as tasks:
        refused: list[InvalidUse] = []

        async def borrow_too_late() -> None:
            try:
                async with pool.channel():
                    pytest.fail("lent")
            except InvalidUse as error:
                refused.append(error)

        async with connection.channel_pool(1) as pool:
            lent = pool.channel()
            await lent.__aenter__()
            tasks.start_soon(borrow_too_late)
            await anyio.wait_all_tasks_blocked()
        await lent.__aexit__(None, None, None)
        await eventually(lambda: broker.channel_count == 0)
        assert [str(error) for error in refused] == ["the pool is closed"]


async def test_a_lent_channel_is_not_entered_again_and_stays_usable() -> None:
    async with connected() as (_, connection), connection.channel_pool(1) as pool, pool.channel() as channel:
        with pytest.raises(InvalidUse, match="entered once"):
            async with channel:
                pytest.fail("entered")
        await channel.declare_queue("q")


async def test_a_pool_is_entered_once_and_works_inside_its_block() -> None:
    async with connected() as (_, connection):
        pool = connection.channel_pool(1)
        with pytest.raises(InvalidUse, match="inside its block"):
            async with pool.channel():
                pytest.fail("lent")
        async with pool:
            pass
        with pytest.raises(InvalidUse, match="entered once"):
            async with pool:
                pytest.fail("entered")
