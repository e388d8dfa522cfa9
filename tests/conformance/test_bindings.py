"""queue.bind, queue.unbind, exchange.bind and exchange.unbind: identity of bindings, missing entities, refusals."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from anyamqp import FieldTable, FieldValue
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Refusal, Target
from support.queues import unique
from support.routes import bind_exchange, bind_queue, declare_exchange, routes, unbind_exchange, unbind_queue

pytestmark = pytest.mark.anyio

DEFAULT_EXCHANGE = Refusal("channel", 403, "ACCESS_REFUSED - operation not permitted on the default exchange")
NO_QUEUE_DECLARED = Refusal("channel", 404, "NOT_FOUND - no previously declared queue")


def missing(entity: str) -> Refusal:
    return Refusal("channel", 404, f"NOT_FOUND - no {entity} in vhost '/'")


def failed(text: str) -> Refusal:
    return Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


def exclusive(queue: str) -> methods.Queue.Declare:
    return build(methods.Queue.Declare, queue=queue, exclusive=True)


# --- identity -------------------------------------------------------------------------------------------------------


async def test_a_binding_made_twice_is_one_binding(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct"), await route.queue()
        for _ in range(2):
            await route.bind(queue, exchange, "key", {"a": 1})
        await route.unbind(queue, exchange, "key", {"a": 1})
        assert await route.reached(exchange, "key") == []


async def test_bindings_with_different_arguments_are_different_bindings(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct"), await route.queue()
        await route.bind(queue, exchange, "key", {"a": 1})
        await route.bind(queue, exchange, "key", {"a": 2})
        await route.unbind(queue, exchange, "key", {"a": 1})
        await route.unbind(queue, exchange, "key")
        assert await route.reached(exchange, "key") == [queue]
        await route.unbind(queue, exchange, "key", {"a": 2})
        assert await route.reached(exchange, "key") == []


async def test_bindings_of_exchanges_with_different_arguments_are_different(target: Target) -> None:
    async with routes(target) as route:
        source, destination = await route.exchange("direct"), await route.exchange("fanout")
        queue = await route.queue()
        await route.bind(queue, destination)
        for number in (1, 2):
            await route.link(destination, source, "key", {"a": number})
        await route.unlink(destination, source, "key", {"a": 1})
        assert await route.reached(source, "key") == [queue]
        await route.unlink(destination, source, "key", {"a": 2})
        assert await route.reached(source, "key") == []


ARGUMENTS: list[tuple[FieldTable, FieldTable, bool]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ({"a": True}, {"a": 1}, False),
    ({"a": 1}, {"a": 1.0}, False),
    ({"a": "x"}, {"a": b"x"}, False),
    ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, False),
]


async def test_arguments_are_compared_with_their_types_in_any_order(target: Target) -> None:
    found: list[bool] = []
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct"), await route.queue()
        for arguments, others, _ in ARGUMENTS:
            await route.bind(queue, exchange, "key", arguments)
            await route.unbind(queue, exchange, "key", others)
            found.append(await route.reached(exchange, "key") == [])
            await route.unbind(queue, exchange, "key", arguments)
    assert found == [case[2] for case in ARGUMENTS]


# --- what is not there ----------------------------------------------------------------------------------------------


async def test_binding_names_the_missing_exchange_before_the_missing_queue(target: Target) -> None:
    assert await target.refusal(bind_queue("no-queue", "no-exchange")) == missing("exchange 'no-exchange'")
    assert await target.refusal(bind_queue("no-queue", "amq.fanout")) == missing("queue 'no-queue'")


async def test_binding_names_the_missing_source_before_the_missing_destination(target: Target) -> None:
    assert await target.refusal(bind_exchange("nowhere", "no-source")) == missing("exchange 'no-source'")
    assert await target.refusal(bind_exchange("nowhere", "amq.fanout")) == missing("exchange 'nowhere'")


@pytest.mark.parametrize(("queue", "exchange"), [("no-queue", "none"), ("no-queue", "amq.fanout"), ("", "none")])
async def test_unbinding_is_no_error_if_queue_or_exchange_is_missing(target: Target, queue: str, exchange: str) -> None:
    async with routes(target) as route:
        await route.unbind(queue or await route.queue(), exchange, "key")


async def test_unbinding_a_missing_binding_is_no_error(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct", auto_delete=True), await route.queue()
        await route.unbind(queue, exchange, "key")
        assert await route.exists(exchange)


@pytest.mark.parametrize(
    ("destination", "source"), [("none", "nowhere"), ("amq.fanout", "nowhere"), ("none", "amq.fanout")]
)
async def test_unbinding_exchanges_is_no_error_if_one_is_missing(target: Target, destination: str, source: str) -> None:
    async with routes(target) as route:
        await route.unlink(destination, source, "key")


async def test_a_channel_without_a_queue_knows_no_last_queue(target: Target) -> None:
    assert await target.refusal(bind_queue("", "amq.fanout", "key")) == NO_QUEUE_DECLARED
    assert await target.refusal(bind_queue("", "amq.fanout")) == NO_QUEUE_DECLARED
    assert await target.refusal(unbind_queue("", "amq.fanout", "key")) == NO_QUEUE_DECLARED


async def test_without_queue_and_key_the_last_queue_is_bound_by_its_name(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct"), await route.queue()
        await route.bind("", exchange)
        assert await route.reached(exchange, queue) == [queue]
        assert await route.reached(exchange) == []
        await route.unbind("", exchange)
        assert await route.reached(exchange, queue) == []


# --- the default exchange -------------------------------------------------------------------------------------------


async def test_the_default_exchange_takes_no_bindings_of_queues(target: Target) -> None:
    for request in (bind_queue, unbind_queue):
        name = unique("q")
        assert await target.refusal(exclusive(name), request(name, "", name)) == DEFAULT_EXCHANGE


async def test_the_default_exchange_is_bound_to_no_exchange(target: Target) -> None:
    for request in (bind_exchange, unbind_exchange):
        assert await target.refusal(request("amq.fanout", "", "key")) == DEFAULT_EXCHANGE
        assert await target.refusal(request("", "amq.fanout", "key")) == DEFAULT_EXCHANGE


# --- exclusive queues -----------------------------------------------------------------------------------------------


async def test_another_connection_neither_binds_nor_unbinds_an_exclusive_queue(target: Target) -> None:
    async with routes(target) as route:
        queue = await route.queue()
        await route.bind(queue, "amq.direct", queue)
        locked = Refusal(
            "channel",
            405,
            f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be "
            "originally declared on another connection or the exclusive property value does not match that of the "
            "original declaration.",
        )
        assert await target.refusal(bind_queue(queue, "amq.direct", "another key")) == locked
        assert await target.refusal(unbind_queue(queue, "amq.direct", queue)) == locked
        assert await target.refusal(bind_queue(queue, "nowhere")) == missing("exchange 'nowhere'")
        unknown = bind_queue(queue, "amq.headers", arguments={"x-match": "some"})
        assert "Invalid x-match" in (await target.refusal(unknown)).text


async def test_another_connection_may_unbind_what_is_not_bound_to_an_exclusive_queue(target: Target) -> None:
    async with routes(target) as owner, routes(target) as other:
        await other.unbind(await owner.queue(), "amq.direct", "key")


# --- arguments for a headers exchange -------------------------------------------------------------------------------

VALUES: list[tuple[FieldValue, str]] = [
    ("some", '<<"some">>'),
    ("", "<<>>"),
    ("ALL", '<<"ALL">>'),
    ('a"b\\', '<<"a\\"b\\\\">>'),
    ("a\nb", '<<"a\\nb">>'),
    ("a\0b", "<<97,0,98>>"),
]
TYPES: list[tuple[FieldValue, str, str]] = [
    (1, "signedint", "1"),
    (2**40, "long", "1099511627776"),
    (True, "bool", "true"),
    (None, "void", "undefined"),
    ({}, "table", "[]"),
    ({"a": 1}, "table", '[{<<"a">>,signedint,1}]'),
    (["a"], "array", '[{longstr,<<"a">>}]'),
    (b"all", "binary", '<<"all">>'),
    (1.5, "double", "1.5"),
    (Decimal("1.5"), "decimal", "{1,15}"),
    (datetime(2020, 1, 1, tzinfo=UTC), "timestamp", "1577836800"),
]


async def test_an_unknown_x_match_is_refused(target: Target) -> None:
    name = unique("q")
    requests = [bind_queue(name, "amq.headers", arguments={"x-match": value}) for value, _ in VALUES]
    async with routes(target) as route:
        await route.peer.call(1, build(methods.Queue.Declare, queue=name, durable=True), methods.Queue.DeclareOk)
        refusals = [await target.refusal(request) for request in requests]
        await route.peer.call(1, build(methods.Queue.Delete, queue=name), methods.Queue.DeleteOk)
    assert refusals == [
        failed(f"Invalid x-match field value {term}; expected all, any, all-with-x, or any-with-x")
        for _, term in VALUES
    ]


async def test_an_x_match_of_another_type_is_refused(target: Target) -> None:
    requests = [bind_exchange("amq.fanout", "amq.match", arguments={"x-match": value}) for value, _, _ in TYPES]
    assert [await target.refusal(request) for request in requests] == [
        failed(f"Invalid x-match field type {kind} (value {term}); expected longstr") for _, kind, term in TYPES
    ]


async def test_an_unknown_x_match_is_unbound_without_error(target: Target) -> None:
    async with routes(target) as route:
        await route.unbind(await route.queue(), "amq.headers", arguments={"x-match": "some"})


async def test_only_headers_exchanges_look_at_x_match(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct"), await route.queue()
        await route.bind(queue, exchange, "key", {"x-match": "some"})
        assert await route.reached(exchange, "key") == [queue]


async def test_missing_entities_are_named_before_an_unknown_x_match(target: Target) -> None:
    request = bind_queue("no-queue", "amq.headers", arguments={"x-match": "some"})
    assert await target.refusal(request) == missing("queue 'no-queue'")


# --- names, and a local random exchange -----------------------------------------------------------------------------


async def test_line_ends_in_the_names_of_a_binding_are_dropped(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct"), await route.queue()
        await route.bind(f"{queue}\n", f"\r{exchange}", "key\n")
        assert await route.reached(exchange, "key\n") == [queue]
        await route.unbind(f"\n{queue}", f"{exchange}\r", "key\n")
        assert await route.reached(exchange, "key\n") == []


async def test_a_local_random_exchange_takes_queues_without_a_key(target: Target) -> None:
    if "x-local-random" not in target.rules.exchange_types:
        pytest.skip("this version has no such exchange")
    name = unique("x")
    declared = declare_exchange(name, "x-local-random", auto_delete=True)
    queue = exclusive(unique("q"))
    assert await target.refusal(declared, queue, bind_queue(queue.queue, name, "key")) == failed(
        "Non empty binding 'key' key not permitted"
    )
    assert await target.refusal(declared, bind_exchange("amq.fanout", name)) == failed("Destination not found")
    replicated = build(
        methods.Queue.Declare, queue=unique("q"), durable=True, arguments={"x-queue-type": "quorum", "x-expires": 100}
    )
    assert await target.refusal(declared, replicated, bind_queue(replicated.queue, name)) == failed(
        "Queue type rabbit_quorum_queue not valid for this exchange type"
    )
    async with routes(target) as route:
        await route.peer.call(1, build(methods.Exchange.Delete, exchange=name), methods.Exchange.DeleteOk)


# --- nowait ---------------------------------------------------------------------------------------------------------


async def test_requests_without_an_answer_are_carried_out(target: Target) -> None:
    async with routes(target) as route:
        queue, source, destination = await route.queue(), unique("x"), await route.exchange("fanout")
        declared = build(methods.Exchange.Declare, exchange=source, exchange_type="fanout", nowait=True)
        linked = build(methods.Exchange.Bind, source=source, destination=destination, nowait=True)
        bound = build(methods.Queue.Bind, queue=queue, exchange=destination, routing_key="", nowait=True)
        await route.peer.send(1, declared, linked, bound)
        assert await route.reached(source) == [queue]
        await route.peer.send(1, build(methods.Exchange.Unbind, source=source, destination=destination, nowait=True))
        assert await route.reached(source) == []
        await route.peer.send(1, build(methods.Exchange.Delete, exchange=source, nowait=True))
        assert not await route.exists(source)


async def test_a_request_without_an_answer_is_refused_all_the_same(target: Target) -> None:
    request = build(methods.Queue.Bind, queue="no-queue", exchange="amq.fanout", nowait=True)
    assert await target.refusal(request) == missing("queue 'no-queue'")
