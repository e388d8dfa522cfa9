"""Codes and texts with which a request is refused."""

from __future__ import annotations

import pytest

from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Refusal, Target
from support.queues import unique

pytestmark = pytest.mark.anyio


async def test_a_missing_queue_is_not_found(target: Target) -> None:
    request = build(methods.Queue.Declare, queue="nowhere", passive=True)
    assert await target.refusal(request) == Refusal("channel", 404, "NOT_FOUND - no queue 'nowhere' in vhost '/'")


async def test_a_queue_with_messages_is_not_deleted_if_empty(target: Target) -> None:
    name = unique("full")
    async with target.raw(1) as peer:
        await peer.call(1, build(methods.Queue.Declare, queue=name, durable=True), methods.Queue.DeclareOk)
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        await peer.publish(1, b"x", routing_key=name)
        await peer.expect(1, methods.Basic.Ack)
        refusal = await target.refusal(build(methods.Queue.Delete, queue=name, if_empty=True))
        assert refusal == Refusal("channel", 406, f"PRECONDITION_FAILED - queue '{name}' in vhost '/' not empty")
        await peer.call(1, build(methods.Queue.Delete, queue=name), methods.Queue.DeleteOk)
