"""The embedded broker's model: routing, queues, and the errors that RabbitMQ answers with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyamqp import (
    AccessRefused,
    CommandInvalid,
    FieldTable,
    Message,
    NotFound,
    NotImplementedByBroker,
    PreconditionFailed,
    ReplyError,
    ResourceLocked,
)
from anyamqp.testing.embedded.consumer_arguments import Terms
from anyamqp.testing.embedded.exchanges import Exchange, topic_matches
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.queues import Declaration, Queue
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.versions import RULES

ME, OTHER = object(), object()


def queue(
    model: Model,
    name: str = "q",
    *,
    durable: bool = True,
    owner: object | None = None,
    auto_delete: bool = False,
    arguments: FieldTable | None = None,
) -> Queue:
    return model.declare_queue(Declaration(name, durable, owner, auto_delete, arguments or {}), owner or ME)


def exchange(
    model: Model, name: str, kind: str = "fanout", *, durable: bool = True, auto_delete: bool = False
) -> Exchange:
    wanted = Exchange(name, kind, durable, auto_delete)
    model.declare_exchange(wanted)
    return wanted


def routed(model: Model, name: str, key: str = "") -> list[str]:
    return sorted(found.name for found in model.route(name, [key], Message(b"")))


def bodies(of: Queue) -> list[bytes]:
    return [entry.message.body for entry in of.ready]


class Taker:
    """A consumer that accepts so many messages."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.priority = 0
        self.unacked = 0
        self.taken: list[Entry] = []
        self.is_cancelled = False

    def can_take(self) -> bool:
        return len(self.taken) < self.room

    def take(self, queue: Queue, entry: Entry) -> None:  # noqa: ARG002
        self.taken.append(entry)

    def cancel(self) -> None:
        self.is_cancelled = True

    @property
    def bodies(self) -> list[bytes]:
        return [entry.message.body for entry in self.taken]


# --- routing --------------------------------------------------------------------------------------------------------


