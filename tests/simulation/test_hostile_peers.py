"""A broker that floods, lies or does not read, over a transport in memory: memory stays bounded and nothing hangs.

Invariants 11 and 12.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio.testing

import anyamqp
from anyamqp import Blame, Channel, Connection, Consumer, Delivery, Message, PreconditionFailed, Settings, State
from anyamqp.net.link import HIGH_WATER
from anyamqp.testing.memory import CAPACITY, MemoryStream, stream_pair
from anyamqp.wire import methods
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import HEARTBEAT_FRAME, HeartbeatFrame, ProtocolHeader, build, encode_method
from anyamqp.wire.methods import Method
from support.amqp import content
from support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]  # long, and it covers nothing that others do not

FRAME_MAX: Final = 131072
MIB: Final = 1024 * 1024
MOST_READ: Final = 2 * MIB
"""The most bytes of a flood that a client reads while the peer reads none of its answers."""

START: Final = methods.Connection.Start(0, 9, {"product": "hostile"}, "PLAIN", "en_US")
ANSWERS: Final[dict[type[object], Method]] = {
    ProtocolHeader: START,
    methods.Connection.Open: methods.Connection.OpenOk(),
    methods.Connection.Close: methods.Connection.CloseOk(),
    methods.Channel.Open: methods.Channel.OpenOk(),
    methods.Channel.Close: methods.Channel.CloseOk(),
    methods.Basic.Qos: methods.Basic.QosOk(),
    methods.Basic.Consume: methods.Basic.ConsumeOk("c"),
    methods.Basic.Cancel: methods.Basic.CancelOk("c"),
    methods.Confirm.Select: methods.Confirm.SelectOk(),
    methods.Queue.Declare: methods.Queue.DeclareOk("q", 0, 0),
    methods.Tx.Select: methods.Tx.SelectOk(),
    methods.Tx.Commit: methods.Tx.CommitOk(),
}


class Peer:
    """The broker's end of one link: it answers until a test has it flood.

    Attributes:
        heard: the methods that it read after the handshake.
        flooded: how many bytes of floods the client has read.
        heartbeats: how many heartbeats it has read.
        is_flooding: whether floods go on; set by a test.
    """

    def __init__(self, stream: MemoryStream, heartbeat: int) -> None:
        self.heard: list[Method] = []
        self.flooded = 0
        self.heartbeats = 0
        self.is_flooding = True
        self._stream = stream
        self._heartbeat = heartbeat
        self._allowance = math.inf
        self._changed = anyio.Event()
        self._sending = anyio.Lock()

    def take(self, count: float) -> None:
        """Read so many bytes from now on, and perhaps one more piece."""
        self._allowance = count
        self._changed.set()
        self._changed = anyio.Event()

    def count(self, kind: type[Method]) -> int:
        """How often a method came."""
        return sum(isinstance(method, kind) for method in self.heard)

    async def tell(self, *data: bytes) -> None:
        """Send bytes as they are."""
        async with self._sending:
            await self._stream.send(b"".join(data))

    async def flood(self, data: bytes) -> None:
        """Send the same again and again, until the client is gone."""
        try:
            while self.is_flooding:
                await self.tell(data)
                self.flooded += len(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def flood_after(self, first: bytes, data: bytes) -> None:
        """Send some frames first, then flood."""
        await self.tell(first)
        await self.flood(data)

    async def serve(self) -> None:
        """Answer requests, as long as it reads."""
        decoder = Decoder(FRAME_MAX, as_server=True)
        while True:
            while self._allowance <= 0:
                await self._changed.wait()
            try:
                data = await self._stream.receive(16 * 1024)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            self._allowance -= len(data)
            decoder.feed(data)
            for channel, payload in decoder.frames():
                if isinstance(payload, methods.Connection.StartOk):
                    await self.tell(encode_method(0, methods.Connection.Tune(2047, FRAME_MAX, self._heartbeat)))
                elif isinstance(payload, HeartbeatFrame):
                    self.heartbeats += 1
                elif isinstance(payload, Method | ProtocolHeader):
                    if isinstance(payload, Method):
                        self.heard.append(payload)
                    if (answer := ANSWERS.get(type(payload))) is not None:
                        await self.tell(encode_method(channel, answer))


class Peers:
    """The peers of all links of a test."""

    def __init__(self, tasks: anyio.abc.TaskGroup, *, heartbeat: int = 0) -> None:
        self.all: list[Peer] = []
        self._tasks = tasks
        self._heartbeat = heartbeat

    @property
    def latest(self) -> Peer:
        return self.all[-1]

    async def dial(self, _: object) -> anyio.abc.ByteStream:
        ours, theirs = stream_pair()
        self.all.append(Peer(ours, self._heartbeat))
        self._tasks.start_soon(self.latest.serve)
        return theirs

    async def stop_taking(self, channel: Channel, size: int = 2 * CAPACITY) -> None:
        """Make the latest peer stop reading, and send it a message that fills its transport."""
        self.latest.take(0)
        await channel.publish(Message(bytes(size)))
        await still()

    def flood(self, *frames: bytes) -> None:
        """Make the latest peer stop reading and send these frames for ever."""
        self.latest.take(0)
        once = b"".join(frames)
        self._tasks.start_soon(self.latest.flood, once * (64 * 1024 // len(once) + 1))


@asynccontextmanager
async def connected(
    *, heartbeat: int = 0, close_timeout: float = 0.1
) -> AsyncGenerator[tuple[Peers, Connection], None]:
    """Peers, and a connection to the first of them."""
    async with anyio.create_task_group() as tasks:
        peers = Peers(tasks, heartbeat=heartbeat)
        settings = replace(
            Settings.from_urls("amqp://guest:guest@memory/"),
            heartbeat=heartbeat,
            close_timeout=close_timeout,
        )
        async with anyamqp.connect(settings, dial=peers.dial) as connection:
            yield peers, connection
        tasks.cancel_scope.cancel()


async def still() -> None:
    """Wait until all tasks wait: the flood waits for the client to read."""
    with anyio.fail_after(60):
        await anyio.wait_all_tasks_blocked()


def delivery(channel: int, body: bytes = b"", **properties: Any) -> bytes:
    """A delivery, always with the same tag."""
    return content(channel, build(methods.Basic.Deliver, "c", 1, exchange="", routing_key="q"), body, **properties)


# --- output that we owe -----------------------------------------------------------------------------------------------

FLOW: Final = encode_method(1, methods.Channel.Flow(active=True))


ALMOST_ALL: Final = CAPACITY + HIGH_WATER - 64 * 1024
"""Bytes that leave room for some thousand answers, so that the tests need not fill it with answers alone."""


async def test_reading_stops_while_answers_to_a_flood_are_not_taken() -> None:
    async with connected() as (peers, connection), connection.channel() as channel:
        await peers.stop_taking(channel, ALMOST_ALL)
        peers.flood(FLOW)
        await still()
        assert peers.latest.flooded < MOST_READ
        assert connection.state is State.OPEN


async def test_reading_goes_on_when_the_answers_are_taken() -> None:
    async with connected() as (peers, connection), connection.channel() as channel:
        await peers.stop_taking(channel, ALMOST_ALL)
        peers.flood(FLOW)
        await still()
        peers.latest.is_flooding = False
        peers.latest.take(math.inf)
        with anyio.fail_after(60):
            assert (await channel.declare_queue("q")).name == "q"
        await eventually(lambda: len(FLOW) * peers.latest.count(methods.Channel.FlowOk) == peers.latest.flooded)


async def test_close_is_answered_although_reading_had_stopped() -> None:
    async with (
        connected(close_timeout=30) as (peers, connection),
        connection.channel() as channel,
        anyio.create_task_group() as tasks,
    ):
        await peers.stop_taking(channel, ALMOST_ALL)
        peers.flood(FLOW)
        await still()
        peers.latest.is_flooding = False
        tasks.start_soon(connection.close)
        await still()
        peers.latest.take(math.inf)
        with anyio.fail_after(60):
            await connection.wait_closed()
        assert connection.stats.last_error is None


class Echo:
    """A mechanism that answers with the challenge."""

    name = "PLAIN"

    def start(self) -> bytes:
        return b""

    def answer(self, challenge: bytes) -> bytes:
        return challenge


async def test_reading_stops_while_answers_to_challenges_are_not_taken() -> None:
    async def dial(_: object) -> anyio.abc.ByteStream:
        ours, theirs = stream_pair()
        peers.append(Peer(ours, 0))
        secure = encode_method(0, methods.Connection.Secure(8192 * "?"))
        tasks.start_soon(peers[-1].flood_after, encode_method(0, START), secure * 8)
        return theirs

    async def connect() -> None:
        async with anyamqp.connect(replace(Settings(), credentials=Echo(), close_timeout=0.1), dial=dial):
            pass

    peers: list[Peer] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        await still()
        assert peers[0].flooded < MOST_READ
        tasks.cancel_scope.cancel()


async def test_reading_stops_while_settlements_are_not_taken() -> None:
    async with (
        connected() as (peers, connection),
        connection.consumer("q", prefetch=0, consumer_tag="c") as consumer,
        connection.channel() as channel,
        anyio.create_task_group() as tasks,
    ):

        async def work() -> None:
            async for one in consumer:
                one.reject()

        tasks.start_soon(work)
        await peers.stop_taking(channel)
        peers.flood(delivery(1))
        await still()
        assert peers.latest.flooded < 5 * MOST_READ  # a delivery is longer than what settles it
        tasks.cancel_scope.cancel()


async def test_reading_pauses_while_late_deliveries_cannot_be_requeued() -> None:
    async with connected() as (peers, connection), connection.consumer("q", consumer_tag="c") as consumer:
        await consumer.stop()
        peers.flood(delivery(1))
        await still()
        assert peers.latest.flooded < 5 * MOST_READ


class TestDeadPeer:
    """Invariant 9, in virtual time."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, object]]:
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}

    async def test_a_flooding_peer_that_reads_nothing_is_given_up(self) -> None:
        async with connected(heartbeat=10) as (peers, connection), connection.channel() as channel:
            await peers.stop_taking(channel, ALMOST_ALL)
            flooded_at = anyio.current_time()
            peers.flood(FLOW)
            await eventually(lambda: connection.stats.link_number > 1, within=100, every=0.5)
            assert anyio.current_time() - flooded_at < 26
            assert "has read nothing for two heartbeat intervals (20 s)" in str(connection.stats.last_error)

    async def test_who_takes_its_answers_slowly_is_not_given_up(self) -> None:
        async with connected(heartbeat=10) as (peers, connection), connection.channel() as channel:
            await peers.stop_taking(channel)
            for _ in range(4):
                await channel.publish(Message(bytes(2 * CAPACITY)))
                await anyio.sleep(15)
                await peers.latest.tell(HEARTBEAT_FRAME)
                peers.latest.take(2 * CAPACITY)
                await still()
            assert connection.stats.link_number == 1

    async def test_heartbeats_that_cannot_leave_do_not_pile_up(self) -> None:
        async with connected(heartbeat=1) as (peers, connection), connection.channel() as channel:
            await peers.stop_taking(channel)
            for _ in range(1000):
                await peers.latest.tell(HEARTBEAT_FRAME)
                await anyio.sleep(1)
            assert connection.stats.link_number == 1
            peers.latest.take(math.inf)
            await anyio.wait_all_tasks_blocked()
            assert peers.latest.heartbeats < 5


