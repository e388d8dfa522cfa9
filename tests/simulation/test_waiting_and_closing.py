"""Waiting for a connection, its transitions, and its end, in virtual time, so that every second is exact."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio.testing

import anyamqp
from anyamqp import (
    Connection,
    ConnectionClosed,
    ConnectionEvent,
    ConnectionLost,
    Credentials,
    CredentialsUnavailable,
    HeartbeatTimeout,
    InvalidUse,
    LoginRefused,
    Message,
    NotAllowed,
    ReadyTimeout,
    ReconnectPolicy,
    RequestTimeout,
    Settings,
    State,
    Transition,
    TransportError,
)
from anyamqp.testing import Broker
from anyamqp.testing.memory import MemoryStream
from anyamqp.wire.frames import HEARTBEAT_FRAME
from support.waiting import Stopwatch, eventually, running_tasks

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]  # long, and it covers nothing that others do not

URL = "amqp://guest:guest@memory/"
STEADY = ReconnectPolicy(first=0.0, initial=1.0, factor=1.0, maximum=1.0, jitter=0.0)
"""At once, then every second."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def at(seconds: float, act: Callable[[], object]) -> None:
    """Do it after so many virtual seconds."""
    await anyio.sleep(seconds)
    act()


async def collect(connection: Connection, into: list[Transition]) -> None:
    async for transition in connection.transitions():
        into.append(transition)  # noqa: PERF401 - what came so far is looked at before the end


# --- being ready ----------------------------------------------------------------------------------------------------


async def test_entering_waits_until_the_broker_is_there() -> None:
    async with Broker() as broker, anyio.create_task_group() as tasks:
        broker.refuse()
        tasks.start_soon(at, 7.5, broker.accept)
        watch = Stopwatch()
        async with anyamqp.connect(URL, dial=broker.dial, reconnect=STEADY) as connection:
            assert connection.state is State.OPEN
            assert watch.seconds == 8


async def test_entering_gives_up_after_ready_timeout_and_leaves_nothing() -> None:
    """Invariant 7."""
    async with Broker() as broker:
        broker.refuse()
        before = running_tasks()
        watch = Stopwatch()
        with pytest.raises(ReadyTimeout, match="Connection refused") as caught:
            async with anyamqp.connect(URL, dial=broker.dial, ready_timeout=30):
                pass
        assert watch.seconds == 30
        assert isinstance(caught.value.__cause__, TransportError)
        assert running_tasks() == before


async def test_ready_timeout_of_zero_does_not_wait() -> None:
    async with Broker() as broker:
        broker.refuse()
        watch = Stopwatch()
        async with anyamqp.connect(URL, dial=broker.dial, ready_timeout=0) as connection:
            assert connection.state is State.CONNECTING
            assert watch.seconds == 0


async def test_wait_ready_returns_at_once_when_ready() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        await connection.wait_ready(0)


async def test_wait_ready_times_out_while_the_broker_is_away_and_works_later() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=STEADY) as connection:
        broker.stop()
        await anyio.wait_all_tasks_blocked()
        watch = Stopwatch()
        with pytest.raises(ReadyTimeout, match="still RECONNECTING"):
            await connection.wait_ready(12)
        assert watch.seconds == 12
        await broker.start()
        await connection.wait_ready(12)
        assert connection.state is State.OPEN


async def test_blocked_connection_is_ready() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        await publisher.publish(Message(b"x"), routing_key="q", mandatory=False)
        broker.block()
        await eventually(lambda: connection.state is State.BLOCKED)
        await connection.wait_ready(0)


async def test_calls_before_readiness_wait_for_it() -> None:
    async with Broker() as broker, anyio.create_task_group() as tasks:
        broker.refuse()
        tasks.start_soon(at, 20, broker.accept)
        watch = Stopwatch()
        async with (
            anyamqp.connect(URL, dial=broker.dial, reconnect=STEADY, ready_timeout=0) as connection,
            connection.channel() as channel,
        ):
            assert watch.seconds == 20
            await channel.declare_queue("q")
            assert watch.seconds == 20


async def test_nothing_works_before_the_block_is_entered() -> None:
    async with Broker() as broker:
        connection = anyamqp.connect(URL, dial=broker.dial)
        for call in (connection.wait_ready, connection.wait_closed, connection.close, connection.channel().__aenter__):
            with pytest.raises(InvalidUse):
                await call()


async def test_connection_is_entered_once() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        with pytest.raises(InvalidUse, match="entered once"):
            async with connection:
                pass


# --- refusals -------------------------------------------------------------------------------------------------------