def naive_matches(pattern: list[str], words: list[str]) -> bool:
    """RabbitMQ's "Topics" word by word: ``*`` is exactly one word, ``#`` none or more."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(naive_matches(pattern[1:], words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and naive_matches(pattern[1:], words[1:])


@given(st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=6), st.lists(st.sampled_from("ab "), max_size=6))
def test_topic_matches_as_the_naive_matcher_does(pattern: list[str], words: list[str]) -> None:
    assert topic_matches(pattern, words) is naive_matches(pattern, words)


def test_topic_matches_as_the_naive_matcher_does_in_every_small_case() -> None:
    patterns = [list(one) for length in range(5) for one in product("ab*#", repeat=length)]
    keys = [list(one) for length in range(5) for one in product("ab", repeat=length)]
    assert [(pattern, words) for pattern in patterns for words in keys if topic_matches(pattern, words)] == [
        (pattern, words) for pattern in patterns for words in keys if naive_matches(pattern, words)
    ]


@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [
        ("direct", "a.b", ["exact"]),
        ("direct", "a.*", ["star"]),
        ("direct", "other", []),
        ("fanout", "other", ["exact", "hash", "star"]),
        ("topic", "a.b", ["exact", "hash", "star"]),
        ("topic", "a.c", ["hash", "star"]),
        ("topic", "a", ["hash"]),
        ("topic", "", []),
    ],
)
def test_each_type_of_exchange_routes_by_its_rule(kind: str, key: str, expected: list[str]) -> None:
    model = Model()
    exchange(model, "x", kind)
    for name, binding in (("exact", "a.b"), ("star", "a.*"), ("hash", "a.#")):
        queue(model, name)
        model.bind("x", "queue", name, binding)
    assert routed(model, "x", key) == expected


def test_default_exchange_routes_to_the_queue_of_that_name() -> None:
    model = Model()
    queue(model, "q")
    assert (routed(model, "", "q"), routed(model, "", "other")) == (["q"], [])


def test_queue_bound_twice_gets_a_message_once() -> None:
    model = Model()
    exchange(model, "x", "topic")
    queue(model)
    model.bind("x", "queue", "q", "#")
    model.bind("x", "queue", "q", "a.*")
    assert routed(model, "x", "a.b") == ["q"]


def test_local_random_exchange_takes_its_queues_in_turn() -> None:
    model = Model(rules=RULES["4.0"])
    exchange(model, "x", "x-local-random")
    assert routed(model, "x") == []
    for name in ("one", "two"):
        queue(model, name)
        model.bind("x", "queue", name, "")
    assert sorted([*routed(model, "x", "any"), *routed(model, "x")]) == ["one", "two"]


def test_modulus_hash_exchange_of_rabbitmq_4_3_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedByBroker, match=r"^exchange type 'x-modulus-hash'$"):
        exchange(Model(rules=RULES["4.3"]), "x", "x-modulus-hash")
    with pytest.raises(PreconditionFailed, match=r"^unknown exchange type 'x-modulus-hash'$"):
        exchange(Model(rules=RULES["4.0"]), "x", "x-modulus-hash")


def test_unbound_queue_gets_nothing_more() -> None:
    model = Model()
    exchange(model, "x", "direct")
    queue(model)
    model.bind("x", "queue", "q", "one")
    model.bind("x", "queue", "q", "two")
    model.unbind("x", "queue", "q", "one")
    assert (routed(model, "x", "one"), routed(model, "x", "two")) == ([], ["q"])


def test_exchange_passes_on_to_an_exchange_by_both_rules() -> None:
    model = Model()
    exchange(model, "all")
    exchange(model, "some", "topic")
    queue(model)
    model.bind("all", "exchange", "some", "")
    model.bind("some", "queue", "q", "trade.#")
    assert (routed(model, "all", "trade.x"), routed(model, "all", "book.x")) == (["q"], [])


names = st.sampled_from("abcde")


@given(st.lists(st.tuples(names, names)), st.lists(st.tuples(names, st.sampled_from(["one", "two"]))), names)
def test_cycles_of_exchanges_reach_what_a_walk_reaches(
    links: list[tuple[str, str]], ends: list[tuple[str, str]], start: str
) -> None:
    model = Model()
    for name in "abcde":
        exchange(model, name)
    for name in ("one", "two"):
        queue(model, name)
    for source, destination in links:
        model.bind(source, "exchange", destination, "")
    for source, name in ends:
        model.bind(source, "queue", name, "")
    reached = {start}
    for _ in "abcde":
        reached |= {destination for source, destination in links if source in reached}
    assert routed(model, start) == sorted({name for source, name in ends if source in reached})


def test_publish_to_no_exchange_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"^no exchange 'gone' in vhost '/'$"):
        Model().route("gone", ["key"], Message(b""))


# --- queues ---------------------------------------------------------------------------------------------------------


def test_messages_wait_in_their_order() -> None:
    waiting = queue(Model())
    for body in (b"1", b"2", b"3"):
        waiting.put(Message(body), "", "q")
    assert bodies(waiting) == [b"1", b"2", b"3"]
    assert not any(entry.redelivered for entry in waiting.ready)


@given(st.integers(1, 8).flatmap(lambda count: st.tuples(st.just(count), st.permutations(range(count)))))
def test_requeued_messages_take_their_old_places_in_any_order(case: tuple[int, list[int]]) -> None:
    count, order = case
    waiting = queue(Model())
    for number in range(count + 2):
        waiting.put(Message(bytes([number])), "", "q")
    taken = [waiting.ready.popleft() for _ in range(count)]
    for index in order:
        waiting.put_back(taken[index])
    assert bodies(waiting) == [bytes([number]) for number in range(count + 2)]
    assert [entry.redelivered for entry in waiting.ready] == [True] * count + [False] * 2


def test_consumers_take_turns() -> None:
    waiting = queue(Model())
    one, other = Taker(), Taker()
    waiting.add_consumer(one, Terms())
    waiting.add_consumer(other, Terms())
    for number in range(4):
        waiting.put(Message(bytes([number])), "", "q")
    waiting.pump()
    assert (one.bodies, other.bodies) == ([b"\0", b"\2"], [b"\1", b"\3"])


def test_full_consumers_are_skipped_and_messages_wait() -> None:
    waiting = queue(Model())
    full, one = Taker(0), Taker(2)
    waiting.add_consumer(full, Terms())
    waiting.add_consumer(one, Terms())
    for number in range(3):
        waiting.put(Message(bytes([number])), "", "q")
    waiting.pump()
    assert (full.bodies, one.bodies, bodies(waiting)) == ([], [b"\0", b"\1"], [b"\2"])


def test_deleted_queue_cancels_its_consumers_and_loses_its_bindings_and_messages() -> None:
    model = Model()
    exchange(model, "x")
    waiting = queue(model)
    model.bind("x", "queue", "q", "")
    waiting.put(Message(b""), "", "q")
    consumer = Taker()
    waiting.add_consumer(consumer, Terms())
    assert model.delete_queue(waiting) == 1
    assert consumer.is_cancelled
    assert (model.queues, routed(model, "x"), model.exchanges["x"].bindings) == ({}, [], {})


def test_used_queue_is_not_deleted_if_unused() -> None:
    model = Model()
    waiting = queue(model)
    waiting.add_consumer(Taker(), Terms())
    with pytest.raises(PreconditionFailed, match=r"^queue 'q' in vhost '/' in use$"):
        model.delete_queue(waiting, if_unused=True)
    assert "q" in model.queues


def test_queue_with_messages_is_not_deleted_if_empty() -> None:
    model = Model()
    waiting = queue(model)
    waiting.put(Message(b""), "", "q")
    with pytest.raises(PreconditionFailed, match="not empty"):
        model.delete_queue(waiting, if_empty=True)
    assert "q" in model.queues


def test_broker_names_queues_that_have_no_name_each_anew() -> None:
    model = Model()
    one, other = queue(model, ""), queue(model, "")
    assert one.name != other.name
    assert set(model.queues) == {one.name, other.name}
    assert all(name.startswith("amq.gen-") for name in model.queues)


def test_same_declaration_gives_the_same_queue() -> None:
    model = Model()
    first = queue(model, arguments={"x-max-length": 5})
    assert queue(model, arguments={"x-max-length": 5}) is first


# --- auto-delete ----------------------------------------------------------------------------------------------------


def test_auto_delete_exchange_goes_with_its_last_binding() -> None:
    model = Model()
    exchange(model, "x", auto_delete=True)
    queue(model)
    model.bind("x", "queue", "q", "one")
    model.bind("x", "queue", "q", "two")
    model.unbind("x", "queue", "q", "one")
    assert "x" in model.exchanges
    model.unbind("x", "queue", "q", "two")
    assert "x" not in model.exchanges


def test_auto_delete_exchange_goes_with_the_queue_that_it_was_bound_to() -> None:
    model = Model()
    exchange(model, "x", auto_delete=True)
    model.bind("x", "queue", queue(model).name, "")
    model.delete_queue(model.queues["q"])
    assert "x" not in model.exchanges


def test_auto_delete_exchanges_go_in_a_chain() -> None:
    model = Model()
    for name in ("one", "two", "three"):
        exchange(model, name, auto_delete=True)
    queue(model)
    model.bind("one", "exchange", "two", "")
    model.bind("two", "exchange", "three", "")
    model.bind("three", "queue", "q", "")
    model.delete_queue(model.queues["q"])
    assert {"one", "two", "three"}.isdisjoint(model.exchanges)


def test_auto_delete_exchange_that_was_never_bound_stays() -> None:
    model = Model()
    exchange(model, "x", auto_delete=True)
    exchange(model, "other")
    model.delete_exchange("other", if_unused=False)
    assert "x" in model.exchanges


@given(
    st.lists(st.tuples(names, names), max_size=10),
    st.sets(names),
    st.lists(st.tuples(names, st.booleans()), max_size=5),
)
def test_deleting_cyclic_auto_delete_exchanges_leaves_no_dangling_binding(
    links: list[tuple[str, str]], auto: set[str], deleted: list[tuple[str, bool]]
) -> None:
    model = Model()
    for name in "abcde":
        exchange(model, name, auto_delete=name in auto)
        queue(model, name)
    for source, destination in links:
        model.bind(source, "exchange", destination, "")
        model.bind(source, "queue", destination, "")
    for name, is_queue in deleted:
        if not is_queue:
            model.delete_exchange(name, if_unused=False)
        elif name in model.queues:
            model.delete_queue(model.queues[name])
    for one in model.exchanges.values():
        for kind, name, *_ in one.bindings:
            assert name in (model.queues if kind == "queue" else model.exchanges)


# --- restart --------------------------------------------------------------------------------------------------------


def test_restart_keeps_what_is_durable_and_persistent() -> None:
    model = Model()
    kept = queue(model, "kept")
    queue(model, "gone", durable=False)
    queue(model, "mine", owner=ME)
    kept.put(Message(b"kept"), "", "kept")
    kept.put(Message(b"gone", persistent=False), "", "kept")
    exchange(model, "x")
    exchange(model, "y", durable=False)
    model.bind("x", "queue", "kept", "")
    model.bind("x", "queue", "gone", "")
    model.bind("x", "exchange", "y", "")
    model.restart()
    assert list(model.queues) == ["kept"]
    assert bodies(model.queues["kept"]) == [b"kept"]
    assert "y" not in model.exchanges
    assert [binding.name for binding in model.exchanges["x"].bindings] == ["kept"]


def test_restart_keeps_the_brokers_own_exchanges() -> None:
    model = Model()
    before = list(model.exchanges)
    model.restart()
    assert "amq.match" in before
    assert list(model.exchanges) == before


# --- errors ---------------------------------------------------------------------------------------------------------


def consume_locked(model: Model) -> None:
    queue(model, owner=OTHER)
    model.queue("q", ME)


def declare_locked(model: Model) -> None:
    queue(model, owner=OTHER)
    queue(model)


def declare_other_durable(model: Model) -> None:
    queue(model)
    queue(model, durable=False)


def declare_other_arguments(model: Model) -> None:
    queue(model)
    queue(model, arguments={"x-max-length": 1})


def declare_other_type(model: Model) -> None:
    exchange(model, "x", "fanout")
    exchange(model, "x", "direct")


def delete_used_exchange(model: Model) -> None:
    exchange(model, "x")
    model.bind("x", "queue", queue(model).name, "")
    model.delete_exchange("x", if_unused=True)


ERRORS: list[tuple[type[ReplyError], int, str, Callable[[Model], object]]] = [
    (AccessRefused, 403, "reserved prefix 'amq.*'", lambda model: queue(model, "amq.mine")),
    (AccessRefused, 403, "reserved prefix 'amq.*'", lambda model: exchange(model, "amq.mine")),
    (
        AccessRefused,
        403,
        "deletion of system exchange",
        lambda model: model.delete_exchange("amq.topic", if_unused=False),
    ),
    (NotFound, 404, "no queue 'q' in vhost '/'", lambda model: model.queue("q", ME)),
    (NotFound, 404, "no exchange 'x' in vhost '/'", lambda model: model.bind("x", "queue", "q", "")),
    (ResourceLocked, 405, "exclusive access to locked queue 'q'", consume_locked),
    (ResourceLocked, 405, "exclusive access to locked queue 'q'", declare_locked),
    (PreconditionFailed, 406, "inequivalent arg 'durable' for queue 'q'", declare_other_durable),
    (PreconditionFailed, 406, "inequivalent arg 'x-max-length' for queue 'q'", declare_other_arguments),
    (PreconditionFailed, 406, "inequivalent arg 'type' for exchange 'x'", declare_other_type),
    (PreconditionFailed, 406, "exchange 'x' in vhost '/' in use", delete_used_exchange),
    (CommandInvalid, 503, "unknown exchange type 'nosuch'", lambda model: exchange(model, "x", "nosuch")),
]


@pytest.mark.parametrize(("kind", "code", "text", "act"), ERRORS)
def test_error_is_rabbitmqs(kind: type[ReplyError], code: int, text: str, act: Callable[[Model], object]) -> None:
    with pytest.raises(ReplyError) as caught:
        act(Model())
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert text in caught.value.text


def test_deleting_what_is_not_there_is_no_error() -> None:
    model = Model()
    model.delete_exchange("x", if_unused=True)
    gone = queue(model)
    model.delete_queue(gone)
    model.delete_queue(gone)


def test_own_exclusive_queue_is_open_to_its_owner() -> None:
    model = Model()
    mine = queue(model, owner=ME)
    assert model.queue("q", ME) is mine
