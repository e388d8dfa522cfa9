"""The embedded broker's queues by a clock of the test: the order of messages, and the moments at which they go."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyamqp import FieldTable, FieldValue, Message
from anyamqp.testing.embedded.contents import Content
from anyamqp.testing.embedded.model import Fate, Model
from anyamqp.testing.embedded.queues import Declaration, Outcome, Queue
from anyamqp.testing.embedded.ready import Entry, Ready
from anyamqp.testing.embedded.timers import Timers
from anyamqp.testing.embedded.versions import RULES
from anyamqp.wire.basic import Received, encode_properties
from anyamqp.wire.fields import Reader, table

ME = object()


class Bench:
    """A virtual host whose time a test sets."""

    def __init__(self) -> None:
        self.now: float = 100.0
        self.timers: Timers = Timers(lambda: self.now)
        self.timers.epoch = 1_000_000.0
        self.model: Model = Model(rules=RULES["4.0"], timers=self.timers)

    def queue(self, name: str = "q", /, **arguments: FieldValue) -> Queue:
        named = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        return self.model.declare_queue(Declaration(name, durable=True, arguments=named), ME)

    def publish(self, *messages: Message, key: str = "q") -> list[Fate]:
        return [self.model.publish(message, "", (key,)) for message in messages]

    def pass_to(self, now: float) -> None:
        self.now = now
        self.timers.run_due()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def bodies(queue: Queue) -> list[bytes]:
    return [entry.message.body for entry in queue.ready]


# --- the order of messages ------------------------------------------------------------------------------------------


@given(
    st.integers(0, 3),
    st.lists(st.one_of(st.tuples(st.just("add"), st.integers(0, 5)), st.tuples(st.just("take"), st.integers(0, 9)))),
    st.permutations(range(20)),
)
def test_messages_leave_by_priority_and_age_however_they_came_back(
    highest: int, steps: Sequence[tuple[str, int]], order: Sequence[int]
) -> None:
    ready = Ready(highest)
    waiting: list[Entry] = []
    taken: list[Entry] = []
    for at, (step, value) in enumerate(steps):
        if step == "add":
            entry = Entry(Message(bytes(value)), "", "", at, priority=value)
            ready.append(entry)
            waiting.append(entry)
        elif waiting:
            entry = ready.popleft()
            taken.append(entry)
            waiting.remove(entry)
    for place in order:
        if place < len(taken):
            ready.put_back(taken[place])
            waiting.append(taken[place])
    waiting.sort(key=lambda entry: (-min(entry.priority, highest), entry.position))
    missing = [entry for place, entry in enumerate(taken) if place not in order]
    assert list(ready) == [entry for entry in waiting if entry not in missing]
    assert len(ready) == len(waiting)
    assert bool(ready) == bool(waiting)
    assert ready.size == sum(entry.size for entry in waiting)
    assert ready.head == (waiting[0] if waiting else None)


def test_nothing_leaves_an_empty_queue() -> None:
    with pytest.raises(IndexError):
        Ready().popleft()


# --- expiry ---------------------------------------------------------------------------------------------------------


def test_a_message_expires_at_its_moment_and_not_before(bench: Bench) -> None:
    queue = bench.queue(message_ttl=1000)
    bench.publish(Message(b"x"))
    bench.pass_to(100.999)
    assert bodies(queue) == [b"x"]
    bench.pass_to(101.0)
    assert bodies(queue) == []
    assert bench.timers.next_due is None


def test_each_new_head_expires_at_its_own_moment(bench: Bench) -> None:
    queue = bench.queue()
    bench.publish(Message(b"1", expiration=2.0), Message(b"2", expiration=1.0), Message(b"3", expiration=5.0))
    assert bench.timers.next_due == 102.0
    bench.pass_to(101.5)
    assert bodies(queue) == [b"1", b"2", b"3"]
    bench.pass_to(102.0)
    assert bodies(queue) == [b"3"]
    assert bench.timers.next_due == 105.0


def test_taking_the_head_sets_the_timer_for_the_next(bench: Bench) -> None:
    queue = bench.queue()
    bench.publish(Message(b"1", expiration=1.0), Message(b"2", expiration=3.0))
    assert queue.take() is not None
    assert bench.timers.next_due == 103.0


def test_a_message_that_expired_before_it_was_asked_for_is_not_handed_out(bench: Bench) -> None:
    queue = bench.queue(message_ttl=1000)
    bench.publish(Message(b"x"))
    bench.now = 101.0  # and the timer has not run yet
    assert queue.take() is None


def test_a_queue_expires_at_its_moment_and_takes_its_timers_along(bench: Bench) -> None:
    bench.queue(expires=1000, message_ttl=50_000)
    bench.publish(Message(b"x"))
    bench.pass_to(100.999)
    assert "q" in bench.model.queues
    bench.pass_to(101.0)
    assert "q" not in bench.model.queues
    assert bench.timers.next_due is None


def test_every_use_puts_the_end_of_a_queue_off(bench: Bench) -> None:
    queue = bench.queue(expires=1000)
    bench.pass_to(100.5)
    queue.take()
    bench.pass_to(101.4)
    bench.queue(expires=1000)
    bench.pass_to(102.3)
    assert "q" in bench.model.queues
    bench.publish(Message(b"no use"))
    bench.pass_to(102.4)
    assert "q" not in bench.model.queues


def test_a_restart_keeps_the_moments_of_messages_and_begins_that_of_the_queue_anew(bench: Bench) -> None:
    queue = bench.queue(expires=10_000)
    bench.publish(
        Message(b"soon", expiration=1.0), Message(b"later", expiration=8.0), Message(b"lost", persistent=False)
    )
    bench.now = 105.0
    bench.model.restart()
    assert bodies(queue) == [b"later"]
    bench.pass_to(112.0)
    assert bodies(queue) == []
    assert "q" in bench.model.queues
    bench.pass_to(115.0)
    assert "q" not in bench.model.queues


# --- dead letters ---------------------------------------------------------------------------------------------------


def dead_letters_to(queue: str) -> dict[str, FieldValue]:
    return {"dead_letter_exchange": "", "dead_letter_routing_key": queue}


def deaths(message: Message) -> list[Mapping[str, FieldValue]]:
    return cast("list[Mapping[str, FieldValue]]", (message.headers or {})["x-death"])


def test_a_death_carries_the_time_of_day(bench: Bench) -> None:
    dead = bench.queue("dead")
    bench.queue(message_ttl=7000, **dead_letters_to("dead"))
    bench.publish(Message(b"x"))
    bench.pass_to(107.0)
    (entry,) = dead.ready
    assert deaths(entry.message)[0]["time"] == datetime.fromtimestamp(1_000_107, UTC)


def test_dead_letters_that_drop_others_keep_the_order(bench: Bench) -> None:
    last = bench.queue("last")
    bench.queue("dead", max_length=1, **dead_letters_to("last"))
    bench.queue(message_ttl=1000, **dead_letters_to("dead"))
    bench.publish(*(Message(str(number).encode()) for number in range(5)))
    bench.pass_to(101.0)
    assert bodies(last) == [b"0", b"1", b"2", b"3"]
    assert bodies(bench.model.queues["dead"]) == [b"4"]


@pytest.fixture
def few_frames() -> Iterator[None]:
    """Leaves room for 100 nested calls."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("few_frames")
