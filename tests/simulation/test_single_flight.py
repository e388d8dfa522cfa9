"""A hundred tasks on one connection that is cut at random moments, in virtual time.

Invariants 1 to 8 of the design at once: at most one dial and one live transport (1), every publish has one outcome (3),
what was confirmed is delivered (4), first appearances are in order (5), the channel counts agree (6), nothing is left
afterwards (7), no ack crosses links (8: a wrong tag would close the channel with 406). Invariant 2 is the tables' own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import anyio
import anyio.abc
import pytest
import trio.testing

import anyamqp
from anyamqp import Address, Connection, ConnectionEvent, Message, ReconnectPolicy, State
from anyamqp.testing import Broker
from support.waiting import eventually, running_tasks

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]  # long, and it covers nothing that others do not

URL = "amqp://guest:guest@memory/?heartbeat=10"
TASKS = 100
MESSAGES = 8


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Counted(anyio.abc.ByteStream):
    """A transport that says when it is closed."""

    def __init__(self, inner: anyio.abc.ByteStream, dialer: Dialer) -> None:
        self._inner = inner
        self._dialer = dialer
        self._is_open = True

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        if self._is_open:
            self._is_open = False
            self._dialer.live -= 1
        await self._inner.aclose()


@dataclass
class Dialer:
    """Dials over memory, and counts: dials under way, and transports not yet closed."""

    broker: Broker
    live: int = 0
    under_way: int = 0
    most_under_way: int = 0
    most_live: int = 0
    times: list[float] = field(default_factory=list[float])

    async def __call__(self, address: Address) -> anyio.abc.ByteStream:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.times.append(anyio.current_time())
        try:
            await anyio.sleep(0.01)
            stream = await self.broker.dial(address)
        finally:
            self.under_way -= 1
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        return Counted(stream, self)


async def cut(broker: Broker, random: Random, times: int) -> None:
    for _ in range(times):
        await anyio.sleep(random.expovariate(1 / 3))
        fault = random.choice(["reset", "freeze", "stop", "refuse", "close"])
        if fault == "reset":
            broker.reset_connections()
        elif fault == "freeze":
            broker.freeze()
            await anyio.sleep(random.uniform(0, 60))
            broker.thaw()
        elif fault == "stop":
            broker.stop()
            await anyio.sleep(random.uniform(0, 20))
            await broker.start()
        elif fault == "refuse":
            broker.refuse()
            broker.reset_connections()
            await anyio.sleep(random.uniform(0, 20))
            broker.accept()
        else:
            broker.close_connections(320, "CONNECTION_FORCED - simulated")


@pytest.mark.parametrize("seed", range(6))
async def test_hundred_tasks_share_a_connection_that_is_cut_at_random_moments(seed: int) -> None:
    random = Random(seed)
    delivered: list[bytes] = []
    confirmed: set[bytes] = set()
    async with Broker(heartbeat=10.0) as broker:
        dialer = Dialer(broker)
        before = running_tasks()
        async with anyamqp.connect(URL, dial=dialer) as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("q")
            async with connection.publisher(window=32) as publisher, anyio.create_task_group() as tasks:

                async def worker(name: int) -> None:
                    for number in range(MESSAGES):
                        body = f"{name}:{number}".encode()
                        await publisher.publish(Message(body), routing_key="q", timeout=None)
                        confirmed.add(body)
                        await anyio.sleep(random.uniform(0, 3))

                async def reader() -> None:
                    async with connection.consumer("q", prefetch=7) as consumer:
                        async for delivery in consumer:
                            await anyio.sleep(random.uniform(0, 0.01))
                            delivered.append(delivery.body)
                            delivery.ack()

                tasks.start_soon(reader)
                async with anyio.create_task_group() as workers:
                    workers.start_soon(cut, broker, random, 15)
                    for name in range(TASKS):
                        workers.start_soon(worker, name)
                await eventually(lambda: set(delivered) == confirmed, within=600, every=0.1)
                tasks.cancel_scope.cancel()
            await connection.wait_ready(60)
            await eventually(lambda: broker.channel_count == connection.stats.open_channels == 0)
            stats = connection.stats
        # The broker's side of the last connection may still be about to end.
        await eventually(lambda: running_tasks() <= before and broker.connection_count == 0)

    assert len(confirmed) == TASKS * MESSAGES
    assert (dialer.most_under_way, dialer.most_live, dialer.live) == (1, 1, 0)
    assert stats.reconnects > 0
    assert stats.dials == len(dialer.times)
    order: dict[bytes, list[int]] = defaultdict(list)
    for body in dict.fromkeys(delivered):
        sender, number = body.split(b":")
        order[sender].append(int(number))
    assert all(numbers == sorted(numbers) for numbers in order.values())


async def test_dials_are_spaced_by_the_policy_while_the_broker_is_away() -> None:
    """Invariant 10: never a hot loop."""
    policy = ReconnectPolicy(first=0.0, jitter=0.0)
    async with Broker() as broker:
        dialer = Dialer(broker)
        async with anyamqp.connect(URL, dial=dialer, reconnect=policy) as connection:
            await anyio.sleep(10)
            broker.refuse()
            broker.reset_connections()
            lost_at = anyio.current_time()
            await anyio.sleep(25)
            assert dialer.times[1] == lost_at
            assert waits_of(dialer.times[1:]) == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
            broker.accept()
            await connection.wait_ready(60)


async def test_broker_that_accepts_and_drops_is_met_with_growing_waits() -> None:
    """Invariant 10. What the broker answers during recovery is no work."""
    policy = ReconnectPolicy(first=0.0, jitter=0.0)
    async with Broker() as broker, anyio.create_task_group() as tasks:
        dialer = Dialer(broker)
        async with (
            anyamqp.connect(URL, dial=dialer, reconnect=policy) as connection,
            connection.channel() as channel,
        ):
            await channel.declare_queue("q")
            await anyio.sleep(10)
            tasks.start_soon(drop_what_opens, broker, connection)
            await anyio.sleep(25)
            tasks.cancel_scope.cancel()
        assert waits_of(dialer.times[1:]) == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


async def drop_what_opens(broker: Broker, connection: Connection) -> None:
    """Cut the connection, now and as soon as it is back, each time."""
    broker.reset_connections()
    async for transition in connection.transitions():
        if transition.event is ConnectionEvent.OPENED:
            broker.reset_connections()


def waits_of(dials: list[float]) -> list[float]:
    """The seconds between dials, each of which takes 0.01."""
    return [round(later - earlier - 0.01, 3) for earlier, later in pairwise(dials)]


async def test_connection_that_works_is_never_away_for_long_however_often_it_is_reset() -> None:
    """Resets every 0.3 s, of links that live shorter than ``stable_after``."""
    away: list[float] = []
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=Dialer(broker)) as connection,
        connection.publisher() as publisher,
        anyio.create_task_group() as tasks,
    ):

        async def publish() -> None:
            while True:
                await publisher.publish(Message(b"x"), routing_key="q", mandatory=False)
                await anyio.sleep(0.05)

        async def watch() -> None:
            lost_at = 0.0
            async for transition in connection.transitions():
                if transition.event is ConnectionEvent.LOST:
                    lost_at = transition.at
                elif transition.event is ConnectionEvent.OPENED:
                    away.append(transition.at - lost_at)

        tasks.start_soon(publish)
        tasks.start_soon(watch)
        for _ in range(100):
            await anyio.sleep(0.3)
            broker.reset_connections()
        await connection.wait_ready(10)
        tasks.cancel_scope.cancel()
    assert len(away) >= 99
    assert max(away) < 0.2


@dataclass
class Fleet:
    """Many connections of one process to one broker."""

    broker: Broker
    dials: list[float] = field(default_factory=list[float])
    connections: list[Connection] = field(default_factory=list[Connection])
    back: list[float] = field(default_factory=list[float])

    async def dial(self, address: Address) -> anyio.abc.ByteStream:
        self.dials.append(anyio.current_time())
        return await self.broker.dial(address)

    async def client(self) -> None:
        async with anyamqp.connect(URL, dial=self.dial) as connection:
            self.connections.append(connection)
            async for transition in connection.transitions():
                if transition.event is ConnectionEvent.OPENED:
                    self.back.append(transition.at)

    def peak(self, *, since: float = 0.0) -> int:
        """The most dials within a tenth of a second."""
        return max(Counter(int(at * 10) for at in self.dials if at >= since).values())


@pytest.mark.timeout(300)
async def test_many_connections_come_back_within_the_cap_and_not_all_at_once() -> None:
    """Invariants 10 and 14: the first connects, a loss that all notice, an outage, and the return."""
    clients = 150
    async with Broker() as broker, anyio.create_task_group() as tasks:
        fleet = Fleet(broker)
        for _ in range(clients):
            tasks.start_soon(fleet.client)
        await eventually(lambda: len(fleet.connections) == clients, within=60, every=1)
        broker.stop()
        await anyio.sleep(15)
        await broker.start()
        back_at = anyio.current_time()
        await eventually(lambda: len(fleet.back) == clients, within=120, every=1)
        assert all(connection.state is State.OPEN for connection in fleet.connections)
        assert max(fleet.back) - back_at <= ReconnectPolicy().maximum + 0.1
        assert fleet.peak() <= 51
        assert fleet.peak(since=back_at) <= 20
        tasks.cancel_scope.cancel()