# --- lines in the log -------------------------------------------------------------------------------------------------


async def test_a_flood_of_unknown_confirms_is_counted_and_not_logged_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as (peers, connection), connection.publisher():
        await peers.latest.tell(encode_method(1, methods.Basic.Ack(77)) * 5000)
        await eventually(lambda: connection.stats.unknown_confirms == 5000)
        assert caplog.text.count("which nothing waits for") == 20
    assert "... and 4980 more like it" in caplog.text


# --- more deliveries than the prefetch allows -------------------------------------------------------------------------


def deliveries(channel: int, first: int, count: int, body: bytes = b"", **properties: Any) -> bytes:
    """So many deliveries, with tags that count on from ``first``."""
    return b"".join(
        content(channel, build(methods.Basic.Deliver, "c", tag, exchange="", routing_key="q"), body, **properties)
        for tag in range(first, first + count)
    )


async def feed(peer: Peer, number: int, consumer: Consumer, settle: Callable[[Delivery], object], most: int) -> int:
    """Deliver to a consumer in tens, newest settled first, until it fails. Returns how many it took before."""
    for first in range(1, most, 10):
        await peer.tell(deliveries(number, first, 10))
        try:
            ten = [await anext(consumer) for _ in range(10)]
        except PreconditionFailed:
            return first - 1
        for one in reversed(ten):
            settle(one)
        await anyio.lowlevel.checkpoint()
    return most


