"""Queues: names, flags, counts, who may use them and when they go."""

from __future__ import annotations

import re

import pytest

from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Refusal, Target
from support.queueing import Desk, a_desk
from support.queues import unique

pytestmark = pytest.mark.anyio


def declare(
    name: str, *, exclusive: bool = False, durable: bool = False, auto_delete: bool = False, passive: bool = False
) -> methods.Queue.Declare:
    return build(
        methods.Queue.Declare,
        queue=name,
        exclusive=exclusive,
        durable=durable,
        auto_delete=auto_delete,
        passive=passive,
    )


def locked(name: str) -> Refusal:
    text = (
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration."
    )
    return Refusal("channel", 405, text[:255])


def missing(name: str) -> Refusal:
    return Refusal("channel", 404, f"NOT_FOUND - no queue '{name}' in vhost '/'")


# --- names ----------------------------------------------------------------------------------------------------------


async def test_the_broker_names_a_queue_without_a_name(target: Target) -> None:
    async with a_desk(target) as desk:
        first, second = await desk.declare(name=""), await desk.declare(name="")
        assert re.fullmatch(r"amq\.gen-\S+", first)
        assert first != second
        assert await desk.count(first) == 0


@pytest.mark.parametrize("name", ["amq.mine", "amq.", "amq.gen-mine"])
async def test_a_reserved_name_is_refused(target: Target, name: str) -> None:
    assert await target.refusal(declare(name, exclusive=True)) == Refusal(
        "channel", 403, f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
    )


async def test_a_queue_that_the_broker_named_is_not_declared_by_that_name(target: Target) -> None:
    async with a_desk(target) as desk:
        name = await desk.declare(name="")
        await desk.peer.send(1, declare(name, exclusive=True))
        close = await desk.peer.expect(1, methods.Channel.Close)
        assert (close.reply_code, close.reply_text) == (
            403,
            f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'",
        )


@pytest.mark.parametrize("name", ["AMQ.x", "amqp", "with space", "dots.and/slashes", "ü€", "#"])
async def test_all_other_names_are_allowed(target: Target, name: str) -> None:
    async with a_desk(target) as desk:
        named = f"{name}-{unique('q')}"
        assert await desk.declare(name=named) == named


async def test_line_ends_in_a_name_do_not_count(target: Target) -> None:
    async with a_desk(target) as desk:
        name = unique("q")
        assert await desk.declare(name=f"{name}\r\n") == name


async def test_an_empty_name_stands_for_the_queue_declared_last(target: Target) -> None:
    async with a_desk(target) as desk:
        await desk.declare()
        name = await desk.declare()
        await desk.publish(name, b"1", b"2")
        assert (await desk.next("")).message.body == b"1"
        assert await desk.purge("") == 1
        assert await desk.delete("") == 0


async def test_a_passive_declaration_takes_an_empty_name_literally(target: Target) -> None:
    request = declare("", passive=True)
    assert await target.refusal(declare(unique("q"), exclusive=True), request) == missing("")


