"""exchange.declare and exchange.delete: types, names, equivalence, the broker's own exchanges, auto-delete."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from anyamqp import FieldTable, FieldValue
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.conformance import Refusal, Target
from support.queues import unique
from support.routes import Routes, declare_exchange, delete_exchange, is_declared, refused_publish, routes

pytestmark = pytest.mark.anyio

DEFAULT_EXCHANGE = Refusal("channel", 403, "ACCESS_REFUSED - operation not permitted on the default exchange")


def missing(name: str) -> Refusal:
    return Refusal("channel", 404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")


def failed(text: str) -> Refusal:
    return Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


def access_refused(text: str) -> Refusal:
    return Refusal("channel", 403, f"ACCESS_REFUSED - {text}")


async def declare(route: Routes, request: methods.Exchange.Declare) -> None:
    await route.peer.call(1, request, methods.Exchange.DeclareOk)


async def delete(route: Routes, name: str, *, if_unused: bool = False) -> None:
    await route.peer.call(1, delete_exchange(name, if_unused=if_unused), methods.Exchange.DeleteOk)


# --- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "word"), [("nosuch", "unknown"), ("Direct", "unknown"), ("x-delayed-message", "unknown"), ("", "invalid")]
)
async def test_an_unknown_type_is_refused_as_its_version_does(target: Target, kind: str, word: str) -> None:
    text = f"{word} exchange type '{kind}'"
    if target.rules.unknown_exchange_type_costs_link:
        expected = Refusal("connection", 503, f"COMMAND_INVALID - {text}")
    else:
        expected = failed(text)
    assert await target.refusal(declare_exchange(unique("x"), kind)) == expected


async def test_the_type_is_checked_before_the_name(target: Target) -> None:
    for name in ("", "amq.mine", "amq.direct"):
        assert "exchange type 'nosuch'" in (await target.refusal(declare_exchange(name, "nosuch"))).text


async def test_each_type_can_be_declared(target: Target) -> None:
    async with routes(target) as route:
        for kind in target.rules.exchange_types:
            assert await route.exists(await route.exchange(kind))


# --- equivalence ----------------------------------------------------------------------------------------------------


async def test_a_declaration_that_differs_names_the_first_difference(target: Target) -> None:
    async with routes(target) as route:
        name = await route.exchange("direct")
        what = f"exchange '{name}' in vhost '/'"
        differences = [
            (declare_exchange(name, "fanout"), "type", "fanout", "direct"),
            (declare_exchange(name, durable=True), "durable", "true", "false"),
            (declare_exchange(name, auto_delete=True), "auto_delete", "true", "false"),
            (declare_exchange(name, internal=True), "internal", "true", "false"),
            (declare_exchange(name, "topic", durable=True, internal=True), "type", "topic", "direct"),
            (declare_exchange(name, auto_delete=True, internal=True), "auto_delete", "true", "false"),
        ]
        for request, key, received, current in differences:
            assert await target.refusal(request) == failed(
                f"inequivalent arg '{key}' for {what}: received '{received}' but current is '{current}'"
            )


async def test_an_equal_declaration_is_accepted(target: Target) -> None:
    async with routes(target) as route:
        name = await route.exchange("headers", durable=True, internal=True, alternate="other")
        arguments: FieldTable = {"alternate-exchange": "other"}
        await declare(route, declare_exchange(name, "headers", arguments, durable=True, internal=True))


async def test_arguments_other_than_the_alternate_exchange_do_not_count(target: Target) -> None:
    async with routes(target) as route:
        name = await route.exchange()
        await declare(route, declare_exchange(name, arguments={"x-mine": 1}))


async def test_a_passive_declaration_compares_nothing(target: Target) -> None:
    async with routes(target) as route:
        name = await route.exchange()
        await declare(route, declare_exchange(name, "nosuch", {"alternate-exchange": "x"}, passive=True, durable=True))


NO_STRINGS: list[tuple[FieldValue, str, str]] = [
    (5, "signedint", "5"),
    (2**40, "long", "1099511627776"),
    (True, "bool", "true"),
    (1.5, "double", "1.5"),
    (None, "void", "undefined"),
    ({"a": 1}, "table", '[{<<"a">>,signedint,1}]'),
    ({}, "table", "[]"),
    (["a", 1], "array", '[{longstr,<<"a">>},{signedint,1}]'),
    (b"x", "binary", "x"),
    (Decimal("1.5"), "decimal", "{1,15}"),
    (datetime(2020, 1, 1, tzinfo=UTC), "timestamp", "1577836800"),
]


async def test_an_alternate_exchange_that_is_no_string_is_refused(target: Target) -> None:
    name = unique("x")
    requests = [declare_exchange(name, arguments={"alternate-exchange": value}) for value, _, _ in NO_STRINGS]
    assert [await target.refusal(request) for request in requests] == [
        failed(f"invalid type '{kind}' for arg 'alternate-exchange' in exchange '{name}' in vhost '/'")
        for _, kind, _ in NO_STRINGS
    ]


async def test_an_added_alternate_exchange_is_named_with_its_type(target: Target) -> None:
    async with routes(target) as route:
        name = await route.exchange()
        for value, kind, term in [("other", "longstr", "other"), ("", "longstr", ""), *NO_STRINGS]:
            request = declare_exchange(name, arguments={"alternate-exchange": value})
            assert await target.refusal(request) == failed(
                f"inequivalent arg 'alternate-exchange' for exchange '{name}' in vhost '/': "
                f"received the value '{term}' of type '{kind}' but current is none"
            )


async def test_a_missing_alternate_exchange_is_told_as_none(target: Target) -> None:
    async with routes(target) as route:
        name = await route.exchange(alternate="first")
        assert await target.refusal(declare_exchange(name)) == failed(
            f"inequivalent arg 'alternate-exchange' for exchange '{name}' in vhost '/': "
            "received none but current is the value 'first' of type 'longstr'"
        )


async def test_another_alternate_exchange_is_named_without_its_type(target: Target) -> None:
    async with routes(target) as route:
        name = await route.exchange(alternate="first")
        others: list[tuple[FieldValue, str]] = [
            ("second", "'second'"),
            (5, "'5'"),
            (True, "'true'"),
            (None, "none"),
            ([1], "'[{signedint,1}]'"),
        ]
        for value, received in others:
            request = declare_exchange(name, arguments={"alternate-exchange": value})
            assert await target.refusal(request) == failed(
                f"inequivalent arg 'alternate-exchange' for exchange '{name}' in vhost '/': "
                f"received {received} but current is 'first'"
            )
        await declare(route, declare_exchange(name, arguments={"alternate-exchange": b"first"}))


# --- the default exchange and the broker's own ----------------------------------------------------------------------


async def test_the_default_exchange_is_neither_declared_nor_deleted(target: Target) -> None:
    for request in (declare_exchange("", durable=True), is_declared(""), delete_exchange("", if_unused=True)):
        assert await target.refusal(request) == DEFAULT_EXCHANGE


OWN: list[tuple[str, str, bool]] = [
    ("amq.direct", "direct", False),
    ("amq.fanout", "fanout", False),
    ("amq.topic", "topic", False),
    ("amq.headers", "headers", False),
    ("amq.match", "headers", False),
    ("amq.rabbitmq.trace", "topic", True),
]
LOG = ("amq.rabbitmq.log", "topic", True)


async def test_the_brokers_own_exchanges_are_durable_and_known_by_their_types(target: Target) -> None:
    async with routes(target) as route:
        for name, kind, internal in [*OWN, LOG] if target.rules.has_log_exchange else OWN:
            assert await route.exists(name)
            await declare(route, declare_exchange(name, kind, durable=True, internal=internal))
            assert await target.refusal(declare_exchange(name, kind, internal=internal)) == failed(
                f"inequivalent arg 'durable' for exchange '{name}' in vhost '/': received 'false' but current is 'true'"
            )
        assert await route.exists(LOG[0]) is target.rules.has_log_exchange


async def test_names_that_begin_with_amq_are_reserved(target: Target) -> None:
    for name in ("amq.mine", "amq."):
        assert await target.refusal(declare_exchange(name)) == access_refused(
            f"exchange name '{name}' contains reserved prefix 'amq.*'"
        )
    assert await target.refusal(is_declared("amq.mine")) == missing("amq.mine")
    async with routes(target) as route:
        assert await route.exists(await route.exchange(name=unique("amqp.")))


@pytest.mark.parametrize("name", ["amq.direct", "amq.mine"])
async def test_names_that_begin_with_amq_are_not_deleted(target: Target, name: str) -> None:
    assert await target.refusal(delete_exchange(name)) == access_refused(
        f"deletion of system exchange '{name}' in vhost '/' not allowed"
    )


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [" ", "äöü€", "it's", "~p%s", "a/b", "a\0b", "x" * 200])
async def test_a_name_may_have_any_characters(target: Target, suffix: str) -> None:
    async with routes(target) as route:
        name = await route.exchange("fanout", name=unique("x") + suffix)
        queue = await route.queue()
        await route.bind(queue, name)
        assert await route.reached(name) == [queue]


async def test_line_ends_are_dropped_from_the_name_of_a_declared_exchange(target: Target) -> None:
    async with routes(target) as route:
        name = unique("x")
        await declare(route, declare_exchange(f"{name}\n"))
        for other in (f"\r\n{name}", name):
            await declare(route, is_declared(other))
        assert await refused_publish(target, f"{name}\n") == missing(f"{name}\n")
        await delete(route, f"{name[:5]}\n{name[5:]}")
        assert not await route.exists(name)


async def test_a_name_of_line_ends_is_the_default_exchange(target: Target) -> None:
    for request in (declare_exchange("\n"), is_declared("\r\n"), delete_exchange("\n")):
        assert await target.refusal(request) == DEFAULT_EXCHANGE


@pytest.mark.parametrize("length", [215, 216, 255])
async def test_a_long_text_of_an_error_is_cut(target: Target, length: int) -> None:
    name = "y" * length
    text = missing(name).text
    assert (await target.refusal(is_declared(name))).text == (text if len(text) <= 255 else text[:252] + "...")


# --- deleting -------------------------------------------------------------------------------------------------------


async def test_a_missing_exchange_is_not_found_but_deleted_without_error(target: Target) -> None:
    async with routes(target) as route:
        name = unique("x")
        assert not await route.exists(name)
        for if_unused in (False, True):
            await delete(route, name, if_unused=if_unused)


async def test_a_message_for_a_missing_exchange_is_refused(target: Target) -> None:
    assert await refused_publish(target, "nowhere") == missing("nowhere")


async def test_an_exchange_with_bindings_is_not_deleted_if_unused(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange(), await route.queue()
        await route.bind(queue, exchange, "key")
        assert await target.refusal(delete_exchange(exchange, if_unused=True)) == failed(
            f"exchange '{exchange}' in vhost '/' in use"
        )
        await route.unbind(queue, exchange, "key")
        await delete(route, exchange, if_unused=True)
        assert not await route.exists(exchange)


async def test_an_exchange_that_is_only_a_destination_is_unused(target: Target) -> None:
    async with routes(target) as route:
        source, destination = await route.exchange("fanout"), await route.exchange("fanout")
        await route.link(destination, source)
        await delete(route, destination, if_unused=True)
        assert not await route.exists(destination)
        assert await route.reached(source) == []


async def test_a_deleted_exchange_loses_its_bindings(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("fanout"), await route.queue()
        await route.bind(queue, exchange)
        await delete(route, exchange)
        await route.exchange("fanout", name=exchange)
        assert await route.reached(exchange) == []


# --- auto-delete ----------------------------------------------------------------------------------------------------


async def test_an_auto_delete_exchange_goes_with_its_last_binding(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange(auto_delete=True), await route.queue()
        for key in ("one", "two"):
            await route.bind(queue, exchange, key)
        await route.unbind(queue, exchange, "one")
        assert await route.exists(exchange)
        await route.unbind(queue, exchange, "two")
        assert not await route.exists(exchange)


async def test_an_auto_delete_exchange_goes_with_its_only_queue(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange(auto_delete=True), await route.queue()
        await route.bind(queue, exchange, "key")
        await route.peer.call(1, build(methods.Queue.Delete, queue=queue), methods.Queue.DeleteOk)
        assert not await route.exists(exchange)


async def test_an_auto_delete_exchange_goes_with_the_exchange_that_it_is_bound_to(target: Target) -> None:
    async with routes(target) as route:
        source, destination = await route.exchange(auto_delete=True), await route.exchange()
        await route.link(destination, source)
        await delete(route, destination)
        assert not await route.exists(source)


async def test_auto_delete_exchanges_go_in_a_chain(target: Target) -> None:
    async with routes(target) as route:
        first, second = await route.exchange(auto_delete=True), await route.exchange(auto_delete=True)
        queue = await route.queue()
        await route.link(second, first)
        await route.bind(queue, second)
        await route.unbind(queue, second)
        assert not await route.exists(second)
        assert not await route.exists(first)


async def test_an_auto_delete_exchange_that_is_only_a_destination_stays(target: Target) -> None:
    async with routes(target) as route:
        source, destination = await route.exchange(), await route.exchange(auto_delete=True)
        await route.link(destination, source)
        await route.unlink(destination, source)
        assert await route.exists(destination)


# --- internal -------------------------------------------------------------------------------------------------------


async def test_clients_do_not_publish_to_an_internal_exchange(target: Target) -> None:
    async with routes(target) as route:
        for name in (await route.exchange(internal=True), "amq.rabbitmq.trace"):
            assert await refused_publish(target, name) == access_refused(
                f"cannot publish to internal exchange '{name}' in vhost '/'"
            )


async def test_the_trace_exchange_takes_bindings(target: Target) -> None:
    async with routes(target) as route:
        queue = await route.queue()
        await route.bind(queue, "amq.rabbitmq.trace", "publish.nowhere")
        await route.unbind(queue, "amq.rabbitmq.trace", "publish.nowhere")