async def test_deliveries_far_beyond_the_prefetch_close_the_channel() -> None:
    async with (
        connected() as (peers, connection),
        connection.channel() as other,
        connection.consumer("q", prefetch=10, consumer_tag="c") as consumer,
    ):
        await peers.latest.tell(deliveries(2, 1, 1000))
        with pytest.raises(PreconditionFailed, match=r"delivered 1000 messages .* whose prefetch is 10 ") as caught:
            await anext(consumer)
        assert caught.value.blame is Blame.BROKER
        await eventually(lambda: peers.latest.count(methods.Channel.Close) == 1)
        (close,) = [method for method in peers.latest.heard if isinstance(method, methods.Channel.Close)]
        assert (close.reply_code, connection.stats.link_number) == (406, 1)
        assert (await other.declare_queue("q")).name == "q"


async def test_deliveries_that_are_taken_and_not_settled_count_as_well() -> None:
    async with connected() as (peers, connection), connection.consumer("q", prefetch=10, consumer_tag="c") as consumer:
        assert 10 < await feed(peers.latest, 1, consumer, repr, 10_000) < 200


@pytest.mark.parametrize("settle", [Delivery.ack, Delivery.nack, Delivery.reject], ids=["ack", "nack", "reject"])
async def test_a_consumer_that_settles_is_never_over_its_prefetch(settle: Callable[[Delivery], None]) -> None:
    async with connected() as (peers, connection), connection.consumer("q", prefetch=10, consumer_tag="c") as consumer:
        assert await feed(peers.latest, 1, consumer, settle, 2000) == 2000