@pytest.mark.parametrize(
    "request_",
    [
        build(methods.Queue.Purge),
        build(methods.Basic.Get),
        build(methods.Basic.Consume),
        build(methods.Queue.Delete),
        build(methods.Queue.Bind, exchange="amq.direct"),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_an_empty_name_with_no_queue_declared_is_not_found(target: Target, request_: methods.Method) -> None:
    assert await target.refusal(request_) == Refusal("channel", 404, "NOT_FOUND - no previously declared queue")


# --- declaring again ------------------------------------------------------------------------------------------------


async def test_a_second_declaration_tells_messages_and_consumers(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, b"1", b"2", b"3")
        await desk.next(queue, no_ack=False)
        for passive in (False, True):
            answer = await desk.declare_ok(name=queue, exclusive=True, passive=passive)
            assert (answer.queue, answer.message_count, answer.consumer_count) == (queue, 2, 0)
        idle = await desk.declare()
        await desk.consume(idle)
        await desk.consume(idle)
        assert (await desk.declare_ok(name=idle, passive=True)).consumer_count == 2


async def test_an_exclusive_queue_is_never_durable(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare(exclusive=True, durable=True)
        await desk.declare(name=queue, exclusive=True, durable=False)


async def test_another_durable_is_refused(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare(durable=True)
        refusal = await target.refusal(declare(queue, durable=False, auto_delete=True))
        await desk.delete(queue)
        assert refusal == Refusal(
            "channel",
            406,
            f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': received 'false' but "
            "current is 'true'",
        )


async def test_a_passive_declaration_looks_at_no_flags(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.declare_ok({"x-max-length": 1}, name=queue, passive=True, durable=True, auto_delete=True)


async def test_a_queue_that_is_neither_durable_nor_exclusive(target: Target) -> None:
    async with a_desk(target) as desk, a_desk(target) as other:
        queue = await desk.declare(durable=False)
        await other.publish(queue, b"x")
        assert await desk.delete(queue) == 1


# --- exclusive ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        methods.Queue.Declare,
        methods.Queue.Purge,
        methods.Queue.Delete,
        methods.Basic.Get,
        methods.Basic.Consume,
        methods.Queue.Bind,
        "passive",
        "exclusive",
    ],
    ids=lambda kind: kind if isinstance(kind, str) else f"{kind.__qualname__}",
)
async def test_an_exclusive_queue_is_locked_for_other_connections(
    target: Target, kind: type[methods.Method] | str
) -> None:
    async with a_desk(target) as desk:
        name = await desk.declare()
        if kind == "passive":
            asked: methods.Method = declare(name, passive=True)
        elif kind == "exclusive":
            asked = declare(name, exclusive=True)
        elif kind is methods.Queue.Bind:
            asked = build(methods.Queue.Bind, queue=name, exchange="amq.direct", routing_key="k")
        else:
            assert not isinstance(kind, str)
            asked = build(kind, queue=name)
        assert await target.refusal(asked) == locked(name)


async def test_others_may_publish_to_an_exclusive_queue(target: Target) -> None:
    async with a_desk(target) as desk, a_desk(target) as other:
        queue = await desk.declare()
        await other.publish(queue, b"x")
        assert await desk.bodies(queue) == [b"x"]


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "shared"])
async def test_a_queue_stays_exclusive_or_shared(target: Target, *, exclusive: bool) -> None:
    name = unique("q")
    async with a_desk(target) as desk:
        await desk.declare(name=name, exclusive=exclusive, durable=not exclusive)
        await desk.peer.send(1, declare(name, exclusive=not exclusive, durable=exclusive))
        close = await desk.peer.expect(1, methods.Channel.Close)
        assert Refusal("channel", close.reply_code, close.reply_text) == locked(name)
        await desk.peer.send(1, build(methods.Channel.CloseOk))
        await desk.peer.call(1, build(methods.Channel.Open), methods.Channel.OpenOk)
        await desk.delete(name)


async def test_other_channels_of_its_connection_may_use_an_exclusive_queue(target: Target) -> None:
    async with target.raw(1, 2) as peer:
        name = await Desk(peer, 1).declare()
        other = Desk(peer, 2)
        await other.declare(name=name, exclusive=True)
        await peer.call(1, build(methods.Channel.Close, 200, "", 0, 0), methods.Channel.CloseOk)
        assert await other.count(name) == 0


async def test_an_exclusive_queue_goes_with_its_connection(target: Target) -> None:
    async with a_desk(target) as other:
        async with a_desk(target) as desk:
            name = await desk.declare()
        await other.until_gone(name)


# --- auto-delete ----------------------------------------------------------------------------------------------------


async def test_an_auto_delete_queue_goes_with_its_last_consumer(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare(durable=True, auto_delete=True)
        tags = [await desk.consume(queue, no_ack=True) for _ in range(2)]
        await desk.peer.call(1, build(methods.Basic.Cancel, tags[0]), methods.Basic.CancelOk)
        assert (await desk.declare_ok(name=queue, passive=True)).consumer_count == 1
        await desk.peer.call(1, build(methods.Basic.Cancel, tags[1]), methods.Basic.CancelOk)
        await desk.until_gone(queue)


async def test_an_auto_delete_queue_goes_with_the_channel_of_its_last_consumer(target: Target) -> None:
    async with target.raw(1, 2) as peer:
        desk = Desk(peer, 1)
        await peer.call(1, build(methods.Confirm.Select), methods.Confirm.SelectOk)
        queue = await desk.declare(durable=True, auto_delete=True)
        await Desk(peer, 2).consume(queue)
        await peer.call(2, build(methods.Channel.Close, 200, "", 0, 0), methods.Channel.CloseOk)
        await desk.until_gone(queue)


async def test_an_auto_delete_queue_that_nobody_consumed_stays(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare(durable=True, auto_delete=True)
        await desk.publish(queue, b"x")
        await desk.next(queue)
        assert await desk.is_there(queue)
        await desk.delete(queue)


# --- get, purge, delete ---------------------------------------------------------------------------------------------


async def test_get_tells_what_is_left(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, b"1", b"2", b"3")
        counts = [(await desk.next(queue, no_ack=no_ack)).method.message_count for no_ack in (True, False, True)]
        assert counts == [2, 1, 0]
        assert await desk.get(queue) is None


async def test_get_tells_the_way_of_a_message(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        bind = build(methods.Queue.Bind, queue=queue, exchange="amq.topic", routing_key=f"{queue}.*")
        await desk.peer.call(1, bind, methods.Queue.BindOk)
        await desk.publish(f"{queue}.k", b"x", exchange="amq.topic")
        method = (await desk.next(queue)).method
        assert (method.exchange, method.routing_key, method.redelivered) == ("amq.topic", f"{queue}.k", False)


async def test_requeued_messages_come_back_at_their_places(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, b"1", b"2", b"3", b"4")
        tags = [(await desk.next(queue, no_ack=False)).method.delivery_tag for _ in range(3)]
        for tag in (tags[1], tags[0]):
            await desk.settle(build(methods.Basic.Nack, tag, requeue=True))
        got = [await desk.next(queue) for _ in range(3)]
        assert [(one.message.body, one.method.redelivered) for one in got] == [
            (b"1", True),
            (b"2", True),
            (b"4", False),
        ]


async def test_purge_leaves_what_is_not_acknowledged(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, b"1", b"2", b"3")
        got = await desk.next(queue, no_ack=False)
        assert await desk.purge(queue) == 2
        assert await desk.purge(queue) == 0
        await desk.settle(build(methods.Basic.Reject, got.method.delivery_tag, requeue=True))
        assert await desk.bodies(queue) == [b"1"]


async def test_delete_tells_how_many_messages_were_ready(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        await desk.publish(queue, b"1", b"2", b"3")
        await desk.next(queue, no_ack=False)
        assert await desk.delete(queue) == 2


async def test_deleting_what_is_not_there_is_no_error(target: Target) -> None:
    async with a_desk(target) as desk:
        assert await desk.delete(unique("nowhere")) == 0


@pytest.mark.parametrize(
    "kind", [methods.Queue.Purge, methods.Basic.Get, methods.Basic.Consume], ids=lambda kind: kind.__qualname__
)
async def test_what_is_not_there_is_not_found(target: Target, kind: type[methods.Queue.Purge]) -> None:
    name = unique("nowhere")
    assert await target.refusal(build(kind, queue=name)) == missing(name)


@pytest.mark.parametrize("condition", ["if_unused", "if_empty"])
async def test_a_deletion_may_have_a_condition(target: Target, condition: str) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare(durable=True)
        if condition == "if_unused":
            await desk.consume(queue)
            asked, fault = build(methods.Queue.Delete, queue=queue, if_unused=True), "in use"
        else:
            await desk.publish(queue, b"x")
            asked, fault = build(methods.Queue.Delete, queue=queue, if_empty=True), "not empty"
        refusal = await target.refusal(asked)
        await desk.delete(queue)
        assert refusal == Refusal("channel", 406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' {fault}")


async def test_a_condition_that_holds_lets_a_queue_go(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare(durable=True)
        asked = build(methods.Queue.Delete, queue=queue, if_unused=True, if_empty=True)
        assert (await desk.peer.call(1, asked, methods.Queue.DeleteOk)).message_count == 0
        assert not await desk.is_there(queue)


async def test_messages_and_bindings_go_with_a_queue(target: Target) -> None:
    async with a_desk(target) as desk:
        queue = await desk.declare()
        bind = build(methods.Queue.Bind, queue=queue, exchange="amq.direct", routing_key=queue)
        await desk.peer.call(1, bind, methods.Queue.BindOk)
        await desk.publish(queue, b"x")
        await desk.delete(queue)
        await desk.declare(name=queue, exclusive=True)
        await desk.publish(queue, b"y", exchange="amq.direct")
        assert await desk.count(queue) == 0
