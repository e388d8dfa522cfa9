"""The options of a publisher: resend or not, retry nacks, wait while blocked.

The scripted broker confirms nothing by itself: a test decides what it answers, and when, in virtual time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise, permutations
from typing import Self

import anyio
import anyio.abc
import pytest
import trio.testing

from anyamqp import (
    AnyamqpError,
    ChannelClosed,
    ChannelEvent,
    Connection,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionForced,
    FieldTable,
    InvalidArgument,
    Message,
    Nacked,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    Properties,
    Publication,
    Publisher,
    PublishTimeout,
    Receipt,
    ReplyError,
    State,
    Transition,
    TransportError,
    Unroutable,
)
from anyamqp.wire import methods
from support.handbroker import HandBroker, Sent, ServedLink, connected, settled

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("observer")]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Stopwatch:
    """Virtual seconds since it was made."""

    def __init__(self) -> None:
        self._start = anyio.current_time()

    @property
    def seconds(self) -> float:
        return round(anyio.current_time() - self._start, 6)


async def submit(publisher: Publisher, *bodies: bytes, timeout: float | None = 60) -> list[Publication]:
    """Submit messages; what the publisher may send of them is at the broker afterwards."""
    given = [await publisher.submit(Message(body), routing_key="q", timeout=timeout) for body in bodies]
    await settled()
    return given


async def outcome(publication: Publication) -> Receipt | AnyamqpError:
    """How it ended, or ends."""
    try:
        return await publication
    except AnyamqpError as error:
        return error


async def failures(publisher: Publisher) -> list[type[Exception]]:
    """The kinds of what flush raises."""
    with pytest.raises(ExceptionGroup) as caught:
        await publisher.flush()
    return [type(error) for error in caught.value.exceptions]


class Waiting:
    """A publish that may be in a task of its own, and how it ended."""

    def __init__(self, publisher: Publisher, body: bytes, timeout: float = 60) -> None:
        self.error: AnyamqpError | None = None
        self.receipt: Receipt | None = None
        self.seconds: float | None = None
        """How long it took; None as long as it waits."""
        self._publisher = publisher
        self._body = body
        self._timeout = timeout

    def start(self, tasks: anyio.abc.TaskGroup) -> Self:
        tasks.start_soon(self.run)
        return self

    async def run(self) -> None:
        watch = Stopwatch()
        try:
            self.receipt = await self._publisher.publish(Message(self._body), routing_key="q", timeout=self._timeout)
        except AnyamqpError as error:
            self.error = error
        self.seconds = watch.seconds


# --- resend off -----------------------------------------------------------------------------------------------------


async def test_without_resend_a_loss_leaves_outcomes_unknown() -> None:
    """Invariant 3."""
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        sent = await submit(publisher, b"a", b"b", b"c")
        await broker.link.reset()
        for publication in sent:
            error = await outcome(publication)
            assert isinstance(error, OutcomeUnknown)
            assert error.message_id == publication.message_id
            assert isinstance(error.__cause__, TransportError)
            assert error.__cause__ is connection.stats.last_error
        await connection.wait_ready(5)
        await settled()
        assert broker.bodies() == [b"a", b"b", b"c"]


async def test_without_resend_confirmed_publishes_keep_their_receipts() -> None:
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        first, second, third = await submit(publisher, b"a", b"b", b"c")
        await broker.link.ack(2)
        await settled()
        await broker.link.reset()
        assert [type(await outcome(one)) for one in (first, second, third)] == [OutcomeUnknown, Receipt, OutcomeUnknown]


async def test_without_resend_unsent_publishes_are_sent_on_the_next_link() -> None:
    """Invariant 5."""
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        (sent,) = await submit(publisher, b"sent")
        await broker.link.block()
        unsent = await submit(publisher, b"1", b"2", b"3")
        await broker.link.reset()
        assert isinstance(await outcome(sent), OutcomeUnknown)
        await connection.wait_ready(5)
        await settled()
        assert broker.link.bodies() == [b"1", b"2", b"3"]
        await broker.link.ack(3, multiple=True)
        assert [(await one).attempts for one in unsent] == [1, 1, 1]


async def test_without_resend_waiting_publishes_are_sent_on_the_next_link() -> None:
    async with connected() as (broker, connection), connection.publisher(resend=False, window=1) as publisher:
        (sent,) = await submit(publisher, b"sent")
        waiting = Waiting(publisher, b"waited")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting.run)
            await settled()
            await broker.link.reset()
            assert isinstance(await outcome(sent), OutcomeUnknown)
            await connection.wait_ready(5)
            await settled()
            assert broker.link.bodies() == [b"waited"]
            await broker.link.ack(1)
        assert waiting.receipt is not None


async def test_without_resend_a_channel_error_leaves_outcomes_unknown() -> None:
    """Nobody can tell which of them the broker had taken before the one it complains of."""
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        sent = await submit(publisher, b"a", b"b", b"c")
        await broker.link.close_channel(NO_EXCHANGE)
        for publication in sent:
            error = await outcome(publication)
            assert isinstance(error, OutcomeUnknown)
            assert isinstance(error.__cause__, NotFound)
        (later,) = await submit(publisher, b"later")
        await broker.link.ack(1)
        assert (await later).attempts == 1
        assert broker.bodies() == [b"a", b"b", b"c", b"later"]
        assert len(broker.links) == 1


async def test_without_resend_a_lone_publish_that_the_channel_error_names_fails_with_it() -> None:
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        (guilty,) = await submit(publisher, b"guilty")
        await broker.link.close_channel(NO_EXCHANGE)
        assert isinstance(await outcome(guilty), NotFound)


async def test_without_resend_a_lone_publish_that_the_channel_error_does_not_name_is_unknown() -> None:
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        (innocent,) = await submit(publisher, b"innocent")
        await broker.link.close_channel(NO_METHOD)
        error = await outcome(innocent)
        assert isinstance(error, OutcomeUnknown)
        assert isinstance(error.__cause__, PreconditionFailed)


async def test_without_resend_the_cause_is_the_brokers_close() -> None:
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        (sent,) = await submit(publisher, b"sent")
        await broker.link.tell(0, methods.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0))
        error = await outcome(sent)
        assert isinstance(error, OutcomeUnknown)
        assert isinstance(error.__cause__, ConnectionForced)


async def test_without_resend_flush_raises_unawaited_unknown_outcomes() -> None:
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        await submit(publisher, b"a", b"b")
        await broker.link.reset()
        assert await failures(publisher) == [OutcomeUnknown, OutcomeUnknown]


async def test_without_resend_a_publish_that_is_out_of_time_at_the_loss_timed_out() -> None:
    async with connected() as (broker, connection), connection.publisher(resend=False) as publisher:
        (late,) = await submit(publisher, b"late", timeout=1)
        await anyio.sleep(2)
        await broker.link.reset()
        error = await outcome(late)
        assert isinstance(error, PublishTimeout)
        assert error.sent


async def test_without_resend_unknown_outcomes_give_their_room_back() -> None:
    """Invariant 11."""
    async with connected() as (broker, connection), connection.publisher(resend=False, window=2) as publisher:
        await submit(publisher, b"a", b"b")
        await broker.link.reset()
        await connection.wait_ready(5)
        with anyio.fail_after(1):
            await submit(publisher, b"c", b"d")
        await broker.link.ack(2, multiple=True)
        assert await failures(publisher) == [OutcomeUnknown, OutcomeUnknown]


# --- failures that nobody collects ----------------------------------------------------------------------------------


async def fail_many(broker: HandBroker, publisher: Publisher, count: int, *, size: int = 200) -> list[Publication]:
    """Publish so many messages, each of which the broker refuses."""
    given: list[Publication] = []
    for first in range(0, count, size):
        given += await submit(publisher, *(b"%d" % number for number in range(first, first + size)))
        await broker.link.nack(broker.published[-1].tag, multiple=True)
        await settled()
    return given


async def test_failures_that_nobody_collects_are_bounded_and_counted() -> None:
    """Invariant 11."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        given = await fail_many(broker, publisher, 3000)
        with pytest.raises(
            ExceptionGroup, match=r"^3000 publishes failed; here are the first 1000 and the last$"
        ) as caught:
            await publisher.flush()
        told = [error.message_id for error in caught.value.exceptions if isinstance(error, Nacked)]
        assert told == [one.message_id for one in (*given[:1000], given[-1])]
        await publisher.flush()


