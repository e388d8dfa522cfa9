"""Which queues a message reaches: types of exchanges, alternate exchanges, and the headers ``CC`` and ``BCC``."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from anyamqp import FieldTable, FieldValue
from support.conformance import Refusal, Target
from support.queues import unique
from support.routes import Arrival, refused_publish, routes

pytestmark = pytest.mark.anyio


def failed(text: str) -> Refusal:
    return Refusal("channel", 406, f"PRECONDITION_FAILED - {text}")


# --- direct, fanout, default ----------------------------------------------------------------------------------------


async def test_a_direct_exchange_compares_the_routing_key(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct"), await route.queue()
        await route.bind(queue, exchange, "a.*")
        assert await route.reached(exchange, "a.*") == [queue]
        assert await route.reached(exchange, "a.b") == []


async def test_a_fanout_exchange_ignores_the_routing_key_and_sends_one_copy_a_queue(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("fanout"), await route.queue()
        await route.bind(queue, exchange, "one")
        await route.bind(queue, exchange, "two")
        assert await route.reached(exchange, "three") == [queue]


async def test_the_default_exchange_routes_to_the_queue_of_that_name(target: Target) -> None:
    async with routes(target) as route:
        queue = await route.queue()
        assert await route.reached("", queue) == [queue]
        assert await route.reached("", queue + "?") == []


# --- topic ----------------------------------------------------------------------------------------------------------

TOPICS: dict[str, dict[str, bool]] = {
    "": {"": True, "a": False, ".": False},
    "*": {"": False, "a": True, "a.b": False, ".": False},
    "#": {"": True, "a": True, "a.b": True, ".": True},
    "*.#": {"": False, "a": True, "a.b": True, ".": True},
    "#.*": {"": False, "a": True},
    "#.#": {"": True, "a": True},
    "#.*.#": {"": False, "a": True},
    "*.*": {"": False, "a": False, "a.b": True, ".": True, "..": False, "a.": True},
    ".": {".": True, "": False, "a.": False},
    "a.": {"a": False, "a.": True},
    "a..b": {"a.b": False, "a..b": True},
    "a.*.b": {"a..b": True, "a.c.b": True, "a.b": False},
    "a.#": {"a": True, "a.": True, "a.b.c": True, "ab": False},
    "#.b": {"b": True, "a.b": True, "a.b.c": False},
    "a.#.b": {"a.b": True, "a.c.d.b": True, "ab": False},
    "#.a.#": {"a": True, "b.a.c": True, "b": False},
    "a*": {"ab": False, "a*": True},
    "##": {"##": True, "a": False},
    "A": {"a": False},
    "ä.*": {"ä.b": True},
}


async def test_a_topic_exchange_matches_word_by_word(target: Target) -> None:
    found: dict[str, dict[str, bool]] = {}
    async with routes(target) as route:
        exchange, queue = await route.exchange("topic"), await route.queue()
        for pattern, keys in TOPICS.items():
            await route.bind(queue, exchange, pattern)
            found[pattern] = {key: await route.reached(exchange, key) == [queue] for key in keys}
            await route.unbind(queue, exchange, pattern)
    assert found == TOPICS


# --- headers --------------------------------------------------------------------------------------------------------

HEADERS: list[tuple[FieldTable, FieldTable | None, bool]] = [
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 2}, True),
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
    ({"a": 1, "b": "x"}, {"a": 1}, False),
    ({"a": 1, "b": "x"}, {"b": "x", "a": 1}, True),
    ({}, None, True),
    ({"x-match": "all"}, None, True),
    ({"x-match": "any", "a": 1, "b": "x"}, {"a": 1, "b": "y"}, True),
    ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2}, False),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
    ({"x-match": "all", "x-a": 1, "b": 1}, {"x-a": 2, "b": 1}, True),
    ({"x-match": "all-with-x", "x-a": 1, "b": 1}, {"x-a": 1, "b": 1}, True),
    ({"x-match": "all-with-x", "x-a": 1, "b": 1}, {"x-a": 2, "b": 1}, False),
    ({"x-match": "all-with-x", "x-a": 1, "b": 1}, {"b": 1}, False),
    ({"x-match": "any-with-x", "x-a": 1, "b": 1}, {"x-a": 1}, True),
    ({"x-match": "any-with-x", "x-a": 1, "b": 1}, {"x-a": 2}, False),
    ({"x-match": "any-with-x", "b": 1}, {"x-match": "any-with-x"}, False),
    ({"a": None}, {"a": "whatever"}, True),
    ({"a": None}, {"b": 1}, False),
    ({"a": 1}, {"a": None}, False),
]


async def matching(target: Target, cases: list[tuple[FieldTable, FieldTable | None, bool]]) -> list[bool]:
    """Whether the arguments of each case match its headers."""
    found: list[bool] = []
    async with routes(target) as route:
        exchange, queue = await route.exchange("headers"), await route.queue()
        for arguments, headers, _ in cases:
            await route.bind(queue, exchange, "ignored", arguments)
            found.append(await route.reached(exchange, "key", headers) == [queue])
            await route.unbind(queue, exchange, "ignored", arguments)
    return found


async def test_a_headers_exchange_matches_all_or_any(target: Target) -> None:
    found = await matching(target, HEADERS)
    assert [case for case, matched in zip(HEADERS, found, strict=True) if case[2] is not matched] == []


TIME = datetime(2020, 1, 1, tzinfo=UTC)
VALUES: list[tuple[FieldValue, FieldValue, bool]] = [
    (True, 1, False),
    (False, 0, False),
    ("1", 1, False),
    ("1", b"1", True),
    (1, Decimal(1), False),
    (Decimal("1.0"), Decimal("1.0"), True),
    (Decimal("1.0"), Decimal(1), False),
    (1.5, 1.5, True),
    (2**40, 2**40, True),
    ([1, "a"], [1, "a"], True),
    ([1, "a"], [1.0, "a"], False),
    ([1, "a"], [1, b"a"], False),
    ({"a": 1, "b": 2}, {"a": 1, "b": 2}, True),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
    ({}, [], True),
    (TIME, 1_577_836_800, True),
]
NUMBERS: list[tuple[FieldValue, FieldValue, bool, bool]] = [
    (1, 1.0, True, False),
    (1.0, 1, True, False),
    (0, -0.0, True, False),
    (TIME, TIME, True, False),
    (1_577_836_800, TIME, True, False),
    (1_577_836_800_000, TIME, False, True),
]
"""A binding's value, a header's, and whether they match on RabbitMQ 3.10 and on 4.x."""


async def test_a_headers_exchange_compares_types_and_values(target: Target) -> None:
    cases: list[tuple[FieldTable, FieldTable | None, bool]] = [
        ({"key": wanted}, {"key": sent}, equal) for wanted, sent, equal in VALUES
    ]
    found = await matching(target, cases)
    assert [case for case, matched in zip(cases, found, strict=True) if case[2] is not matched] == []


async def test_a_headers_exchange_compares_numbers_as_its_version_does(target: Target) -> None:
    cases: list[tuple[FieldTable, FieldTable | None, bool]] = [
        ({"key": wanted}, {"key": sent}, on_old if target.rules.headers_exchange_compares_numbers else on_new)
        for wanted, sent, on_old, on_new in NUMBERS
    ]
    found = await matching(target, cases)
    assert [case for case, matched in zip(cases, found, strict=True) if case[2] is not matched] == []


async def test_a_queue_is_bound_to_a_headers_exchange_by_several_arguments(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("headers"), await route.queue()
        for number in (1, 2):
            await route.bind(queue, exchange, arguments={"a": number})
        assert [await route.reached(exchange, headers={"a": number}) for number in (1, 2)] == [[queue], [queue]]
        await route.unbind(queue, exchange, arguments={"a": 1})
        assert [await route.reached(exchange, headers={"a": number}) for number in (1, 2)] == [[], [queue]]


@pytest.mark.parametrize("exchange", ["amq.headers", "amq.match"])
async def test_the_brokers_own_headers_exchanges_route(target: Target, exchange: str) -> None:
    async with routes(target) as route:
        queue = await route.queue()
        await route.bind(queue, exchange, arguments={"only": queue})
        assert await route.reached(exchange, headers={"only": queue}) == [queue]


# --- alternate exchanges --------------------------------------------------------------------------------------------


async def test_an_alternate_exchange_gets_what_matches_no_binding(target: Target) -> None:
    async with routes(target) as route:
        alternate = await route.exchange("fanout")
        exchange = await route.exchange("direct", alternate=alternate)
        bound, other = await route.queue(), await route.queue()
        await route.bind(bound, exchange, "known")
        await route.bind(other, alternate)
        assert await route.reached(exchange, "known") == [bound]
        assert await route.publish(exchange, "unknown") is None
        arrival = await route.get(other)
        assert arrival is not None
        assert (arrival.exchange, arrival.routing_key) == (exchange, "unknown")


async def test_alternate_exchanges_form_a_chain(target: Target) -> None:
    async with routes(target) as route:
        last = await route.exchange("fanout")
        middle = await route.exchange("direct", alternate=last)
        exchange, queue = await route.exchange("direct", alternate=middle), await route.queue()
        await route.bind(queue, last)
        assert await route.reached(exchange) == [queue]


@pytest.mark.parametrize("length", [1, 2, 3])
async def test_a_cycle_of_alternate_exchanges_returns_the_message(target: Target, length: int) -> None:
    async with routes(target) as route:
        names = [unique("x") for _ in range(length)]
        for name, following in zip(names, names[1:] + names[:1], strict=True):
            await route.exchange("direct", name=name, alternate=following)
        assert await route.reached(names[0]) == []


async def test_a_missing_alternate_exchange_returns_the_message(target: Target) -> None:
    async with routes(target) as route:
        exchange = await route.exchange("direct", alternate="nowhere")
        assert await route.reached(exchange) == []


async def test_the_default_exchange_as_an_alternate_returns_the_message(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("direct", alternate=""), await route.queue()
        assert await route.reached(exchange, queue) == []


async def test_an_alternate_exchange_is_unused_if_a_bound_exchange_drops_the_message(target: Target) -> None:
    async with routes(target) as route:
        alternate, dead_end = await route.exchange("fanout"), await route.exchange("fanout")
        exchange, queue = await route.exchange("fanout", alternate=alternate), await route.queue()
        await route.link(dead_end, exchange)
        await route.bind(queue, alternate)
        assert await route.reached(exchange) == []


async def test_the_alternate_of_a_bound_exchange_is_used(target: Target) -> None:
    async with routes(target) as route:
        alternate = await route.exchange("fanout", internal=True)
        middle = await route.exchange("direct", alternate=alternate)
        exchange, queue = await route.exchange("fanout"), await route.queue()
        await route.link(middle, exchange)
        await route.bind(queue, alternate)
        assert await route.reached(exchange) == [queue]


async def test_an_alternate_headers_exchange_sees_the_headers(target: Target) -> None:
    async with routes(target) as route:
        alternate = await route.exchange("headers")
        exchange, queue = await route.exchange("direct", alternate=alternate), await route.queue()
        await route.bind(queue, alternate, arguments={"a": 1})
        assert await route.reached(exchange, headers={"a": 1}) == [queue]
        assert await route.reached(exchange, headers={"a": 2}) == []


# --- exchanges bound to exchanges -----------------------------------------------------------------------------------


async def test_a_message_passes_both_exchanges_by_their_rules(target: Target) -> None:
    async with routes(target) as route:
        source, destination = await route.exchange("headers"), await route.exchange("topic")
        queue = await route.queue()
        await route.link(destination, source, arguments={"a": 1})
        await route.bind(queue, destination, "trade.*")
        assert await route.reached(source, "trade.x", {"a": 1}) == [queue]
        assert await route.reached(source, "trade.x", {"a": 2}) == []
        assert await route.reached(source, "book.x", {"a": 1}) == []


async def test_two_ways_to_a_queue_give_one_copy(target: Target) -> None:
    async with routes(target) as route:
        source, one, other = [await route.exchange("fanout") for _ in range(3)]
        queue = await route.queue()
        for name in (one, other):
            await route.link(name, source)
            await route.bind(queue, name)
        assert await route.reached(source) == [queue]


async def test_a_cycle_of_exchanges_ends(target: Target) -> None:
    async with routes(target) as route:
        one, other = await route.exchange("fanout"), await route.exchange("fanout")
        queue = await route.queue()
        await route.link(one, other)
        await route.link(other, one)
        await route.link(one, one)
        await route.bind(queue, other)
        assert await route.reached(one) == [queue]


async def test_an_internal_exchange_routes_for_other_exchanges(target: Target) -> None:
    async with routes(target) as route:
        internal, source = await route.exchange("fanout", internal=True), await route.exchange("fanout")
        queue = await route.queue()
        await route.link(internal, source)
        await route.bind(queue, internal)
        assert await route.reached(source) == [queue]


# --- CC and BCC -----------------------------------------------------------------------------------------------------


async def test_cc_and_bcc_are_more_routing_keys(target: Target) -> None:
    async with routes(target) as route:
        queues = [await route.queue() for _ in range(3)]
        headers: FieldTable = {"CC": [queues[1]], "BCC": [queues[2]]}
        assert await route.reached("", queues[0], headers) == queues
        assert await route.reached("", "nowhere", headers) == queues[1:]


async def test_a_queue_that_several_keys_name_gets_one_copy(target: Target) -> None:
    async with routes(target) as route:
        queue = await route.queue()
        assert await route.reached("", queue, {"CC": [queue, queue], "BCC": [queue]}) == [queue]


@pytest.mark.parametrize(("kind", "key"), [("direct", "a.b"), ("topic", "a.*")])
async def test_cc_counts_for_direct_and_topic_exchanges(target: Target, kind: str, key: str) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange(kind), await route.queue()
        await route.bind(queue, exchange, key)
        assert await route.reached(exchange, "x", {"CC": ["y", "a.b"]}) == [queue]
        assert await route.reached(exchange, "x", {"CC": ["y"]}) == []


async def test_a_consumer_sees_cc_but_not_bcc(target: Target) -> None:
    async with routes(target) as route:
        one, other = await route.queue(), await route.queue()
        await route.publish("", one, {"CC": ["elsewhere"], "BCC": [other], "z": 1})
        for queue in (one, other):
            arrival = await route.get(queue)
            assert arrival is not None
            assert (arrival.routing_key, arrival.message.headers) == (one, {"CC": ["elsewhere"], "z": 1})


async def test_bcc_alone_leaves_an_empty_header_table(target: Target) -> None:
    async with routes(target) as route:
        queue = await route.queue()
        await route.publish("", "nowhere", {"BCC": [queue]})
        arrival = await route.get(queue)
        assert arrival is not None
        assert arrival.message.headers == {}


async def test_a_returned_message_comes_back_without_bcc(target: Target) -> None:
    async with routes(target) as route:
        returned = await route.publish("", "nowhere", {"BCC": ["nor here"], "CC": []})
        assert isinstance(returned, Arrival)
        assert (returned.routing_key, returned.message.headers) == ("nowhere", {"CC": []})


async def test_bcc_is_gone_before_a_headers_exchange_looks(target: Target) -> None:
    async with routes(target) as route:
        exchange, queue = await route.exchange("headers"), await route.queue()
        await route.bind(queue, exchange, arguments={"x-match": "any", "CC": None, "BCC": None})
        assert await route.reached(exchange, headers={"BCC": ["x"]}) == []
        assert await route.reached(exchange, headers={"CC": ["x"]}) == [queue]


async def test_only_strings_in_cc_are_routing_keys(target: Target) -> None:
    async with routes(target) as route:
        one, other = await route.queue(), await route.queue()
        headers: FieldTable = {"CC": [1, one, None, other.encode(), [other], {"a": other}]}
        assert await route.reached("", "nowhere", headers) == [one]


async def test_the_names_of_cc_and_bcc_are_case_sensitive(target: Target) -> None:
    async with routes(target) as route:
        queue = await route.queue()
        assert await route.reached("", "nowhere", {"cc": [queue], "Bcc": queue}) == []


NO_ARRAYS: list[tuple[FieldValue, str]] = [
    ("q", "longstr"),
    (b"q", "binary"),
    (1, "signedint"),
    (2**40, "long"),
    (True, "bool"),
    (1.5, "double"),
    (None, "void"),
    ({"a": "q"}, "table"),
    (Decimal("1.5"), "decimal"),
    (TIME, "timestamp"),
]


@pytest.mark.parametrize("header", ["CC", "BCC"])
async def test_cc_that_is_no_array_is_refused(target: Target, header: str) -> None:
    refusals = [await refused_publish(target, "amq.fanout", headers={header: value}) for value, _ in NO_ARRAYS]
    assert refusals == [
        failed(f'invalid message: {{unacceptable_type_in_header,"{header}",{kind}}}') for _, kind in NO_ARRAYS
    ]


async def test_cc_is_checked_before_bcc_and_after_the_exchange(target: Target) -> None:
    headers: FieldTable = {"BCC": 1, "CC": "x"}
    refusal = await refused_publish(target, "", headers=headers)
    assert refusal == failed('invalid message: {unacceptable_type_in_header,"CC",longstr}')
    refusal = await refused_publish(target, "nowhere", headers=headers)
    assert refusal == Refusal("channel", 404, "NOT_FOUND - no exchange 'nowhere' in vhost '/'")


# --- local random ---------------------------------------------------------------------------------------------------


async def test_a_local_random_exchange_sends_to_one_of_its_queues(target: Target) -> None:
    if "x-local-random" not in target.rules.exchange_types:
        pytest.skip("this version has no such exchange")
    async with routes(target) as route:
        exchange = await route.exchange("x-local-random")
        queues = [await route.queue() for _ in range(2)]
        assert await route.reached(exchange) == []
        for queue in queues:
            await route.bind(queue, exchange)
        for _ in range(3):
            (reached,) = await route.reached(exchange, "any key")
            assert reached in queues