def test_a_chain_of_queues_takes_no_deeper_calls(bench: Bench) -> None:
    length = 40
    for number in range(length):
        bench.queue(f"q{number}", max_length=0, **dead_letters_to(f"q{number + 1}"))
    end = bench.queue(f"q{length}")
    bench.publish(Message(b"x"), key="q0")
    (entry,) = end.ready
    assert len(deaths(entry.message)) == length


def test_a_full_queue_refuses_its_own_dead_letter(bench: Bench) -> None:
    bench.queue("full", max_length=0, overflow="reject-publish")
    queue = bench.queue(**dead_letters_to("full"))
    bench.publish(Message(b"x"))
    entry = queue.take()
    assert entry is not None
    queue.unacked += 1
    queue.settle(entry, Outcome.REJECTED)
    assert [len(one.ready) for one in bench.model.queues.values()] == [0, 0]
    assert bench.publish(Message(b"y"), key="full") == [Fate.REFUSED]


# --- properties -----------------------------------------------------------------------------------------------------


def test_a_changed_header_leaves_the_bytes_of_all_other_properties() -> None:
    headers: FieldTable = {"z": 1, "a": {"deep": [1, "x", None]}, "m": 1.5}
    message = Message(
        b"x", headers=headers, priority=3, expiration=1.5, user_id="u", timestamp=datetime.fromtimestamp(5, UTC)
    )
    encoded = encode_properties(message.properties)
    content = Content(Received(b"x", encoded))
    assert content.message().encoded == encoded
    content.set_header("new", "value")
    content.drop_header("m")
    content.drop_expiration()
    changed = content.message()
    assert changed.headers == {"z": 1, "a": {"deep": [1, "x", None]}, "new": "value"}
    assert changed.properties == message.replace(headers=changed.headers, expiration=None, persistent=True).properties


def test_headers_that_a_client_typed_otherwise_keep_their_types() -> None:
    # A signed octet, which this project's client would send with 32 bits.
    rows = b"\x01kb\x05"
    encoded = b"\x20\x00" + len(rows).to_bytes(4, "big") + rows
    content = Content(Received(b"", encoded))
    content.set_header("other", True)
    assert content.headers["k"] == b"b\x05"
    assert content.message().encoded[6:] == rows + table("", {"other": True})[4:]


def test_the_count_of_deaths_has_64_bits(bench: Bench) -> None:
    dead = bench.queue("dead")
    bench.queue(max_length=0, **dead_letters_to("dead"))
    bench.publish(Message(b"x"))
    (entry,) = dead.ready
    raw = Content(entry.message).headers["x-death"]
    assert b"\x05countl" + (1).to_bytes(8, "big") in raw
    assert isinstance(Reader(raw).value(), list)


def test_a_purged_queue_has_all_its_room_again(bench: Bench) -> None:
    queue = bench.queue(max_length_bytes=3)
    bench.publish(Message(b"123"))
    assert queue.purge() == 1
    bench.publish(Message(b"456"))
    assert bodies(queue) == [b"456"]


def test_a_circle_with_a_reject_in_it_goes_on(bench: Bench) -> None:
    queue = bench.queue(**dead_letters_to("other"))
    bench.queue("other", message_ttl=1000, **dead_letters_to("q"))
    bench.publish(Message(b"x"))
    entry = queue.take()
    assert entry is not None
    queue.unacked += 1
    queue.settle(entry, Outcome.REJECTED)
    bench.pass_to(101.0)
    assert bodies(queue) == [b"x"]