async def test_a_failure_that_was_awaited_leaves_its_place_to_another() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        for _ in range(3):
            for publication in await fail_many(broker, publisher, 800):
                assert isinstance(await outcome(publication), Nacked)
        await publisher.flush()


async def test_a_window_of_failures_is_kept_whole_however_large() -> None:
    async with connected() as (broker, connection), connection.publisher(window=1500) as publisher:
        await fail_many(broker, publisher, 1500, size=1500)
        assert len(await failures(publisher)) == 1500


async def test_flush_raises_dropped_failures_if_others_were_awaited() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        for publication in (await fail_many(broker, publisher, 1200))[:1000]:
            assert isinstance(await outcome(publication), Nacked)
        with pytest.raises(ExceptionGroup, match=r"^200 publishes failed; here is the last$"):
            await publisher.flush()


# --- deadlines over reconnects --------------------------------------------------------------------------------------


async def test_one_deadline_holds_over_any_number_of_links() -> None:
    """Invariant 3."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        waiting = Waiting(publisher, b"x", timeout=10)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting.run)
            for _ in range(3):
                await anyio.sleep(2)
                await broker.link.reset()
            await anyio.sleep(3.5)
            assert waiting.seconds is None
        assert waiting.seconds == 10
        assert isinstance(waiting.error, PublishTimeout)
        assert waiting.error.sent
        assert len(broker.published) == len(broker.links) == 4


async def test_each_publish_ends_at_its_own_deadline() -> None:
    """Invariant 3."""
    async with connected() as (_, connection), connection.publisher() as publisher:
        watch = Stopwatch()
        (soon,) = await submit(publisher, b"soon", timeout=1)
        (late,) = await submit(publisher, b"late", timeout=5)
        ended: list[float] = []
        with anyio.fail_after(60):
            for publication in (soon, late):
                assert isinstance(await outcome(publication), PublishTimeout)
                ended.append(watch.seconds)
        assert ended == [1, 5]


async def test_a_publish_whose_deadline_passes_while_the_broker_is_away_is_not_sent_again() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        short, long = await submit(publisher, b"short", timeout=5), await submit(publisher, b"long", timeout=60)
        broker.is_refusing = True
        await broker.link.reset()
        await anyio.sleep(7.5)
        broker.is_refusing = False
        await connection.wait_ready(5)
        await settled()
        assert broker.link.bodies() == [b"long"]
        await broker.link.ack(1)
        assert isinstance(await outcome(short[0]), PublishTimeout)
        assert (await long[0]).attempts == 2


# --- nacks ----------------------------------------------------------------------------------------------------------


async def test_a_nack_is_raised_and_hits_nobody_else() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        first, second, third = await submit(publisher, b"a", b"b", b"c")
        await broker.link.nack(2)
        await broker.link.ack(3, multiple=True)
        error = await outcome(second)
        assert isinstance(error, Nacked)
        assert error.message_id == second.message_id
        assert [(await one).attempts for one in (first, third)] == [1, 1]


async def test_publishes_nacked_together_are_sent_again_in_order() -> None:
    """Invariant 5."""
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        publications = await submit(publisher, b"a", b"b", b"c")
        await broker.link.nack(3, multiple=True)
        await settled()
        assert broker.bodies() == [b"a", b"b", b"c"]
        await anyio.sleep(0.06)
        assert broker.bodies() == [b"a", b"b", b"c"] * 2
        assert [round(sent.at - broker.published[0].at, 6) for sent in broker.published[3:]] == [0.05] * 3
        await broker.link.ack(6, multiple=True)
        assert [(await one).attempts for one in publications] == [2, 2, 2]


@pytest.mark.parametrize("order", [(3, 1, 2), (2, 3, 1), (3, 2, 1)], ids=str)
async def test_what_is_nacked_out_of_order_is_sent_again_in_order(order: tuple[int, ...]) -> None:
    """Invariant 5: the broker confirms in any order, but nothing of this has been accepted yet."""
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        await submit(publisher, b"a", b"b", b"c")
        for tag in order:
            await broker.link.nack(tag)
        await anyio.sleep(0.06)
        assert broker.bodies()[3:] == [b"a", b"b", b"c"]
        await broker.link.ack(6, multiple=True)


async def test_what_is_nacked_goes_before_what_waits_to_be_sent() -> None:
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        await submit(publisher, b"nacked")
        await broker.link.nack(1)
        await broker.link.block()
        await submit(publisher, b"new")
        await anyio.sleep(1)
        await broker.link.unblock()
        assert broker.bodies() == [b"nacked", b"nacked", b"new"]
        await broker.link.ack(3, multiple=True)


async def nack_all(broker: HandBroker, times: int) -> None:
    """Nack the only publish each time that it comes, until it has come that often and once more."""
    for number in range(times):
        while len(broker.published) <= number:  # noqa: ASYNC110 - until it is sent again
            await anyio.sleep(0.001)
        await broker.link.nack(broker.published[number].tag)
    while len(broker.published) <= times:  # noqa: ASYNC110 - until it is sent again
        await anyio.sleep(0.001)


def pauses(broker: HandBroker) -> list[float]:
    """Seconds between the publishes, as they came; what the test's own looking costs is rounded away."""
    return [round(later.at - earlier.at, 2) for earlier, later in pairwise(broker.published)]


