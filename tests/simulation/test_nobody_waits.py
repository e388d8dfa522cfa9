"""Invariant 13 after a loss: what the broker does not answer delays no other, and is named. In virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
import trio.testing

import anyamqp
from anyamqp import Address, Connection, Message, ReconnectPolicy, State
from anyamqp.testing import Broker
from support.tampered import Tampered
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
AT_ONCE = ReconnectPolicy(first=0.0, initial=0.01, maximum=0.01, stable_after=0.0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class DeafBroker:
    """A broker that works on a channel no more once that has asked for certain entities.

    Attributes:
        needle: in the frames that ask for them; None to let everything pass.
    """

    def __init__(self, broker: Broker) -> None:
        self.needle: bytes | None = None
        self.broker = broker

    async def dial(self, _: Address) -> anyio.abc.ByteStream:
        stuck: set[bytes] = set()

        def take(data: bytes) -> bytes:
            taken = b""
            while data and not data.startswith(b"AMQP"):
                size = 8 + int.from_bytes(data[3:7], "big")  # AMQP 0-9-1, 4.2.3: type, channel, size, payload, end
                frame, data = data[:size], data[size:]
                if self.needle is not None and self.needle in frame:
                    stuck.add(frame[1:3])
                if frame[1:3] not in stuck:
                    taken += frame
            return taken + data

        return Tampered(await self.broker.dial(), take)

    async def lose(self, connection: Connection, needle: bytes | None) -> float:
        """Lose the link, hear no more of what holds ``needle``, and return the seconds until the connection is OPEN."""
        self.needle, reconnects = needle, connection.stats.reconnects
        self.broker.reset_connections()
        lost_at = anyio.current_time()
        await eventually(lambda: connection.stats.reconnects > reconnects)
        assert connection.state is State.OPEN
        return anyio.current_time() - lost_at


@asynccontextmanager
async def deaf() -> AsyncGenerator[tuple[DeafBroker, Connection]]:
    async with Broker() as broker:
        case = DeafBroker(broker)
        async with anyamqp.connect(URL, dial=case.dial, reconnect=AT_ONCE) as connection:
            yield case, connection


async def test_a_queue_without_an_answer_delays_the_connection_by_half_a_second() -> None:
    async with deaf() as (case, connection), connection.channel() as channel, connection.publisher() as publisher:
        await channel.declare_queue("late")
        await channel.declare_queue("well")
        await channel.bind_queue("late", "amq.topic", "l")
        await channel.bind_queue("well", "amq.topic", "w")
        async with connection.consumer("late") as late, connection.consumer("well") as well:
            assert await case.lose(connection, b"late") == pytest.approx(0.5, abs=0.1)
            await publisher.publish(Message(b"meanwhile"), routing_key="well", timeout=1)
            async with await anext(well) as delivery:
                assert delivery.body == b"meanwhile"
            assert not late.is_consuming
            assert connection.stats.not_back == (
                "queue 'late': the broker does not answer",
                "queue binding from exchange 'amq.topic' to 'late' with routing key 'l': waits for queue 'late'",
                "consumer of queue 'late': waits for queue 'late'",
            )
            with pytest.raises(anyamqp.ReadyTimeout, match=r"still OPEN: not back: queue 'late': the broker does not"):
                await connection.wait_ready(5)
            await case.lose(connection, None)
            await connection.wait_ready(1)
            assert late.is_consuming
            assert connection.stats.not_back == ()


async def test_a_channel_without_an_answer_delays_the_connection_by_half_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with deaf() as (case, connection), connection.channel() as channel, connection.publisher() as publisher:
        await channel.declare_queue("q")
        async with connection.consumer("q", consumer_tag="late") as consumer:
            assert await case.lose(connection, b"late") == pytest.approx(0.5, abs=0.1)
            await publisher.publish(Message(b"meanwhile"), routing_key="q", timeout=1)
            assert connection.stats.not_back == ("consumer of queue 'q': the broker has not answered yet",)
            assert caplog.text.count("not everything is back") == 1
            await case.lose(connection, None)
            await connection.wait_ready(1)
            async with await anext(consumer) as delivery:
                assert delivery.body == b"meanwhile"


async def test_a_link_on_which_others_are_answered_is_kept_however_late_a_queue_is() -> None:
    async with deaf() as (case, connection), connection.channel() as channel, connection.publisher() as publisher:
        await channel.declare_queue("late")
        await channel.declare_queue("well")
        await case.lose(connection, b"late")
        await publisher.publish(Message(b"meanwhile"), routing_key="well", timeout=1)
        await anyio.sleep(600)
        assert connection.stats.link_number == 2
        assert connection.stats.not_back == ("queue 'late': the broker does not answer",)


async def test_the_log_tells_when_everything_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=AT_ONCE) as connection:
        locked = anyamqp.ResourceLocked("cannot obtain exclusive access to locked queue 'q'")
        async with connection.channel() as channel:
            await channel.declare_queue("q")
            async with connection.consumer("q") as consumer:

                def refuse(*_: object) -> None:
                    raise locked

                caplog.set_level("INFO", "anyamqp.connection")
                with monkeypatch.context() as patched:
                    patched.setattr(broker.model, "declare_queue", refuse)
                    broker.reset_connections()
                    await eventually(lambda: connection.stats.reconnects == 1)
                    assert connection.state is State.OPEN
                    await anyio.sleep(20)
                    assert not consumer.is_consuming
                    assert "queue 'q': 405" in connection.stats.not_back[0]
                await connection.wait_ready(3)
                assert consumer.is_consuming
    assert caplog.text.count("not everything is back") == 1
    assert caplog.text.count("everything is back\n") == 1
