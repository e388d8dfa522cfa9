"""Transactions: publishes and settlements take effect with the commit, in RabbitMQ's order."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from anyamqp.wire import methods
from anyamqp.wire.frames import build, field_table
from support.conformance import Refusal, Target
from support.queues import unique
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio

SELECT = methods.Tx.Select()
COMMIT = methods.Tx.Commit()
ROLLBACK = methods.Tx.Rollback()


@asynccontextmanager
async def transactional(target: Target, *bodies: bytes) -> AsyncGenerator[tuple[RawPeer, str], None]:
    """A client with transactions on channel 1 and none on channel 2, and an exclusive queue with these messages."""
    async with target.raw(1, 2) as peer:
        declared = await peer.call(1, build(methods.Queue.Declare, exclusive=True), methods.Queue.DeclareOk)
        await peer.publish(1, *bodies, routing_key=declared.queue)
        await peer.call(1, SELECT, methods.Tx.SelectOk)
        yield peer, declared.queue


async def get(peer: RawPeer, queue: str, channel: int = 2, *, no_ack: bool = False) -> bytes | None:
    """The body of the next message in a queue; None if there is none."""
    await peer.send(channel, build(methods.Basic.Get, queue=queue, no_ack=no_ack))
    answer = (await peer.frame()).payload
    if isinstance(answer, methods.Basic.GetEmpty):
        return None
    assert isinstance(answer, methods.Basic.GetOk)
    return (await peer.content(channel)).body


async def contents(peer: RawPeer, queue: str) -> list[bytes]:
    """Take all messages out of a queue."""
    bodies: list[bytes] = []
    while (body := await get(peer, queue, no_ack=True)) is not None:
        bodies.append(body)
    return bodies


async def commit(peer: RawPeer) -> None:
    await peer.call(1, COMMIT, methods.Tx.CommitOk)


async def roll_back(peer: RawPeer) -> None:
    await peer.call(1, ROLLBACK, methods.Tx.RollbackOk)


# --- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        ((COMMIT,), "channel is not transactional"),
        ((ROLLBACK,), "channel is not transactional"),
        ((build(methods.Confirm.Select), SELECT), "cannot switch from confirm to tx mode"),
        ((SELECT, build(methods.Confirm.Select)), "cannot switch from tx to confirm mode"),
        ((SELECT, COMMIT, ROLLBACK, build(methods.Confirm.Select)), "cannot switch from tx to confirm mode"),
    ],
)
async def test_transactions_and_confirms_exclude_each_other(
    target: Target, requests: tuple[methods.Method, ...], text: str
) -> None:
    assert await target.refusal(*requests) == Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


async def test_transactions_are_selected_any_number_of_times(target: Target) -> None:
    async with transactional(target) as (peer, _):
        await peer.call(1, SELECT, methods.Tx.SelectOk)


# --- publishes --------------------------------------------------------------------------------------------------------


async def test_a_publish_shows_with_the_commit(target: Target) -> None:
    async with transactional(target) as (peer, queue):
        await peer.publish(1, b"one", b"two", routing_key=queue)
        await peer.call(1, build(methods.Basic.Qos), methods.Basic.QosOk)
        assert await contents(peer, queue) == []
        await commit(peer)
        assert await contents(peer, queue) == [b"one", b"two"]


async def test_a_rollback_forgets_publishes(target: Target) -> None:
    async with transactional(target) as (peer, queue):
        await peer.publish(1, b"never", routing_key=queue)
        await roll_back(peer)
        await peer.publish(1, b"later", routing_key=queue)
        await commit(peer)
        assert await contents(peer, queue) == [b"later"]


async def test_a_close_forgets_publishes_and_settlements(target: Target) -> None:
    async with transactional(target, b"kept") as (peer, queue):
        assert await get(peer, queue, 1) == b"kept"
        await peer.send(1, build(methods.Basic.Ack, 1))
        await peer.publish(1, b"never", routing_key=queue)
        await peer.call(1, build(methods.Channel.Close, 200, "", 0, 0), methods.Channel.CloseOk)
        assert await contents(peer, queue) == [b"kept"]


async def test_returns_come_before_the_commit_is_confirmed(target: Target) -> None:
    async with transactional(target) as (peer, queue):
        await peer.publish(1, b"lost", routing_key=unique("nowhere"), mandatory=True)
        await peer.publish(1, b"found", routing_key=queue, mandatory=True)
        await peer.send(1, COMMIT)
        returned = await peer.expect(1, methods.Basic.Return)
        assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
        assert (await peer.content(1)).body == b"lost"
        await peer.expect(1, methods.Tx.CommitOk)


async def test_a_rollback_returns_nothing(target: Target) -> None:
    async with transactional(target) as (peer, _):
        await peer.publish(1, b"lost", routing_key=unique("nowhere"), mandatory=True)
        await roll_back(peer)


async def test_a_missing_exchange_is_found_at_the_publish(target: Target) -> None:
    async with transactional(target) as (peer, _):
        await peer.publish(1, b"lost", exchange="nowhere", routing_key="")
        close = await peer.expect(1, methods.Channel.Close)
        assert close.reply_text == "NOT_FOUND - no exchange 'nowhere' in vhost '/'"


async def test_a_message_is_routed_at_the_publish(target: Target) -> None:
    exchange = unique("x")
    async with transactional(target) as (peer, queue):
        declare = build(methods.Exchange.Declare, exchange=exchange, exchange_type="fanout")
        await peer.call(2, declare, methods.Exchange.DeclareOk)
        await peer.call(2, build(methods.Queue.Bind, queue=queue, exchange=exchange), methods.Queue.BindOk)
        await peer.publish(1, b"routed", exchange=exchange, routing_key="")
        await peer.call(1, build(methods.Basic.Qos), methods.Basic.QosOk)
        await peer.call(2, build(methods.Exchange.Delete, exchange=exchange), methods.Exchange.DeleteOk)
        await commit(peer)
        assert await contents(peer, queue) == [b"routed"]


async def test_a_refused_publish_fails_the_commit(target: Target) -> None:
    arguments = field_table({"x-max-length": 1, "x-overflow": "reject-publish"})
    async with target.raw(1, 2) as peer:
        declare = build(methods.Queue.Declare, exclusive=True, arguments=arguments)
        queue = (await peer.call(2, declare, methods.Queue.DeclareOk)).queue
        await peer.call(1, SELECT, methods.Tx.SelectOk)
        await peer.publish(1, b"one", b"two", b"three", routing_key=queue)
        await peer.send(1, COMMIT)
        close = await peer.expect(1, methods.Channel.Close)
        assert close == build(methods.Channel.Close, 406, "PRECONDITION_FAILED - partial tx completion", 90, 20)


async def test_a_queue_that_is_gone_at_the_commit(target: Target) -> None:
    name = "gone"  # Erlang breaks the line in front of a long one
    async with transactional(target) as (peer, _):
        await peer.call(2, build(methods.Queue.Declare, queue=name, exclusive=True), methods.Queue.DeclareOk)
        await peer.publish(1, b"lost", routing_key=name, mandatory=True)
        await peer.call(1, build(methods.Basic.Qos), methods.Basic.QosOk)
        await peer.call(2, build(methods.Queue.Delete, queue=name), methods.Queue.DeleteOk)
        await peer.send(1, COMMIT)
        if target.rules.version == "3.10":
            await peer.expect(1, methods.Basic.Return)
            await peer.content(1)
            await peer.expect(1, methods.Tx.CommitOk)
        elif target.rules.version == "4.0":
            close = await peer.expect(1, methods.Channel.Close)
            assert close.reply_text == "PRECONDITION_FAILED - partial tx completion"
        else:
            resource = f'{{not_found,{{resource,<<"/">>,queue,<<"{name}">>}}}}'
            text = f"RESOURCE_ERROR - failed to deliver message: {resource}"
            assert await peer.closed() == build(methods.Connection.Close, 506, text, 90, 20)


# --- settlements ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
async def test_prefetch_is_free_with_the_commit(target: Target, shared: bool) -> None:
    qos = build(methods.Basic.Qos, prefetch_count=1, global_=shared)
    async with transactional(target, b"one", b"two") as (peer, queue):
        await peer.call(1, qos, methods.Basic.QosOk)
        await peer.call(1, build(methods.Basic.Consume, queue=queue), methods.Basic.ConsumeOk)
        assert (await peer.delivery(1))[1] == b"one"
        await peer.send(1, build(methods.Basic.Ack, 1))
        await peer.call(1, qos, methods.Basic.QosOk)
        await commit(peer)
        assert (await peer.delivery(1))[1] == b"two"


async def test_a_settlement_in_a_transaction_cannot_be_repeated(target: Target) -> None:
    async with transactional(target, b"one") as (peer, queue):
        await get(peer, queue, 1)
        await peer.send(1, build(methods.Basic.Ack, 1), build(methods.Basic.Ack, 1))
        close = await peer.expect(1, methods.Channel.Close)
        assert close == build(methods.Channel.Close, 406, "PRECONDITION_FAILED - unknown delivery tag 1", 60, 80)


async def test_a_rollback_makes_deliveries_unsettled_again(target: Target) -> None:
    async with transactional(target, b"one", b"two") as (peer, queue):
        await get(peer, queue, 1)
        await get(peer, queue, 1)
        await peer.send(1, build(methods.Basic.Ack, 2))
        await roll_back(peer)
        assert await contents(peer, queue) == []
        await peer.send(1, build(methods.Basic.Nack, 0, multiple=True, requeue=True))
        await commit(peer)
        assert await contents(peer, queue) == [b"one", b"two"]


async def test_settlements_of_all_kinds_take_effect_with_the_commit(target: Target) -> None:
    async with transactional(target, b"nacked", b"acked", b"rejected", b"discarded") as (peer, queue):
        for _ in range(4):
            await get(peer, queue, 1)
        await peer.send(
            1,
            build(methods.Basic.Ack, 2),
            build(methods.Basic.Nack, 1, multiple=False, requeue=True),
            build(methods.Basic.Reject, 4, requeue=False),
            build(methods.Basic.Reject, 3, requeue=True),
        )
        await peer.call(1, build(methods.Basic.Qos), methods.Basic.QosOk)
        assert await contents(peer, queue) == []
        await commit(peer)
        assert await contents(peer, queue) == [b"nacked", b"rejected"]


async def test_recover_leaves_settlements_of_the_transaction_alone(target: Target) -> None:
    async with transactional(target, b"acked", b"unsettled") as (peer, queue):
        await get(peer, queue, 1)
        await get(peer, queue, 1)
        await peer.send(1, build(methods.Basic.Ack, 1))
        await peer.call(1, build(methods.Basic.Recover, requeue=True), methods.Basic.RecoverOk)
        assert await contents(peer, queue) == [b"unsettled"]
        await commit(peer)
        assert await contents(peer, queue) == []