async def test_the_pause_grows_up_to_a_second() -> None:
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        await submit(publisher, b"x")
        await nack_all(broker, 8)
        assert pauses(broker) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
        await broker.link.ack(9)


async def test_an_ack_makes_the_pause_short_again() -> None:
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        (first,) = await submit(publisher, b"first")
        await nack_all(broker, 5)
        await broker.link.ack(6)
        assert (await first).attempts == 6
        await submit(publisher, b"second")
        sent = broker.published[-1]
        await broker.link.nack(sent.tag)
        await anyio.sleep(5)
        assert round(broker.published[-1].at - sent.at, 6) == 0.05
        await broker.link.ack(8)


async def test_retrying_ends_at_the_deadline() -> None:
    """Invariant 3."""
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        waiting = Waiting(publisher, b"x", timeout=2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting.run)
            await nack_all(broker, 5)
            await broker.link.nack(6)  # at 1.55 s; the next one would be sent at 2.55 s
        assert waiting.seconds == 2
        assert isinstance(waiting.error, PublishTimeout)
        assert waiting.error.sent
        await anyio.sleep(10)
        assert len(broker.published) == 6


async def test_a_nack_that_comes_after_the_deadline_is_not_retried() -> None:
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        (late,) = await submit(publisher, b"x", timeout=1)
        await anyio.sleep(2)
        await broker.link.nack(1)
        await anyio.sleep(10)
        assert isinstance(await outcome(late), PublishTimeout)
        assert len(broker.published) == 1


async def test_a_publish_that_is_cancelled_while_it_waits_to_be_retried_is_not_sent_again() -> None:
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True, window=1) as publisher:
        async with anyio.create_task_group() as tasks:
            Waiting(publisher, b"cancelled").start(tasks)
            await settled()
            await broker.link.nack(1)
            await settled()
            tasks.cancel_scope.cancel()
        await anyio.sleep(1)
        assert broker.bodies() == [b"cancelled"]
        with anyio.fail_after(1):
            await submit(publisher, b"next")
        await broker.link.ack(2)


async def test_what_waits_to_be_retried_keeps_its_room() -> None:
    """Invariant 11."""
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True, window=1) as publisher:
        await submit(publisher, b"nacked")
        async with anyio.create_task_group() as tasks:
            Waiting(publisher, b"next").start(tasks)
            await settled()
            await broker.link.nack(1)
            await anyio.sleep(0.06)
            assert broker.bodies() == [b"nacked", b"nacked"]
            await broker.link.ack(2)
            await settled()
            assert broker.bodies() == [b"nacked", b"nacked", b"next"]
            await broker.link.ack(3)


async def test_what_waits_to_be_retried_goes_out_on_the_next_link() -> None:
    """Invariant 3."""
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        (nacked,) = await submit(publisher, b"nacked")
        await broker.link.nack(1)
        await settled()
        broker.is_refusing = True
        await broker.link.reset()
        await anyio.sleep(0.5)  # the pause ends while there is no link
        broker.is_refusing = False
        await connection.wait_ready(5)
        await settled()
        assert broker.link.bodies() == [b"nacked"]
        await broker.link.ack(1)
        assert (await nacked).attempts == 2


async def test_flush_waits_for_what_is_retried() -> None:
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        await submit(publisher, b"x")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publisher.flush)
            await broker.link.nack(1)
            await anyio.sleep(0.06)
            assert publisher.unconfirmed == 1
            await broker.link.ack(2)
        assert publisher.unconfirmed == 0


async def test_closing_the_connection_ends_waiting_retries_at_once() -> None:
    """Invariants 3 and 7."""
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        (nacked,) = await submit(publisher, b"x")
        await broker.link.nack(1)
        await settled()
        watch = Stopwatch()
        await connection.close()
        assert isinstance(await outcome(nacked), ConnectionClosed)
        assert watch.seconds < 0.05
        await anyio.sleep(5)
        assert broker.bodies() == [b"x"]