async def test_refused_login_fails_fast_on_the_first_connect() -> None:
    async with Broker(password="other") as broker:
        watch = Stopwatch()
        with pytest.raises(LoginRefused, match=r"^user 'guest' at memory:5672: Login was refused"):
            async with anyamqp.connect(URL, dial=broker.dial):
                pass
        assert watch.seconds == 0
        assert broker.connections_total == 1


async def test_refused_login_is_retried_for_the_grace_when_told_so() -> None:
    policy = ReconnectPolicy(initial=1.0, factor=1.0, maximum=1.0, jitter=0.0, refusal_grace=10)
    async with Broker(password="other") as broker:
        watch = Stopwatch()
        with pytest.raises(LoginRefused):
            async with anyamqp.connect(URL, dial=broker.dial, reconnect=policy, fail_fast=False):
                pass
        assert watch.seconds == 10
        assert broker.connections_total == 11


class ChangingBroker(Broker):
    """A broker whose user's password changes.

    Attributes:
        password: the password now.
    """

    def __init__(self, password: str) -> None:
        super().__init__()
        self.password = password

    def check_credentials(self, response: str) -> bool:
        return response == f"\0guest\0{self.password}"


async def test_login_refused_by_a_booting_broker_is_cured_within_the_grace() -> None:
    async with ChangingBroker("other") as broker, anyio.create_task_group() as tasks:
        tasks.start_soon(at, 5.5, lambda: setattr(broker, "password", "guest"))
        watch = Stopwatch()
        async with anyamqp.connect(URL, dial=broker.dial, reconnect=STEADY, fail_fast=False) as connection:
            assert watch.seconds == 6
            assert connection.stats.dials == 7


async def test_login_refused_on_a_reconnect_is_retried_for_the_grace_then_ends_the_connection() -> None:
    async with (
        ChangingBroker("guest") as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=STEADY) as connection,
    ):
        await anyio.sleep(5)
        broker.password = "changed"
        broker.reset_connections()
        watch = Stopwatch()
        await connection.wait_closed()
        assert watch.seconds == 60
        with pytest.raises(ConnectionClosed) as caught:
            await connection.wait_ready()
        assert isinstance(caught.value.__cause__, LoginRefused)


async def test_unknown_virtual_host_fails_fast() -> None:
    async with Broker() as broker:
        with pytest.raises(NotAllowed):
            async with anyamqp.connect(URL + "gone", dial=broker.dial):
                pass
        assert broker.connections_total == 1


# --- giving up ------------------------------------------------------------------------------------------------------

FEW = ReconnectPolicy(first=0.0, initial=1.0, factor=1.0, maximum=1.0, jitter=0.0, max_attempts=4)


async def test_exhausted_policy_on_the_first_connect_raises_its_cause() -> None:
    async with Broker() as broker:
        broker.refuse()
        watch = Stopwatch()
        with pytest.raises(ConnectionLost, match="gave up after 4 attempts"):
            async with anyamqp.connect(URL, dial=broker.dial, reconnect=FEW):
                pass
        assert watch.seconds == 3


async def declare(connection: Connection) -> None:
    async with connection.channel():
        pass


async def publish(connection: Connection) -> None:
    async with connection.publisher() as publisher:
        await publisher.publish(Message(b"x"), routing_key="q")


async def consume(connection: Connection) -> None:
    async with connection.consumer("q"):
        pass


async def wait_ready(connection: Connection) -> None:
    await connection.wait_ready()


Call = Callable[[Connection], Awaitable[None]]
CALLS: list[Call] = [declare, publish, consume, wait_ready]


def call_name(call: object) -> str:
    return getattr(call, "__name__", "")


@pytest.mark.parametrize("call", CALLS, ids=call_name)
async def test_exhausted_policy_ends_pending_and_later_calls_from_its_cause(call: Call) -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=FEW) as connection:
        await anyio.sleep(5)
        broker.stop()
        await anyio.wait_all_tasks_blocked()
        watch = Stopwatch()
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match="gave up after 4 attempts") as caught:
                await call(connection)
            assert isinstance(caught.value.__cause__, ConnectionLost)
            assert connection.state is State.CLOSED
            assert watch.seconds == 3


async def test_exhausted_policy_ends_a_request_that_a_loss_caught() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=FEW) as connection,
        connection.channel() as channel,
    ):
        await anyio.sleep(5)

        async def declare_queue() -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await channel.declare_queue("q")
            assert isinstance(caught.value.__cause__, ConnectionLost)

        async with anyio.create_task_group() as tasks:
            broker.freeze()
            tasks.start_soon(declare_queue)
            await anyio.wait_all_tasks_blocked()
            broker.stop()