async def test_a_consumer_that_settles_many_at_once_is_never_over_its_prefetch() -> None:
    async with connected() as (peers, connection), connection.consumer("q", prefetch=10, consumer_tag="c") as consumer:

        def settle(delivery: Delivery) -> None:
            if not delivery.is_settled:
                delivery.ack(multiple=True)

        assert await feed(peers.latest, 1, consumer, settle, 2000) == 2000


async def test_acks_that_the_broker_does_not_take_settle_nothing() -> None:
    async with (
        connected() as (peers, connection),
        connection.channel() as channel,
        connection.consumer("q", prefetch=10, consumer_tag="c") as consumer,
    ):
        await peers.stop_taking(channel)
        assert await feed(peers.latest, 2, consumer, Delivery.ack, 10_000) < 200


async def test_a_stream_that_delivers_whole_chunks_is_slowed_down_instead() -> None:
    """RabbitMQ delivers from a stream chunk by chunk, whatever the prefetch."""
    async with connected() as (peers, connection), connection.consumer("q", prefetch=10, consumer_tag="c") as consumer:
        chunk = deliveries(1, 1, 5000, bytes(1000), headers={"x-stream-offset": 1})
        sent = anyio.Event()

        async def send() -> None:
            await peers.latest.tell(chunk)
            sent.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await still()
            assert not sent.is_set()
            for _ in range(5000):
                (await anext(consumer)).ack()
        assert consumer.is_consuming


# --- work, and what is kept -------------------------------------------------------------------------------------------


async def test_others_get_their_turn_while_a_flood_is_worked_off() -> None:
    """Invariant 12: a long piece of a flood does not block the event loop."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with connected() as (peers, connection), AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        for _ in range(50):
            await stack.enter_async_context(connection.publisher())
        channel = await stack.enter_async_context(connection.channel())
        flap = encode_method(0, methods.Connection.Blocked("low")) + encode_method(0, methods.Connection.Unblocked())
        await peers.latest.tell(flap * 100)
        tasks.start_soon(take_turns)
        assert (await channel.declare_queue("q")).name == "q"
        assert turns > 20
        tasks.cancel_scope.cancel()


async def test_no_more_messages_are_returned_to_a_transaction_than_it_published() -> None:
    """Invariant 11."""
    returned = content(1, build(methods.Basic.Return, 312, "NO_ROUTE", "", "q"), b"x")

    async def publish(peer: Peer, channel: Channel) -> None:
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"x"), routing_key="q")
            await peer.tell(returned * 500)

    async with connected() as (peers, connection), connection.channel() as channel:
        with pytest.raises(ExceptionGroup) as caught:
            await publish(peers.latest, channel)
        assert len(caught.value.exceptions) == 1