async def test_an_error_in_the_block_ends_waiting_retries() -> None:
    async with connected() as (broker, connection):
        publications: list[Publication] = []

        async def fail() -> None:
            async with connection.publisher(retry_nacked=True) as publisher:
                publications.extend(await submit(publisher, b"x"))
                await broker.link.nack(1)
                await settled()
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        assert isinstance(await outcome(publications[0]), ChannelClosed)
        await anyio.sleep(5)
        assert broker.bodies() == [b"x"]
        assert connection.state is State.OPEN


async def test_a_return_counts_for_the_attempt_that_it_came_for() -> None:
    """Returned and nacked, then routed and acked: it is in a queue."""
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        (publication,) = await submit(publisher, b"x")
        await broker.link.give_back(broker.published[0])
        await broker.link.nack(1)
        await anyio.sleep(0.06)
        await broker.link.ack(2)
        assert isinstance(await outcome(publication), Receipt)


# --- while blocked --------------------------------------------------------------------------------------------------


async def test_no_patience_with_a_block_fails_a_publish_at_once_with_the_reason() -> None:
    async with connected() as (broker, connection), connection.publisher(blocked_timeout=0) as publisher:
        await broker.link.block("low on disk")
        watch = Stopwatch()
        with pytest.raises(ConnectionBlocked, match="low on disk") as caught:
            await publisher.publish(Message(b"x"), routing_key="q")
        assert caught.value.reason == "low on disk"
        with pytest.raises(ConnectionBlocked, match="low on disk"):
            await publisher.submit(Message(b"x"), routing_key="q")
        assert watch.seconds == 0
        await broker.link.unblock()
        assert broker.bodies() == []
        assert publisher.unconfirmed == 0


async def test_a_zero_blocked_timeout_fails_only_unsent_publishes() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=0, window=1) as publisher,
        anyio.create_task_group() as tasks,
    ):
        (sent,) = await submit(publisher, b"sent")
        waiting = [Waiting(publisher, b"waiting").start(tasks) for _ in range(3)]
        await settled()
        await broker.link.block()
        assert [type(one.error) for one in waiting] == [ConnectionBlocked] * 3
        assert [one.seconds for one in waiting] == [0, 0, 0]
        assert not sent.is_settled
        await broker.link.ack(1)
        assert (await sent).attempts == 1


async def test_a_momentary_block_fails_waiting_publishes() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=0, window=1) as publisher,
        anyio.create_task_group() as tasks,
    ):
        await submit(publisher, b"sent")
        waiting = Waiting(publisher, b"waiting").start(tasks)
        await settled()
        await broker.link.tell(0, methods.Connection.Blocked("a moment"), methods.Connection.Unblocked())
        await settled()
        assert isinstance(waiting.error, ConnectionBlocked)
        assert waiting.error.reason == "a moment"
        await broker.link.ack(1)


async def test_patience_with_a_block_is_counted_from_its_beginning() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=5) as publisher,
        anyio.create_task_group() as tasks,
    ):
        await broker.link.block()
        first = Waiting(publisher, b"first").start(tasks)
        await anyio.sleep(3)
        second = Waiting(publisher, b"second").start(tasks)
        await anyio.sleep(10)
        assert (type(first.error), first.seconds) == (ConnectionBlocked, 5)
        assert (type(second.error), second.seconds) == (ConnectionBlocked, 2)
        with pytest.raises(ConnectionBlocked):
            await publisher.submit(Message(b"third"), routing_key="q")
        await broker.link.unblock()
        assert broker.bodies() == []


async def test_blocked_timeout_fails_only_waiting_publishes() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=5, window=1) as publisher,
        anyio.create_task_group() as tasks,
    ):
        (sent,) = await submit(publisher, b"sent")
        waiting = Waiting(publisher, b"waiting").start(tasks)
        await settled()
        await broker.link.block()
        await anyio.sleep(10)
        assert (type(waiting.error), waiting.seconds) == (ConnectionBlocked, 5)
        assert not sent.is_settled
        await broker.link.unblock()
        await broker.link.ack(1)
        assert (await sent).attempts == 1


async def test_unblocked_before_patience_ends_nothing_fails() -> None:
    """Invariant 5."""
    async with connected() as (broker, connection), connection.publisher(blocked_timeout=5) as publisher:
        await broker.link.block()
        publications = await submit(publisher, b"a", b"b")
        await anyio.sleep(4.9)
        await broker.link.unblock()
        assert broker.bodies() == [b"a", b"b"]
        await anyio.sleep(10)
        assert not any(one.is_settled for one in publications)
        await broker.link.ack(2, multiple=True)
        await publisher.flush()


async def test_each_block_is_met_with_the_whole_patience() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=5) as publisher,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(3):
            await broker.link.block()
            await anyio.sleep(4)
            await broker.link.unblock()
        await broker.link.block("the last")
        waiting = Waiting(publisher, b"x").start(tasks)
        await anyio.sleep(10)
        assert (type(waiting.error), waiting.seconds) == (ConnectionBlocked, 5)
        await broker.link.unblock()


async def test_a_link_that_is_lost_while_blocked_ends_the_block() -> None:
    async with connected() as (broker, connection), connection.publisher(blocked_timeout=5) as publisher:
        await broker.link.block()
        publications = await submit(publisher, b"a", b"b")
        await anyio.sleep(4)
        broker.is_refusing = True
        await broker.link.reset()
        await anyio.sleep(20.5)
        assert not any(one.is_settled for one in publications)
        broker.is_refusing = False
        await connection.wait_ready(5)
        await settled()
        assert broker.link.bodies() == [b"a", b"b"]
        await broker.link.ack(2, multiple=True)
        await publisher.flush()


async def test_a_link_that_is_lost_in_the_last_moment_of_patience_leaves_the_next_block_all_of_it() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=5) as publisher,
        anyio.create_task_group() as tasks,
    ):
        await broker.link.block()
        await anyio.sleep(4)
        await broker.link.reset()
        await connection.wait_ready(5)
        await broker.link.block()
        waiting = Waiting(publisher, b"x").start(tasks)
        await anyio.sleep(10)
        assert (type(waiting.error), waiting.seconds) == (ConnectionBlocked, 5)
        await broker.link.unblock()