async def test_exhausted_policy_ends_iterations() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=FEW) as connection:
        await anyio.sleep(5)
        async with connection.channel() as channel:
            await channel.declare_queue("q")
        async with connection.consumer("q") as consumer:
            broker.stop()
            with pytest.raises(ConnectionClosed) as caught:
                await anext(consumer)
            assert isinstance(caught.value.__cause__, ConnectionLost)


async def test_exhausted_policy_does_not_cancel_the_users_block() -> None:
    async with Broker() as broker:
        async with anyamqp.connect(URL, dial=broker.dial, reconnect=FEW) as connection:
            await anyio.sleep(5)
            broker.stop()
            watch = Stopwatch()
            await connection.wait_closed()
            assert watch.seconds == 3
            await anyio.sleep(100)
            assert watch.seconds == 103
        assert connection.state is State.CLOSED


async def test_closed_is_terminal() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=FEW) as connection:
        await anyio.sleep(5)
        broker.stop()
        await connection.wait_closed()
        dials = connection.stats.dials
        await broker.start()
        await anyio.sleep(1000)
        assert connection.state is State.CLOSED
        assert connection.stats.dials == dials
        assert broker.connections_total == 1


# --- requests that nobody answers -----------------------------------------------------------------------------------


async def test_request_that_is_not_answered_times_out() -> None:
    settings = Settings(request_timeout=15, heartbeat=0)
    async with (
        Broker(heartbeat=0) as broker,
        anyamqp.connect(settings, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        broker.freeze()
        watch = Stopwatch()
        with pytest.raises(RequestTimeout, match=r"no answer within 15 s"):
            await channel.declare_queue("q")
        assert watch.seconds == 15
        broker.thaw()
        await channel.declare_queue("other")
        assert set(broker.queues) == {"q", "other"}
        assert connection.stats.link_number == 1


async def test_request_times_out_over_reconnects_too() -> None:
    settings = Settings(request_timeout=15, reconnect=STEADY)
    async with (
        Broker() as broker,
        anyamqp.connect(settings, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        broker.stop()
        watch = Stopwatch()
        with pytest.raises(RequestTimeout, match="Connection refused"):
            await channel.declare_queue("q")
        assert watch.seconds == 15


async def test_handshake_that_is_not_answered_is_given_up_after_connect_timeout() -> None:
    settings = Settings(connect_timeout=4, reconnect=STEADY)
    async with Broker() as broker:
        broker.freeze()
        async with anyamqp.connect(settings, dial=broker.dial, ready_timeout=0) as connection:
            watch = Stopwatch()
            await eventually(lambda: connection.stats.last_error is not None, within=60, every=0.25)
            assert 4 <= watch.seconds <= 4.25
            assert isinstance(connection.stats.last_error, anyamqp.ConnectTimeout)
            broker.thaw()
            await connection.wait_ready(10)


# --- being told -----------------------------------------------------------------------------------------------------


async def test_transitions_tell_the_whole_story_in_order() -> None:
    story: list[Transition] = []
    async with Broker() as broker:
        connection = anyamqp.connect(URL, dial=broker.dial, ready_timeout=0)
        async with anyio.create_task_group() as tasks, connection:
            tasks.start_soon(collect, connection, story)
            await anyio.wait_all_tasks_blocked()
            await connection.wait_ready()
            async with connection.publisher() as publisher:
                await publisher.publish(Message(b"x"), routing_key="q", mandatory=False)
                broker.block("low on disk")
                await eventually(lambda: connection.state is State.BLOCKED)
                broker.unblock()
                await eventually(lambda: connection.state is State.OPEN)
                broker.reset_connections()
                await eventually(lambda: connection.stats.reconnects == 1)
    of_connection = [transition for transition in story if transition.machine == "connection"]
    assert [transition.event for transition in of_connection] == [
        ConnectionEvent.OPENED,
        ConnectionEvent.BLOCKED,
        ConnectionEvent.UNBLOCKED,
        ConnectionEvent.LOST,
        ConnectionEvent.OPENED,
        ConnectionEvent.CLOSE,
        ConnectionEvent.CLOSED,
    ]
    assert [transition.link_number for transition in of_connection] == [1, 1, 1, 1, 2, 2, 2]
    assert of_connection[1].reason == "low on disk"
    assert [transition.at for transition in story] == sorted(transition.at for transition in story)
    for machine in {transition.machine for transition in story}:
        own = [transition for transition in story if transition.machine == machine]
        assert all(one.target == other.source for one, other in pairwise(own))


async def test_transitions_end_at_once_on_a_closed_connection() -> None:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        await connection.close()
        assert [transition async for transition in connection.transitions()] == []


async def test_a_slow_reader_of_transitions_learns_how_many_it_missed() -> None:
    """Invariant 11."""
    async with Broker() as broker:
        async with anyamqp.connect(URL, dial=broker.dial) as connection:
            slow = connection.transitions()
            prompt: list[Transition] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(collect, connection, prompt)
                for _ in range(500):
                    async with connection.channel():
                        pass
                await connection.close()
            held = [transition async for transition in slow]
        assert len(held) == 1024
        assert slow.dropped == connection.stats.dropped_transitions == len(prompt) - 1024
        assert slow.dropped > 0
        assert held == prompt[-1024:]


async def test_stats_count_bytes_and_frames_over_all_links() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        before = connection.stats
        await publisher.publish(Message(bytes(10_000)), routing_key="q", mandatory=False)
        after = connection.stats
        assert 10_000 < after.bytes_sent - before.bytes_sent < 10_200
        assert after.frames_sent - before.frames_sent == 3
        assert after.frames_received - before.frames_received == 1
        broker.reset_connections()
        await eventually(lambda: connection.stats.reconnects == 1)
        again = connection.stats
        assert again.link_number == again.dials == 2
        assert after.bytes_sent < again.bytes_sent
        assert after.bytes_received < again.bytes_received
        assert isinstance(again.last_error, TransportError)


async def test_stats_tell_since_when_the_connection_is_blocked() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        await publisher.publish(Message(b"x"), routing_key="q", mandatory=False)
        await anyio.sleep(10)
        broker.block()
        blocked_at = anyio.current_time()
        await anyio.sleep(10)
        assert connection.stats.blocked_since == blocked_at
        broker.unblock()
        await anyio.sleep(1)
        assert connection.stats.blocked_since is None


async def test_loss_while_blocked_ends_the_block() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        await publisher.publish(Message(b"x"), routing_key="q", mandatory=False)
        broker.block()
        await eventually(lambda: connection.state is State.BLOCKED)
        broker.reset_connections()
        await eventually(lambda: connection.stats.reconnects == 1)
        assert connection.state is State.OPEN
        assert connection.stats.blocked_since is None


# --- closing --------------------------------------------------------------------------------------------------------


async def test_closing_twice_is_closing_once() -> None:
    async with Broker() as broker:
        async with anyamqp.connect(URL, dial=broker.dial) as connection:
            await connection.close()
            await connection.close()
            assert connection.state is State.CLOSED
            with pytest.raises(ConnectionClosed) as caught:
                await connection.wait_ready()
            assert caught.value.__cause__ is None
        assert broker.unexpected_closes == []


async def test_closing_from_another_task_ends_what_waits() -> None:
    ended: list[str] = []
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q")

        async def iterate() -> None:
            with pytest.raises(ConnectionClosed):
                async with connection.consumer("q") as consumer:
                    await anext(consumer)
            ended.append("consumer")

        async def watch() -> None:
            await connection.wait_closed()
            ended.append("wait_closed")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(iterate)
            tasks.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                tasks.start_soon(connection.close)
        assert sorted(ended) == ["consumer", "wait_closed"]
        assert connection.state is State.CLOSED
    assert broker.unexpected_closes == []


async def test_closing_takes_no_longer_than_close_timeout() -> None:
    settings = Settings(close_timeout=3)
    async with Broker() as broker:
        async with anyamqp.connect(settings, dial=broker.dial) as connection:
            broker.freeze()
            watch = Stopwatch()
            await connection.close()
            assert watch.seconds == 3
        broker.thaw()


@pytest.mark.parametrize("moment", ["waiting", "dialing", "handshake", "recovery"])
async def test_closing_while_recovering_ends_quietly(moment: str) -> None:
    """Invariant 7."""
    before = running_tasks()
    async with Broker() as broker:
        hangs = False

        async def dial(address: anyamqp.Address) -> anyio.abc.ByteStream:
            if hangs:
                await anyio.sleep_forever()
            return await broker.dial(address)

        async with anyamqp.connect(URL, dial=dial, reconnect=STEADY) as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("q")
            await anyio.sleep(5)
            if moment == "waiting":
                broker.refuse()
            elif moment == "dialing":
                hangs = True
            elif moment == "handshake":
                broker.freeze()
            else:
                declared = broker.model.declare_queue

                def freeze(*args: object) -> object:
                    broker.freeze()
                    return declared(*args)  # type: ignore[arg-type]

                vars(broker.model)["declare_queue"] = freeze
            broker.reset_connections()
            await anyio.sleep(0.5)
            assert connection.state is State.RECONNECTING
            watch = Stopwatch()
            await connection.close()
            assert watch.seconds <= 5
            assert connection.stats.state is State.CLOSED
        broker.thaw()
    assert running_tasks() == before
    assert broker.unexpected_closes == []


# --- leaving an attempt ---------------------------------------------------------------------------------------------


class Halting(anyio.abc.ByteStream):
    """A transport on which so many chunks arrive, and then nothing more."""

    def __init__(self, inner: anyio.abc.ByteStream, chunks: int) -> None:
        self._inner = inner
        self._left = chunks

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._left:
            await anyio.sleep_forever()
        self._left -= 1
        return await self._inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


PHASES = {
    "resolving": "resolving 'memory'",
    "connecting": "connecting to memory:5672",
    "TLS": "TLS handshake with memory:5672",
    "start": "waiting for connection.start from memory:5672",
    "tune": "waiting for connection.tune from memory:5672",
    "open-ok": "waiting for connection.open-ok from memory:5672",
}
"""The phases of an attempt, and how an error names each."""


class Stuck:
    """Makes connections whose attempt does not get beyond a phase."""

    def __init__(self, broker: Broker, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._broker = broker
        self._phase = phase
        monkeypatch.setattr(anyio, "getaddrinfo", self._hang)

    async def _hang(self, *_: object, **__: object) -> None:
        await anyio.sleep_forever()

    async def _dial(self, address: anyamqp.Address) -> anyio.abc.ByteStream:
        if self._phase == "connecting":
            await anyio.sleep_forever()
        chunks = {"tune": 1, "open-ok": 2}.get(self._phase, 0)
        return Halting(await self._broker.dial(address), chunks)

    def connect(self, ready_timeout: float | None = None, request_timeout: float = 60.0) -> Connection:
        return anyamqp.connect(
            Settings(addresses=(anyamqp.Address("memory", 5672),), request_timeout=request_timeout),
            tls=anyamqp.TLS(verify=False) if self._phase == "TLS" else None,
            dial=None if self._phase == "resolving" else self._dial,
            ready_timeout=ready_timeout,
        )


@pytest.fixture(params=PHASES)
def phase(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def test_ready_timeout_is_kept_in_any_phase_and_names_it(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker:
        before = running_tasks()
        watch = Stopwatch()
        with pytest.raises(ReadyTimeout, match=PHASES[phase]):
            async with Stuck(broker, phase, monkeypatch).connect(ready_timeout=4):
                pass
        assert watch.seconds < 5
        await eventually(lambda: running_tasks() <= before)


async def test_close_ends_an_attempt_in_any_phase(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker:
        before = running_tasks()
        async with Stuck(broker, phase, monkeypatch).connect(ready_timeout=0) as connection:
            await anyio.sleep(2)
            watch = Stopwatch()
        assert watch.seconds < 1
        assert connection.state is State.CLOSED
        await eventually(lambda: running_tasks() <= before)


async def test_cancellation_ends_an_attempt_in_any_phase(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker:
        before = running_tasks()
        with anyio.move_on_after(2) as scope:
            async with Stuck(broker, phase, monkeypatch).connect():
                pass
        assert scope.cancelled_caught
        assert anyio.current_time() - scope.deadline < 1
        await eventually(lambda: running_tasks() <= before)


async def test_leaving_before_the_first_byte_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker:
        watch = Stopwatch()
        with pytest.raises(ReadyTimeout):
            async with Stuck(broker, "start", monkeypatch).connect(ready_timeout=4):
                pass
        assert watch.seconds == 4


async def test_connect_timeout_names_the_frame_that_did_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker, Stuck(broker, "tune", monkeypatch).connect(ready_timeout=0) as connection:
        await eventually(lambda: connection.stats.last_error is not None, within=60, every=0.25)
        assert str(connection.stats.last_error) == PHASES["tune"] + ": no answer within 10.0 s"


async def test_ready_timeout_says_that_the_credentials_function_is_awaited() -> None:
    async def credentials() -> Credentials:
        await anyio.sleep_forever()
        raise AssertionError

    async with Broker() as broker:
        with pytest.raises(ReadyTimeout, match="waiting for the credentials function"):
            async with anyamqp.connect(URL, dial=broker.dial, credentials=credentials, ready_timeout=1):
                pass


async def test_ready_timeout_between_attempts_names_the_next_and_the_last_error() -> None:
    policy = ReconnectPolicy.constant(60.0)
    async with Broker() as broker:
        broker.refuse()
        with pytest.raises(ReadyTimeout, match=r"waiting 60\.0 s before dialing memory:5672; last error: .*refused"):
            async with anyamqp.connect(URL, dial=broker.dial, reconnect=policy, ready_timeout=1):
                pass


async def test_request_timeout_of_a_connection_that_is_not_ready_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Broker() as broker:
        stuck = Stuck(broker, "start", monkeypatch)
        async with stuck.connect(ready_timeout=0, request_timeout=3) as connection:
            with pytest.raises(RequestTimeout, match=PHASES["start"]):
                await connection.channel().__aenter__()


# --- one close time-out for all -------------------------------------------------------------------------------------

SHORT_CLOSE = Settings(close_timeout=3, heartbeat=0)


class Mine(Exception):
    """What the user's own code raises."""


async def enter(stack: AsyncExitStack, connection: Connection, kind: str) -> None:
    """Enter something that a connection makes, and use it."""
    if kind == "channel":
        await stack.enter_async_context(connection.channel())
    elif kind == "publisher":
        publisher = await stack.enter_async_context(connection.publisher())
        await publisher.publish(Message(b"x"), routing_key="q", mandatory=False)
    elif kind == "consumer":
        await stack.enter_async_context(connection.consumer("q"))
    else:
        pool = await stack.enter_async_context(connection.channel_pool(2))
        async with pool.channel(), pool.channel():
            pass


KINDS = ["channel", "publisher", "consumer", "pool"]
"""What the embedded broker serves; the others are tried on RabbitMQ."""


@pytest.mark.parametrize("kinds", [["channel"] * 3, *([kind] for kind in KINDS), KINDS], ids=" in ".join)
async def test_error_in_nested_blocks_comes_out_of_a_frozen_broker_after_one_close_timeout(kinds: list[str]) -> None:
    mine = Mine()
    async with Broker(heartbeat=0) as broker:
        watch = Stopwatch()
        with pytest.raises(Mine) as raised:  # noqa: PT012 - it is the blocks that must let it through
            async with anyamqp.connect(SHORT_CLOSE, dial=broker.dial) as connection, AsyncExitStack() as stack:
                async with connection.channel() as channel:
                    await channel.declare_queue("q")
                for kind in kinds:
                    await enter(stack, connection, kind)
                broker.freeze()
                watch = Stopwatch()
                raise mine
        assert raised.value is mine
        assert 3 <= watch.seconds < 4
        broker.thaw()


async def test_cancellation_of_nested_blocks_takes_one_close_timeout_on_a_frozen_broker() -> None:
    async with Broker(heartbeat=0) as broker:
        watch = Stopwatch()
        with anyio.CancelScope() as scope:
            async with anyamqp.connect(SHORT_CLOSE, dial=broker.dial) as connection, AsyncExitStack() as stack:
                for _ in range(3):
                    await enter(stack, connection, "channel")
                broker.freeze()
                watch = Stopwatch()
                scope.cancel()
                await anyio.sleep_forever()
        assert watch.seconds < 4
        broker.thaw()


async def test_closes_that_begin_one_after_the_other_share_one_close_timeout() -> None:
    async with Broker(heartbeat=0) as broker, anyamqp.connect(SHORT_CLOSE, dial=broker.dial) as connection:
        channels = [connection.channel() for _ in range(3)]
        for channel in channels:
            await channel.__aenter__()
        broker.freeze()
        watch = Stopwatch()
        async with anyio.create_task_group() as tasks:
            for channel in channels:
                tasks.start_soon(channel.close)
                await anyio.sleep(1)
        assert watch.seconds == 3
        await connection.close()
        assert watch.seconds < 4
        broker.thaw()


async def test_close_that_was_answered_late_gives_the_next_one_its_whole_time() -> None:
    async with Broker(heartbeat=0) as broker, anyamqp.connect(SHORT_CLOSE, dial=broker.dial) as connection:
        channels = [connection.channel() for _ in range(2)]
        for channel in channels:
            await channel.__aenter__()
        broker.freeze()
        await channels[0].close()
        broker.thaw()
        await eventually(lambda: channels[0].state is State.CLOSED)
        broker.freeze()
        watch = Stopwatch()
        await channels[1].close()
        assert watch.seconds == 3
        broker.thaw()


@pytest.mark.parametrize("is_failed", [False, True], ids=["answered", "failed"])
async def test_a_cancelled_stop_takes_nothing_from_the_closes_that_follow(is_failed: bool) -> None:
    """Measured before: the connection was left without waiting for the answer of a healthy broker."""
    async with Broker(heartbeat=0) as broker, anyamqp.connect(SHORT_CLOSE, dial=broker.dial) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q")
        consumer = connection.consumer("q")
        async with consumer:
            broker.freeze()
            with anyio.move_on_after(1):
                await consumer.stop()
            broker.thaw()
            if is_failed:
                broker.close_channels(406, "PRECONDITION_FAILED")
            await anyio.sleep(10)
            broker.freeze()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(at, 2, broker.thaw)
                watch = Stopwatch()
                await connection.close()
                assert watch.seconds == 2


async def test_stopping_a_consumer_counts_towards_the_one_close_timeout() -> None:
    async with Broker(heartbeat=0) as broker, anyamqp.connect(SHORT_CLOSE, dial=broker.dial) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q")
        async with connection.consumer("q") as consumer:
            broker.freeze()
            watch = Stopwatch()
            await consumer.stop()
        await connection.close()
        assert 3 <= watch.seconds < 4
        broker.thaw()


class Interrupted(Halting):
    """A transport in whose reader a signal's KeyboardInterrupt comes, as trio raises it in whatever task runs."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await super().receive(max_bytes)
        if not self._left:
            raise KeyboardInterrupt
        return data


@pytest.mark.parametrize("chunks", [1, 4], ids=["while entering", "in the block"])
async def test_interrupt_that_meets_a_task_of_ours_leaves_as_itself(chunks: int) -> None:
    async with Broker() as broker:

        async def dial(address: anyamqp.Address) -> anyio.abc.ByteStream:
            return Interrupted(await broker.dial(address), chunks)

        before = running_tasks()
        with pytest.raises(KeyboardInterrupt):
            async with anyamqp.connect(URL, dial=dial) as connection, connection.channel():
                await anyio.sleep_forever()
        await eventually(lambda: running_tasks() <= before)


# --- credentials ----------------------------------------------------------------------------------------------------


async def test_credentials_function_is_asked_at_every_login() -> None:
    asked: list[float] = []

    async def credentials() -> Credentials:
        await anyio.lowlevel.checkpoint()
        asked.append(anyio.current_time())
        return Credentials("guest", "guest")

    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, credentials=credentials) as connection:
        for count in (1, 2, 3):
            assert len(asked) == connection.stats.link_number == count
            await anyio.sleep(5)
            broker.reset_connections()
            await anyio.sleep(5)


async def test_credentials_that_cannot_be_had_are_asked_for_again() -> None:
    asked: list[float] = []

    async def credentials() -> Credentials:
        await anyio.lowlevel.checkpoint()
        asked.append(anyio.current_time())
        if len(asked) <= 3:
            raise LookupError("the vault is sealed")
        return Credentials("guest", "guest")

    async with Broker() as broker:
        watch = Stopwatch()
        async with anyamqp.connect(URL, dial=broker.dial, credentials=credentials, reconnect=STEADY) as connection:
            assert watch.seconds == 3
            error = connection.stats.last_error
            assert isinstance(error, CredentialsUnavailable)
            assert isinstance(error.__cause__, LookupError)
            assert broker.connections_total == connection.stats.dials == 1


async def test_close_while_a_lost_transport_is_still_being_closed_waits_for_no_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def close_slowly(stream: MemoryStream) -> None:
        await anyio.sleep(0.3)
        await close(stream)

    close = MemoryStream.aclose
    patient = ReconnectPolicy.constant(30.0)
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=patient) as connection:
        monkeypatch.setattr(MemoryStream, "aclose", close_slowly)
        broker.reset_connections()
        async for transition in connection.transitions():
            if transition.event is ConnectionEvent.LOST:
                break
        watch = Stopwatch()
        await connection.close()
        assert watch.seconds == 0.3


# --- silence --------------------------------------------------------------------------------------------------------


async def test_idle_connection_stays_on_its_link_for_hours() -> None:
    """Invariant 9: no false alarm, on either side."""
    async with (
        Broker(heartbeat=10) as broker,
        anyamqp.connect(URL, dial=broker.dial, heartbeat=10) as connection,
        connection.publisher(),
    ):
        await anyio.sleep(10_800)
        stats = connection.stats
        assert (stats.link_number, stats.last_error, stats.stalls) == (1, None, 0)
        assert 10_800 / 10 <= stats.frames_sent <= 10_800 / 4
        assert broker.connections_total == 1


@pytest.mark.parametrize("interval", [1, 10, 60])
async def test_silent_broker_is_found_after_two_intervals_exactly(interval: int) -> None:
    """Invariant 9."""
    async with (
        Broker(heartbeat=interval) as broker,
        anyamqp.connect(URL, dial=broker.dial, heartbeat=interval) as connection,
    ):
        transitions = connection.transitions()
        broker.freeze()
        watch = Stopwatch()
        async for transition in transitions:
            if transition.event is ConnectionEvent.LOST:
                break
        assert watch.seconds == 2 * interval
        assert isinstance(connection.stats.last_error, HeartbeatTimeout)
        broker.thaw()
        await connection.wait_ready(60)


class Noting(anyio.abc.ByteStream):
    """A transport that notes when the client sends a heartbeat."""

    def __init__(self, inner: anyio.abc.ByteStream) -> None:
        self.heartbeats: list[float] = []
        self._inner = inner
        self._watch = Stopwatch()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        if item == HEARTBEAT_FRAME:
            self.heartbeats.append(self._watch.seconds)
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_heartbeats_go_out_while_the_broker_is_slow_to_open() -> None:
    """Invariant 9. A world in virtual time, seed 571, found it: they began with connection.open-ok."""
    noting: list[Noting] = []

    async def dial(address: anyamqp.Address) -> anyio.abc.ByteStream:
        noting.append(Noting(await broker.dial(address)))
        return noting[-1]

    async with Broker(heartbeat=6) as broker:
        broker.faults.before("connection.open-ok").freeze(10)
        async with anyamqp.connect(URL, dial=dial, heartbeat=6, connect_timeout=20) as connection:
            assert connection.stats.link_number == 1
            assert noting[0].heartbeats == [3.0, 6.0, 9.0]


class Muted(anyio.abc.ByteStream):
    """A transport on which, once muted, nothing arrives at the broker."""

    def __init__(self, inner: anyio.abc.ByteStream) -> None:
        self.is_muted = False
        self._inner = inner

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        if not self.is_muted:
            await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_broker_gives_up_a_silent_client_after_two_intervals_which_comes_back() -> None:
    """Invariant 9, seen from the other side."""
    streams: list[Muted] = []
    async with Broker(heartbeat=10) as broker:

        async def dial(address: anyamqp.Address) -> anyio.abc.ByteStream:
            streams.append(Muted(await broker.dial(address)))
            return streams[-1]

        async with anyamqp.connect(URL, dial=dial) as connection:
            streams[0].is_muted = True
            watch = Stopwatch()
            await eventually(lambda: connection.stats.link_number == 2, within=60, every=0.25)
            assert 20 <= watch.seconds <= 20.25
            await connection.wait_ready(10)
            assert isinstance(connection.stats.last_error, TransportError)
            assert "closed the TCP connection" in str(connection.stats.last_error)
    assert broker.unexpected_closes == []


# --- slowness -------------------------------------------------------------------------------------------------------


async def test_slow_consumer_without_acks_pauses_reading_instead_of_growing() -> None:
    """Invariants 9 and 11: what nobody takes stays at the broker, and the pause is no silence of the broker's."""
    count = 6_000
    async with Broker(heartbeat=10) as broker:
        async with (
            anyamqp.connect(URL, dial=broker.dial) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue("q")
            for _ in range(count):
                await publisher.submit(Message(bytes(1000)), routing_key="q")
            await publisher.flush()
        async with (
            anyamqp.connect(URL, dial=broker.dial, heartbeat=10) as connection,
            connection.consumer("q", no_ack=True) as consumer,
        ):
            await anyio.sleep(3600)
            received = connection.stats.bytes_received
            assert received < 2_000_000
            assert broker.queues["q"].messages > count / 2
            assert connection.stats.link_number == 1
            for _ in range(count):
                await anext(consumer)
            assert connection.stats.bytes_received > count * 1000
            assert (connection.stats.link_number, broker.queues["q"].messages) == (1, 0)


async def test_reading_that_was_resumed_for_an_answer_pauses_again() -> None:
    """Invariant 11, after a request of another channel while a slow reader had the connection pause."""
    async with Broker() as broker:
        async with (
            anyamqp.connect(URL, dial=broker.dial) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue("q")
            for _ in range(20_000):
                await publisher.submit(Message(bytes(1000)), routing_key="q")
            await publisher.flush()
        async with (
            anyamqp.connect(URL, dial=broker.dial) as connection,
            connection.channel() as channel,
            connection.consumer("q", no_ack=True),
        ):
            await anyio.sleep(60)
            before = connection.stats.bytes_received
            await channel.declare_queue("other")
            resumed = connection.stats.bytes_received
            await anyio.sleep(60)
            assert before < resumed == connection.stats.bytes_received < 4_000_000


async def test_log_at_info_tells_of_the_connection_and_not_of_the_engine_below(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial):
        pass
    told = [record.name for record in caplog.records]
    assert set(told) == {"anyamqp.connection"}