async def test_a_publisher_that_is_entered_while_blocked_has_the_same_patience() -> None:
    async with connected() as (broker, connection), anyio.create_task_group() as tasks:
        await broker.link.block()
        await anyio.sleep(2)
        async with connection.publisher(blocked_timeout=5) as publisher:
            waiting = Waiting(publisher, b"x").start(tasks)
            await anyio.sleep(10)
            assert (type(waiting.error), waiting.seconds) == (ConnectionBlocked, 3)
            await broker.link.unblock()


async def test_endless_patience_waits_for_the_publishs_own_deadline() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        await broker.link.block()
        waiting = Waiting(publisher, b"x", timeout=3600)
        await waiting.run()
        assert waiting.seconds == 3600
        assert isinstance(waiting.error, PublishTimeout)
        assert not waiting.error.sent
        await broker.link.unblock()
        assert broker.bodies() == []


async def test_the_shorter_of_deadline_and_patience_ends_a_publish() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=5) as publisher,
        anyio.create_task_group() as tasks,
    ):
        await broker.link.block()
        short, long = Waiting(publisher, b"x", timeout=3).start(tasks), Waiting(publisher, b"x", timeout=7).start(tasks)
        await anyio.sleep(10)
        assert (type(short.error), short.seconds) == (PublishTimeout, 3)
        assert (type(long.error), long.seconds) == (ConnectionBlocked, 5)
        await broker.link.unblock()


async def test_what_waits_to_be_retried_fails_when_patience_ends() -> None:
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=5, retry_nacked=True) as publisher,
        anyio.create_task_group() as tasks,
    ):
        nacked = Waiting(publisher, b"nacked").start(tasks)
        await settled()
        await broker.link.nack(1)
        await broker.link.block()
        await anyio.sleep(10)
        assert (type(nacked.error), nacked.seconds) == (ConnectionBlocked, 5)
        await broker.link.unblock()
        assert broker.bodies() == [b"nacked"]


async def test_blocked_timeout_spares_publishes_of_a_closed_channel() -> None:
    """The broker may have it: to say that it was not sent would not be true."""
    async with (
        connected() as (broker, connection),
        connection.publisher(blocked_timeout=5) as publisher,
        anyio.create_task_group() as tasks,
    ):
        caught = Waiting(publisher, b"caught").start(tasks)
        await settled()
        await broker.link.block()
        await broker.link.close_channel(methods.Channel.Close(406, "PRECONDITION_FAILED - somebody's doing", 0, 0))
        await anyio.sleep(10)
        assert caught.error is None
        await broker.link.unblock()
        assert broker.bodies() == [b"caught", b"caught"]
        await broker.link.ack(1)
        await settled()
        assert caught.error is None


async def test_what_a_block_failed_gives_its_room_back() -> None:
    """Invariant 11."""
    async with connected() as (broker, connection), connection.publisher(blocked_timeout=1, window=2) as publisher:
        await broker.link.block()
        await submit(publisher, b"a", b"b")
        await anyio.sleep(2)
        await broker.link.unblock()
        with anyio.fail_after(1):
            await submit(publisher, b"c", b"d")
        assert broker.bodies() == [b"c", b"d"]
        await broker.link.ack(2, multiple=True)
        assert await failures(publisher) == [ConnectionBlocked, ConnectionBlocked]


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
async def test_patience_that_is_no_number_of_seconds_is_refused(seconds: float) -> None:
    async with connected() as (_, connection):
        with pytest.raises(InvalidArgument, match="blocked_timeout"):
            connection.publisher(blocked_timeout=seconds)


async def test_closing_while_blocked_fails_waiting_publishes_in_time() -> None:
    """Invariants 3 and 7."""
    async with connected(close_timeout=2.0) as (broker, connection), connection.publisher() as publisher:
        await broker.link.block()
        (waiting,) = await submit(publisher, b"x")
        watch = Stopwatch()
        await connection.close()
        assert watch.seconds <= 2
        assert isinstance(await outcome(waiting), ConnectionClosed)


# --- unroutable, with ids that repeat -------------------------------------------------------------------------------

Variant = Callable[[int], Message]
"""Messages with the same id that differ in something."""

VARIANTS: dict[str, Variant] = {
    "body": lambda n: Message(b"%d" % n, message_id="same"),
    "header": lambda n: Message(b"x", message_id="same", headers={"n": n}),
    "rich header": lambda n: Message(
        b"x",
        message_id="same",
        headers={
            "at": datetime(2024, 2, 29, n, tzinfo=UTC),
            "list": [n, -n, 2**40 + n, n / 8, True, None, f"ü{n}", {"inner": Decimal("1.5")}],
            "raw": bytes([n]),
        },
    ),
    "type in a header": lambda n: Message(b"x", message_id="same", headers={"n": (1, True, 1.0)[n - 1], "a": 0}),
    "priority": lambda n: Message(b"x", message_id="same", priority=n),
    "expiration": lambda n: Message(b"x", message_id="same", expiration=n + 0.0005),
    "timestamp": lambda n: Message(
        b"x", message_id="same", timestamp=datetime(2024, 1, n, 1, 2, 3, 456789, tzinfo=UTC)
    ),
    "persistence": lambda n: Message(b"x", message_id="same", persistent=bool(n % 2), priority=n // 2),
    "empty body": lambda n: Message(b"" if n == 2 else b"%d" % n, message_id="same"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("returned", list(permutations((1, 2, 3), 2)), ids=str)
async def test_a_return_hits_the_right_one_of_several_with_the_same_id(variant: str, returned: tuple[int, int]) -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        publications = [await publisher.submit(VARIANTS[variant](n), routing_key="q") for n in (1, 2, 3)]
        await settled()
        await broker.link.give_back(*(broker.published[n - 1] for n in returned))
        await broker.link.ack(3, multiple=True)
        outcomes = [type(await outcome(one)) for one in publications]
        assert outcomes == [Unroutable if n in returned else Receipt for n in (1, 2, 3)]


def with_headers(sent: Sent, headers: FieldTable) -> Sent:
    return replace(sent, message=sent.message.replace(headers=headers))


@pytest.mark.parametrize("returned", [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3)], ids=str)
async def test_a_return_with_sorted_headers_hits_its_publish(returned: tuple[int, ...]) -> None:
    """Invariant 3. RabbitMQ 4 returns the headers in the order of their names."""
    headers: list[FieldTable] = [{"z": n, "list": [{"y": n, "b": None}], "a": 1.5} for n in (1, 2, 3)]
    async with connected() as (broker, connection), connection.publisher() as publisher:
        publications = [
            await publisher.submit(Message(b"x", message_id="same", headers=each), routing_key="q") for each in headers
        ]
        await settled()
        sent = [broker.published[n - 1] for n in returned]
        await broker.link.give_back(
            *(with_headers(each, dict(sorted((each.message.headers or {}).items()))) for each in sent)
        )
        await broker.link.ack(3, multiple=True)
        outcomes = [type(await outcome(one)) for one in publications]
        assert outcomes == [Unroutable if n in returned else Receipt for n in (1, 2, 3)]


async def test_of_identical_publishes_as_many_fail_as_were_returned() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        message = Message(b"x", message_id="same")
        publications = [await publisher.submit(message, routing_key="q") for _ in range(4)]
        await settled()
        await broker.link.give_back(broker.published[1], broker.published[3])
        await broker.link.ack(4, multiple=True)
        outcomes = [type(await outcome(one)) for one in publications]
        assert (outcomes.count(Unroutable), outcomes.count(Receipt)) == (2, 2)


async def test_what_was_returned_gives_its_room_back() -> None:
    async with connected() as (broker, connection), connection.publisher(window=2) as publisher:
        for turn in (1, 2, 3):
            lost, kept = await submit(publisher, b"lost", b"kept", timeout=5)
            await broker.link.give_back(broker.published[-2])
            await broker.link.ack(2 * turn, multiple=True)
            assert [type(await outcome(one)) for one in (lost, kept)] == [Unroutable, Receipt]


async def test_a_return_never_hits_one_that_was_not_mandatory() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        message = Message(b"x", message_id="same")
        first = await publisher.submit(message, routing_key="q", mandatory=False)
        second = await publisher.submit(message, routing_key="q")
        await settled()
        await broker.link.give_back(broker.published[1])
        await broker.link.ack(2, multiple=True)
        assert isinstance(await outcome(first), Receipt)
        assert isinstance(await outcome(second), Unroutable)


@pytest.mark.parametrize("place", [("", "b"), ("logs", "a")], ids=["key", "exchange"])
async def test_a_return_hits_the_one_that_went_there(place: tuple[str, str]) -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        message = Message(b"x", message_id="same")
        here = await publisher.submit(message, exchange="", routing_key="a")
        there = await publisher.submit(message, exchange=place[0], routing_key=place[1])
        await settled()
        await broker.link.give_back(broker.published[1])
        await broker.link.ack(2, multiple=True)
        assert isinstance(await outcome(here), Receipt)
        error = await outcome(there)
        assert isinstance(error, Unroutable)
        assert (error.exchange, error.routing_key) == place


CHANGES: dict[str, tuple[Callable[[int], FieldTable], Callable[[FieldTable], FieldTable]]] = {
    "added": (lambda n: {"n": n}, lambda headers: {**headers, "x-routed-by": "rabbit@here"}),
    "removed": (lambda n: {"n": n, "BCC": ["elsewhere"]}, lambda headers: {"n": headers["n"]}),
    "replaced": (lambda n: {"n": n, "at": 0}, lambda headers: {**headers, "at": 1}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("returned", [1, 2, 3])
async def test_a_return_whose_headers_were_changed_hits_the_nearest(change: str, returned: int) -> None:
    """Invariant 3. RabbitMQ removes BCC from what it returns, and its interceptors may add headers."""
    sent_headers, changed = CHANGES[change]
    async with connected() as (broker, connection), connection.publisher() as publisher:
        publications = [
            await publisher.submit(Message(b"x", message_id="same", headers=sent_headers(n)), routing_key="q")
            for n in (1, 2, 3)
        ]
        await settled()
        sent = broker.published[returned - 1]
        await broker.link.give_back(with_headers(sent, changed(dict(sent.message.headers or {}))))
        await broker.link.ack(3, multiple=True)
        outcomes = [type(await outcome(one)) for one in publications]
        assert outcomes == [Unroutable if n == returned else Receipt for n in (1, 2, 3)]


async def test_a_return_whose_headers_were_changed_hits_the_one_with_its_body() -> None:
    """Invariant 3."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        publications = [
            await publisher.submit(Message(body, message_id="same"), routing_key="q") for body in (b"a", b"b")
        ]
        await settled()
        await broker.link.give_back(with_headers(broker.published[1], {"x-added": 1}))
        await broker.link.ack(2, multiple=True)
        assert [type(await outcome(one)) for one in publications] == [Receipt, Unroutable]


async def test_a_return_of_a_timed_out_publish_spares_its_repetition() -> None:
    """Invariant 3. The application publishes the same message again after a time-out; that one is routed."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        message = Message(b"x", message_id="same", headers={"n": 1})
        first = await publisher.submit(message, routing_key="q", timeout=1)
        assert isinstance(await outcome(first), PublishTimeout)
        second = await publisher.submit(message, routing_key="q")
        await settled()
        await broker.link.give_back(broker.published[0])
        await broker.link.ack(2, multiple=True)
        assert isinstance(await outcome(second), Receipt)


async def test_a_return_that_a_loss_made_void_counts_for_nothing() -> None:
    """Invariant 3: sent again and routed, it is in a queue."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        (publication,) = await submit(publisher, b"x")
        await broker.link.give_back(broker.published[0])
        await settled()
        await broker.link.reset()
        await connection.wait_ready(5)
        await settled()
        await broker.link.ack(1)
        assert (await publication).attempts == 2


# --- defaults -------------------------------------------------------------------------------------------------------

DEFAULTS = Properties(
    content_type="application/json",
    content_encoding="gzip",
    headers={"origin": "defaults", "shared": "defaults"},
    persistent=False,
    priority=3,
    expiration=60,
    type="kind",
    user_id="guest",
    app_id="billing",
)


async def published(broker: HandBroker, publisher: Publisher, message: Message) -> Sent:
    """Publish it; what the broker got."""
    await publisher.submit(message, routing_key="q")
    await settled()
    sent = broker.published[-1]
    await broker.link.ack(sent.tag)
    await publisher.flush()
    return sent


async def test_defaults_fill_in_what_a_message_does_not_say() -> None:
    async with connected() as (broker, connection), connection.publisher(defaults=DEFAULTS) as publisher:
        got = (await published(broker, publisher, Message(b"x", message_id="mine"))).message
        for name in ("content_type", "content_encoding", "headers", "persistent", "priority", "expiration", "type"):
            assert getattr(got, name) == getattr(DEFAULTS, name)
        assert (got.user_id, got.app_id, got.message_id) == ("guest", "billing", "mine")


async def test_a_message_wins_over_the_defaults() -> None:
    own = Message(
        b"x",
        content_type="text/plain",
        content_encoding="identity",
        persistent=True,
        priority=0,
        expiration=0,
        type="",
        user_id="alice",
        app_id="mine",
    )
    async with connected() as (broker, connection), connection.publisher(defaults=DEFAULTS) as publisher:
        got = (await published(broker, publisher, own)).message
        for name in ("content_type", "content_encoding", "persistent", "priority", "expiration", "type"):
            assert getattr(got, name) == getattr(own, name)
        assert (got.user_id, got.app_id) == ("alice", "mine")


async def test_headers_are_joined_and_the_messages_win() -> None:
    async with connected() as (broker, connection), connection.publisher(defaults=DEFAULTS) as publisher:
        got = (await published(broker, publisher, Message(b"x", headers={"own": 1, "shared": "message"}))).message
        assert got.headers == {"origin": "defaults", "shared": "message", "own": 1}
        assert DEFAULTS.headers == {"origin": "defaults", "shared": "defaults"}


async def test_without_defaults_a_message_is_persistent() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        assert (await published(broker, publisher, Message(b"x"))).message.persistent is True


async def test_a_publishers_exchange_and_mandatory_hold_unless_a_publish_says_otherwise() -> None:
    async with connected() as (broker, connection), connection.publisher(exchange="logs", mandatory=False) as publisher:
        await publisher.submit(Message(b"1"), routing_key="q")
        await publisher.submit(Message(b"2"), routing_key="q", exchange="", mandatory=True)
        await publisher.submit(Message(b"3"), routing_key="q", exchange="other")
        await settled()
        told = [(sent.method.exchange, sent.method.mandatory) for sent in broker.published]
        assert told == [("logs", False), ("", True), ("other", False)]
        await broker.link.ack(3, multiple=True)


WRONG: dict[str, Properties] = {
    "priority": Properties(priority=256),
    "app_id": Properties(app_id="x" * 256),
    "user_id": Properties(user_id="ü" * 128),
    "content_type": Properties(content_type="x" * 256),
    "expiration": Properties(expiration=-1),
    "headers": Properties(headers={"what": object()}),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_defaults_are_refused_when_the_publisher_is_made(name: str) -> None:
    async with connected() as (_, connection):
        with pytest.raises(InvalidArgument, match="what" if name == "headers" else name):
            connection.publisher(defaults=WRONG[name])


async def test_a_message_that_is_too_large_with_the_defaults_fails_alone() -> None:
    """Its headers and the publisher's fit a frame each, but not together."""
    large = Properties(headers={"defaults": "x" * 80_000})
    async with connected() as (broker, connection), connection.publisher(defaults=large) as publisher:
        with pytest.raises(InvalidArgument, match="must fit one frame"):
            await publisher.publish(Message(b"x", headers={"own": "x" * 80_000}), routing_key="q")
        assert (await published(broker, publisher, Message(b"small"))).message.body == b"small"


# --- who is to blame for a closed channel ---------------------------------------------------------------------------

NO_EXCHANGE = methods.Channel.Close(404, "NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40)
"""Names basic.publish."""
NO_METHOD = methods.Channel.Close(406, "PRECONDITION_FAILED - who knows", 0, 0)
PAUSE = 0.5
"""Seconds in which a publisher whose channel was closed for the second or third time in a row has opened another."""


async def test_a_lone_publish_that_meets_three_closes_which_name_nothing_is_blamed() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        (publication,) = await submit(publisher, b"x")
        for times in (1, 2):
            await broker.link.close_channel(NO_METHOD)
            await anyio.sleep(PAUSE)
            assert (publication.is_settled, len(broker.published)) == (False, times + 1)
        await broker.link.close_channel(NO_METHOD)
        error = await outcome(publication)
        assert isinstance(error, PreconditionFailed)
        assert error.text == "PRECONDITION_FAILED - who knows"
        assert len(broker.published) == 3
        await anyio.sleep(PAUSE)
        (later,) = await submit(publisher, b"later")
        await broker.link.ack(1)
        assert (await later).attempts == 1


async def test_a_lone_publish_that_is_confirmed_after_two_closes_is_innocent() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        (publication,) = await submit(publisher, b"x")
        for _ in range(2):
            await broker.link.close_channel(NO_METHOD)
            await anyio.sleep(PAUSE)
        await broker.link.ack(1)
        assert (await publication).attempts == 3


async def test_a_lone_publish_that_the_close_names_is_blamed_at_once() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        (publication,) = await submit(publisher, b"x")
        await broker.link.close_channel(NO_EXCHANGE)
        error = await outcome(publication)
        assert isinstance(error, NotFound)
        assert len(broker.published) == 1


async def test_losses_of_the_link_are_no_reason_to_blame_a_publish() -> None:
    """They are the network's doing, and so is its third attempt."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        (publication,) = await submit(publisher, b"x")
        for _ in range(4):
            await broker.link.reset()
            await anyio.sleep(2)
        await broker.link.close_channel(NO_METHOD)
        assert not publication.is_settled
        await broker.link.ack(1)
        assert (await publication).attempts == 6


async def test_nacks_are_no_reason_to_blame_a_publish_for_a_closed_channel() -> None:
    async with connected() as (broker, connection), connection.publisher(retry_nacked=True) as publisher:
        (publication,) = await submit(publisher, b"x")
        await nack_all(broker, 3)
        await broker.link.close_channel(NO_METHOD)
        assert not publication.is_settled
        await broker.link.ack(1)
        assert (await publication).attempts == 5


async def test_of_several_the_one_that_closes_the_channel_alone_again_and_again_is_blamed() -> None:
    """Invariant 5: the others are confirmed, in order."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        publications = await submit(publisher, b"a", b"guilty", b"c")

        async def answer() -> list[bytes]:
            """Confirm one publish after the other, but for the guilty one, which costs what came with it."""
            accepted: list[bytes] = []
            seen = len(broker.published)
            await broker.link.close_channel(NO_METHOD)
            while len(accepted) < 2:
                sent = broker.published[seen]
                if sent.message.body == b"guilty":
                    seen = len(broker.published)
                    await broker.link.close_channel(NO_METHOD)
                    await anyio.sleep(PAUSE)
                else:
                    seen += 1
                    accepted.append(sent.message.body)
                    await broker.link.ack(sent.tag)
                    await settled()
            return accepted

        assert await answer() == [b"a", b"c"]
        outcomes = [await outcome(one) for one in publications]
        assert [isinstance(one, ReplyError) for one in outcomes] == [False, True, False]
        assert broker.bodies().count(b"guilty") == 1 + 3


# --- channel.flow ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_publishers() -> AsyncGenerator[tuple[HandBroker, Connection, Publisher, Publisher], None]:
    """Two publishers, on channels 1 and 2."""
    async with (
        connected() as (broker, connection),
        connection.publisher() as one,
        connection.publisher() as other,
    ):
        yield broker, connection, one, other


async def test_flow_stops_and_starts_the_publishes_of_its_channel_alone() -> None:
    """Invariant 5. AMQP 0-9-1, channel.flow."""
    async with two_publishers() as (broker, connection, one, other):
        await broker.link.flow(1, active=False)
        assert broker.link.flow_oks == [False]
        await submit(one, b"a", b"b")
        await submit(other, b"x")
        assert (broker.link.bodies(1), broker.link.bodies(2)) == ([], [b"x"])
        assert connection.state is State.OPEN
        await broker.link.flow(1, active=True)
        assert broker.link.flow_oks == [False, True]
        assert broker.link.bodies(1) == [b"a", b"b"]
        await broker.link.ack(2, multiple=True, channel=1)
        await broker.link.ack(1, channel=2)


async def test_flow_shows_in_the_transitions_of_its_channel() -> None:
    seen: list[Transition] = []

    async def watch(connection: Connection) -> None:
        async for transition in connection.transitions():
            seen.append(transition)  # noqa: PERF401 - looked at before the end

    async with anyio.create_task_group() as tasks, two_publishers() as (broker, connection, _, _):
        tasks.start_soon(watch, connection)
        await settled()
        await broker.link.flow(2, active=False)
        await broker.link.flow(2, active=True)
        assert len({transition.machine for transition in seen}) == 1
        assert [(transition.source, transition.event, transition.target) for transition in seen] == [
            (State.OPEN, ChannelEvent.STOPPED, State.BLOCKED),
            (State.BLOCKED, ChannelEvent.STARTED, State.OPEN),
        ]
        assert seen[0].machine.startswith("channel ")


async def test_flow_said_twice_is_answered_twice_and_changes_once() -> None:
    async with two_publishers() as (broker, connection, one, _):
        for active in (False, False, True, True):
            await broker.link.flow(1, active=active)
        assert broker.link.flow_oks == [False, False, True, True]
        assert connection.state is State.OPEN
        await submit(one, b"a")
        assert broker.link.bodies(1) == [b"a"]
        await broker.link.ack(1)


async def test_flow_stops_a_publish_until_its_deadline() -> None:
    async with two_publishers() as (broker, _, one, _):
        await broker.link.flow(1, active=False)
        waiting = Waiting(one, b"x", timeout=30)
        await waiting.run()
        assert waiting.seconds == 30
        assert isinstance(waiting.error, PublishTimeout)
        assert not waiting.error.sent


async def test_a_link_that_is_lost_ends_the_flow_stop() -> None:
    async with two_publishers() as (broker, connection, one, _):
        await broker.link.flow(1, active=False)
        await submit(one, b"a")
        await broker.link.reset()
        await connection.wait_ready(5)
        await settled()
        assert broker.link.bodies(1) == [b"a"]
        await broker.link.ack(1)


async def end_the_flow_stop(link: ServedLink) -> None:
    await link.flow(1, active=True)


@pytest.mark.parametrize(
    "ends",
    [(ServedLink.unblock, end_the_flow_stop), (end_the_flow_stop, ServedLink.unblock)],
    ids=["block first", "flow first"],
)
async def test_a_channel_that_is_stopped_by_both_waits_for_both(
    ends: Sequence[Callable[[ServedLink], Awaitable[None]]],
) -> None:
    async with two_publishers() as (broker, _, one, _):
        await broker.link.flow(1, active=False)
        await broker.link.block()
        await submit(one, b"a")
        await ends[0](broker.link)
        assert broker.bodies() == []
        await ends[1](broker.link)
        assert broker.bodies() == [b"a"]
        await broker.link.ack(1)
