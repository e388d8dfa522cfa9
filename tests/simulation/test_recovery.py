"""Recovery survives names that pamqp refuses, entities that cannot be declared any more, and our own bugs."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeAlias, cast

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio.testing

import anyamqp
from anyamqp import (
    AnyamqpError,
    Channel,
    ChannelEvent,
    Connection,
    ConnectionEvent,
    Entity,
    FieldValue,
    Message,
    Queue,
    ReconnectPolicy,
    State,
    TopologyRecovery,
)
from anyamqp.core.publishing import OutboxShell
from anyamqp.core.recovery import Recovery
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.dispatch import Dispatcher
from anyamqp.protocol.session import Session
from anyamqp.protocol.topology import Topology
from anyamqp.testing import Broker
from anyamqp.testing.embedded.exchanges import Exchange as ModelExchange
from anyamqp.testing.embedded.queues import Declaration
from anyamqp.testing.embedded.queues import Queue as ModelQueue
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.tampered import Tampered
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
EAGER = ReconnectPolicy(initial=0.01, maximum=0.02, stable_after=0.0)

Request: TypeAlias = Callable[[Channel, Queue], Coroutine[Any, Any, None]]


async def lose(broker: Broker, connection: Connection) -> None:
    """Reset the link, and wait for the next one."""
    reconnects = connection.stats.reconnects
    broker.reset_connections()
    await eventually(lambda: connection.stats.reconnects > reconnects)
    await connection.wait_ready(10)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["заказы", "a*b", "q$1"])
async def test_names_that_pamqp_refuses_survive_a_reset(name: str) -> None:
    """RabbitMQ takes any UTF-8 name; pamqp's constructors hold names to a regular expression."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_exchange(f"x{name}", "topic")
        await channel.declare_exchange(f"y{name}", "topic")
        await channel.bind_exchange(f"y{name}", f"x{name}", name)
        await channel.declare_queue(name)
        await channel.bind_queue(name, f"y{name}", name)
        async with (
            connection.consumer(name, consumer_tag=name) as consumer,
            connection.publisher(exchange=f"x{name}") as publisher,
        ):
            broker.model.exchanges.clear()
            broker.model.queues.clear()
            await lose(broker, connection)
            await publisher.publish(Message(b"after"), routing_key=name, timeout=5)
            with anyio.fail_after(5):
                delivery = await anext(consumer)
            assert (delivery.body, delivery.exchange, delivery.routing_key) == (b"after", f"x{name}", name)


async def bind(channel: Channel, queue: Queue) -> None:
    await channel.bind_queue(queue, "amq.fanout")


async def unbind(channel: Channel, queue: Queue) -> None:
    await channel.unbind_queue(queue, "amq.fanout")


async def get(channel: Channel, queue: Queue) -> None:
    assert await channel.get(queue) is None


async def purge(channel: Channel, queue: Queue) -> None:
    assert await channel.purge_queue(queue) == 0


async def delete(channel: Channel, queue: Queue) -> None:
    await channel.delete_queue(queue)


@pytest.mark.parametrize("request_of", [bind, unbind, get, purge, delete], ids=lambda call: call.__name__)
async def test_a_request_that_waited_for_the_link_names_the_queue_as_the_broker_does_now(
    request_of: Request,
) -> None:
    """A queue that the broker names has another name on each link."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue(exclusive=True)
        if request_of is unbind:
            await bind(channel, queue)
        await lose(broker, connection)
        named_before = queue.name  # its second name: the third one must be found from this as well
        broker.refuse()
        broker.reset_connections()
        await eventually(lambda: connection.state is State.RECONNECTING)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request_of, channel, queue)
            await anyio.wait_all_tasks_blocked()
            broker.accept()
        assert queue.name != named_before
        assert list(broker.queues) == ([] if request_of is delete else [queue.name])
        assert bool(broker.model.exchanges["amq.fanout"].bindings) == (request_of is bind)


async def test_a_request_that_a_loss_caught_is_sent_again_under_the_queues_new_name() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue(exclusive=True)
        broker.freeze()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bind, channel, queue)
            await anyio.wait_all_tasks_blocked()
            broker.reset_connections()
            broker.thaw()
        assert [binding.name for binding in broker.model.exchanges["amq.fanout"].bindings] == [queue.name]


# --- entities that cannot be declared any more ----------------------------------------------------------------------


async def test_arguments_that_the_caller_changes_later_are_declared_again_as_they_were() -> None:
    nested: dict[str, FieldValue] = {"list": [1, 2], "deep": {"key": "value"}}
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q", arguments={"nested": nested})
        nested["list"] = object()  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
        broker.model.queues.clear()
        await lose(broker, connection)
        assert broker.model.queues["q"].arguments == {"nested": {"list": [1, 2], "deep": {"key": "value"}}}


async def test_a_hook_that_changes_an_entitys_arguments_changes_nothing() -> None:
    def spoil(entity: Entity) -> bool:
        cast("dict[str, object]", entity.arguments["nested"])["key"] = object()
        return True

    recovery = TopologyRecovery(wanted=spoil)
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER, topology_recovery=recovery) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q", arguments={"nested": {"key": "value"}})
        broker.model.queues.clear()
        await lose(broker, connection)
        assert broker.model.queues["q"].arguments == {"nested": {"key": "value"}}


async def test_an_entity_that_no_longer_fits_a_frame_fails_only_its_owner() -> None:
    """As on a node of the cluster with a smaller frame_max."""
    told: list[tuple[str, AnyamqpError]] = []
    recovery = TopologyRecovery(on_error=lambda entity, error: told.append((entity.name, error)))
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER, topology_recovery=recovery) as connection,
        connection.channel() as channel,
        connection.channel() as owner,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("first")
        await owner.declare_queue("large", arguments={"text": 5000 * "x"})
        await channel.declare_queue("last")
        broker.tuning = broker.tuning._replace(frame_max=4096)
        broker.model.queues.clear()
        await lose(broker, connection)
        assert broker.queues.keys() == {"first", "last"}
        ((name, error),) = told
        assert (name, str(error)) == ("large", "queue.declare: 5035 bytes do not fit a frame of 4096")
        with pytest.raises(anyamqp.ChannelClosed, match="do not fit a frame") as caught:
            await owner.set_qos(1)
        assert caught.value.__cause__ is error
        await publisher.publish(Message(b"goes on"), routing_key="last", timeout=5)
        assert connection.stats.link_number == 2


async def test_a_consumer_that_no_longer_fits_a_frame_ends_and_leaves_no_channel() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.consumer("q", arguments={"text": 5000 * "x"}) as consumer:
            broker.tuning = broker.tuning._replace(frame_max=4096)
            await lose(broker, connection)
            with anyio.fail_after(5), pytest.raises(anyamqp.ChannelClosed, match="do not fit a frame"):
                await anext(consumer)
            await channel.set_qos(1)
            await eventually(lambda: broker.channel_count == connection.stats.open_channels == 1)
            assert connection.stats.link_number == 2


async def test_any_exception_over_one_entity_costs_that_entity(monkeypatch: pytest.MonkeyPatch) -> None:
    as_sent = Topology.as_sent

    def fails(self: Topology, request: Method) -> Method:
        if isinstance(request, methods.Queue.Declare) and request.queue == "odd":
            raise ZeroDivisionError("a fault of ours")
        return as_sent(self, request)

    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
        connection.channel() as owner,
    ):
        await channel.declare_queue("first")
        await owner.declare_queue("odd")
        await channel.declare_queue("last")
        broker.model.queues.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Topology, "as_sent", fails)
            await lose(broker, connection)
        assert broker.queues.keys() == {"first", "last"}
        with pytest.raises(anyamqp.ChannelClosed, match="a fault of ours"):
            await owner.set_qos(1)
        await channel.set_qos(1)


# --- brokers that do not answer -------------------------------------------------------------------------------------


DECLARE = struct.pack(">HH", 50, 10)
CONSUME = struct.pack(">HH", 60, 20)


@pytest.mark.parametrize("unanswered", [DECLARE, CONSUME], ids=["queue.declare", "basic.consume"])
@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_a_recovery_without_an_answer_ends_though_requests_may_take_for_ever(unanswered: bytes) -> None:
    """``request_timeout=None`` is for requests; the attempt to recover has 60 s for each answer."""
    is_deaf = False

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        return Tampered(await broker.dial(), lambda data: b"" if is_deaf and unanswered in data else data)

    settings = replace(anyamqp.Settings.from_urls(URL), request_timeout=None, heartbeat=0, reconnect=EAGER)
    async with (
        Broker(heartbeat=0) as broker,
        anyamqp.connect(settings, dial=dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.consumer("q"):
            is_deaf = True
            broker.reset_connections()
            await anyio.sleep(59)
            assert connection.stats.link_number == 2
            await anyio.sleep(10)
            assert connection.stats.link_number == 3
            assert isinstance(connection.stats.last_error, anyamqp.RequestTimeout)
            is_deaf = False
            await connection.wait_ready(120)


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_the_text_of_an_error_does_not_hold_those_of_earlier_attempts(caplog: pytest.LogCaptureFixture) -> None:
    is_deaf = False

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        return Tampered(await broker.dial(), lambda data: b"" if is_deaf and CONSUME in data else data)

    settings = replace(anyamqp.Settings.from_urls(URL), request_timeout=None, heartbeat=0, reconnect=EAGER)
    async with (
        Broker(heartbeat=0) as broker,
        anyamqp.connect(settings, dial=dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.consumer("q"):
            is_deaf = True
            broker.reset_connections()
            await anyio.sleep(400)
            assert connection.stats.link_number > 4
            assert str(connection.stats.last_error) == "opening a channel: no answer within 60.0 s"
            is_deaf = False
            await connection.wait_ready(120)
    assert max(message.count("no answer") for message in caplog.messages) == 1


# --- entities that vanish while recovery is under way ---------------------------------------------------------------


class HalfDead:
    """Dials a broker over lines of which it cuts the client's end: the broker goes on as if the client were there."""

    def __init__(self, broker: Broker) -> None:
        self.lines: list[Line] = []
        self._broker = broker

    async def dial(self, _: anyamqp.Address) -> anyio.abc.ByteStream:
        self.lines.append(Line(await self._broker.dial()))
        return self.lines[-1]


class Line(anyio.abc.ByteStream):
    """A transport whose end the client is told of by :meth:`hang_up`, and the broker by :meth:`let_go`."""

    def __init__(self, inner: anyio.abc.ByteStream) -> None:
        self._inner = inner
        self._reading: anyio.CancelScope | None = None
        self._is_cut = False

    def hang_up(self) -> None:
        self._is_cut = True
        if self._reading is not None:
            self._reading.cancel()

    async def let_go(self) -> None:
        await self._inner.aclose()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with anyio.CancelScope() as self._reading:
            return await self._inner.receive(max_bytes)
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        if not self._is_cut:
            await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        if not self._is_cut:
            await self._inner.aclose()


class Refusals:
    """Counts how often the broker refuses to declare a queue."""

    def __init__(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._declare = broker.model.declare_queue
        monkeypatch.setattr(broker.model, "declare_queue", self.declare)

    def declare(self, wanted: Declaration, user: object) -> ModelQueue:
        try:
            return self._declare(wanted, user)
        except anyamqp.ReplyError:
            self.count += 1
            raise


async def test_an_exchange_that_goes_with_the_old_link_is_declared_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The auto-delete exchange still exists when it is declared again, and goes with the old link's queue."""
    async with Broker() as broker:
        half_dead = HalfDead(broker)
        refusals = Refusals(broker, monkeypatch)
        async with (
            anyamqp.connect(URL, dial=half_dead.dial, reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher(exchange="x") as publisher,
        ):
            await channel.declare_exchange("x", "fanout", auto_delete=True)
            queue = await channel.declare_queue("q", exclusive=True)
            await channel.bind_queue(queue, "x")
            async with connection.consumer(queue) as consumer:
                half_dead.lines[0].hang_up()
                await eventually(lambda: refusals.count > 1)
                await half_dead.lines[0].let_go()
                await connection.wait_ready(10)
                await publisher.publish(Message(b"by way of the binding"))
                with anyio.fail_after(5):
                    assert (await anext(consumer)).body == b"by way of the binding"
            await channel.set_qos(1)
            assert connection.stats.link_number == 2


async def test_a_queue_that_goes_with_the_old_link_is_declared_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """An auto-delete queue goes with the last consumer of the old link, before its new one is there."""
    async with Broker() as broker:
        half_dead = HalfDead(broker)
        refusals = Refusals(broker, monkeypatch)
        async with (
            anyamqp.connect(URL, dial=half_dead.dial, reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue("goes", auto_delete=True)
            await channel.declare_queue("locked", exclusive=True)
            async with connection.consumer("goes") as consumer:
                half_dead.lines[0].hang_up()
                await eventually(lambda: refusals.count > 1)
                await half_dead.lines[0].let_go()
                await connection.wait_ready(10)
                await publisher.publish(Message(b"after"), routing_key="goes")
                with anyio.fail_after(5):
                    assert (await anext(consumer)).body == b"after"


async def test_a_binding_whose_exchange_never_comes_back_fails_after_a_few_passes() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
        connection.channel() as owner,
    ):
        broker.model.declare_exchange(ModelExchange("x", "fanout", durable=True))
        await channel.declare_queue("q")
        await owner.bind_queue("q", "x")
        broker.model.exchanges.pop("x")
        sent = connection.stats.frames_sent
        await lose(broker, connection)
        with pytest.raises(anyamqp.ChannelClosed, match="no exchange 'x'"):
            await owner.set_qos(1)
        await channel.set_qos(1)
        assert connection.stats.link_number == 2
        assert connection.stats.frames_sent - sent < 40


# --- requests that cost the link ------------------------------------------------------------------------------------


class Deadly:
    """Makes the broker close the connection for a request that holds certain bytes.

    Attributes:
        needle: the bytes; None to let everything pass.
        kills: how often it did.
    """

    def __init__(self, broker: Broker) -> None:
        self.needle: bytes | None = None
        self.kills = 0
        self._broker = broker

    async def dial(self, _: anyamqp.Address) -> anyio.abc.ByteStream:
        return Tampered(await self._broker.dial(), self._take)

    def _take(self, data: bytes) -> bytes:
        if self.needle is None or self.needle not in data:
            return data
        self.kills += 1
        self._broker.close_connections(541, "INTERNAL_ERROR")
        return b""


def refuse_transient(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ 4.3, deprecated_features.permit.transient_nonexcl_queues = false."""
    declare_queue = broker.model.declare_queue

    def declare(wanted: Declaration, user: object) -> ModelQueue:
        if not wanted.durable and wanted.owner is None:
            raise anyamqp.InternalError("INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.")
        return declare_queue(wanted, user)

    monkeypatch.setattr(broker.model, "declare_queue", declare)


async def test_a_request_that_costs_the_link_by_541_raises_it_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        refuse_transient(broker, monkeypatch)
        with anyio.fail_after(5), pytest.raises(anyamqp.InternalError, match=r"deprecated\. \(queue\.declare\)"):
            await channel.declare_queue("q", durable=False)
        await connection.wait_ready(5)
        assert connection.stats.link_number == 2


async def test_a_queue_that_costs_the_link_by_541_in_recovery_is_given_up_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, AnyamqpError]] = []
    recovery = TopologyRecovery(on_error=lambda entity, error: told.append((entity.name, error)))
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER, topology_recovery=recovery) as connection,
        connection.channel() as channel,
        connection.channel() as owner,
    ):
        await channel.declare_queue("first")
        await owner.declare_queue("transient", durable=False)
        await channel.declare_queue("last")
        broker.model.queues.clear()
        refuse_transient(broker, monkeypatch)
        for _ in range(2):
            broker.reset_connections()
            await connection.wait_ready(5)
            await channel.set_qos(1)
        assert broker.queues.keys() == {"first", "last"}
        assert [(name, type(error)) for name, error in told] == [("transient", anyamqp.InternalError)]
        with pytest.raises(anyamqp.ChannelClosed, match="deprecated"):
            await owner.set_qos(1)
        assert connection.stats.link_number == 4  # the queue cost the second one


async def test_a_request_that_costs_link_after_link_without_a_name_is_given_up() -> None:
    """An exception inside the broker: 541 that names no method."""
    async with Broker() as broker:
        deadly = Deadly(broker)
        async with (
            anyamqp.connect(URL, dial=deadly.dial, reconnect=EAGER) as connection,
            connection.channel() as channel,
        ):
            deadly.needle = b"deadly"
            with anyio.fail_after(5), pytest.raises(anyamqp.InternalError):
                await channel.declare_queue("deadly")
            await connection.wait_ready(5)
            assert deadly.kills == 3
            await channel.set_qos(1)


async def test_a_queue_that_costs_the_link_without_a_name_in_recovery_is_found_and_given_up() -> None:
    async with Broker() as broker:
        deadly = Deadly(broker)
        async with (
            anyamqp.connect(URL, dial=deadly.dial, reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.channel() as owner,
        ):
            for number in range(5):
                await channel.declare_queue(f"q{number}")
            await owner.declare_queue("deadly")
            await channel.declare_queue("last")
            broker.model.queues.clear()
            deadly.needle = b"deadly"
            await lose(broker, connection)
            assert broker.queues.keys() == {"q0", "q1", "q2", "q3", "q4", "last"}
            with pytest.raises(anyamqp.ChannelClosed, match="INTERNAL_ERROR"):
                await owner.set_qos(1)
            await channel.set_qos(1)
            assert deadly.kills == 2


async def test_a_consumer_that_costs_the_link_without_a_name_is_found_and_ends() -> None:
    async with Broker() as broker:
        deadly = Deadly(broker)
        async with (
            anyamqp.connect(URL, dial=deadly.dial, reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue("q")
            async with (
                connection.consumer("q", consumer_tag="deadly") as consumer,
                connection.consumer("q") as innocent,
            ):
                deadly.needle = b"deadly"
                await lose(broker, connection)
                with anyio.fail_after(5), pytest.raises(anyamqp.InternalError):
                    await anext(consumer)
                await publisher.publish(Message(b"goes on"), routing_key="q", timeout=5)
                with anyio.fail_after(5):
                    assert (await anext(innocent)).body == b"goes on"
            assert deadly.kills == 2


# --- exceptions that nobody expects ---------------------------------------------------------------------------------


class Odd:
    """A dial function that raises something else than OSError for as long as it is told to."""

    def __init__(self, broker: Broker) -> None:
        self.is_failing = False
        self.dials = 0
        self._broker = broker

    async def __call__(self, _: anyamqp.Address) -> anyio.abc.ByteStream:
        self.dials += 1
        if self.is_failing:
            raise LookupError("no tunnel of that name")
        return await self._broker.dial()


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_a_dial_function_that_raises_costs_attempts_and_not_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Invariant 10: and the attempts are spaced by the policy."""
    steady = ReconnectPolicy.constant(1.0)
    async with Broker() as broker:
        odd = Odd(broker)
        async with anyamqp.connect(URL, dial=odd, reconnect=steady) as connection, connection.channel() as channel:
            odd.is_failing = True
            broker.reset_connections()
            await anyio.sleep(30)
            assert 28 <= odd.dials <= 32
            error = connection.stats.last_error
            assert isinstance(error, anyamqp.UnexpectedFailure)
            assert isinstance(error.__cause__, LookupError)
            odd.is_failing = False
            await connection.wait_ready(5)
            await channel.set_qos(1)
    assert "Traceback" in caplog.text
    assert "no tunnel of that name" in caplog.text


async def test_a_dial_function_that_raises_at_first_fails_the_connect_at_once() -> None:
    async with Broker() as broker:
        odd = Odd(broker)
        odd.is_failing = True
        with anyio.fail_after(5), pytest.raises(anyamqp.UnexpectedFailure, match="no tunnel") as caught:
            async with anyamqp.connect(URL, dial=odd):
                pytest.fail("connected")
        assert isinstance(caught.value.__cause__, LookupError)
        assert odd.dials == 1


async def test_a_dial_function_that_raises_at_first_is_asked_again_without_fail_fast() -> None:
    async with Broker() as broker:
        odd = Odd(broker)
        odd.is_failing = True
        async with anyamqp.connect(URL, dial=odd, reconnect=EAGER, fail_fast=False, ready_timeout=0) as connection:
            await eventually(lambda: odd.dials > 2)
            odd.is_failing = False
            await connection.wait_ready(5)


async def await_what_was_cancelled() -> None:
    foreign = asyncio.get_running_loop().create_future()
    foreign.cancel()
    await foreign


def read_what_was_cancelled() -> bool:
    foreign: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    foreign.cancel()
    return foreign.result()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("where", ["credentials", "dial", "wanted", "on_error"])
async def test_a_foreign_cancellation_costs_an_attempt_and_not_the_connection(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 10: the connection goes on, and the user's block with it."""
    left = {where}

    async def credentials() -> anyamqp.Credentials:
        await anyio.lowlevel.checkpoint()
        if is_lost and "credentials" in left:
            left.clear()
            await await_what_was_cancelled()
        return anyamqp.Credentials("guest", "guest")

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        if is_lost and "dial" in left:
            left.clear()
            await await_what_was_cancelled()
        return await broker.dial()

    def wanted(_: Entity) -> bool:
        if "wanted" in left:
            left.clear()
            return read_what_was_cancelled()
        return True

    def on_error(_: Entity, _error: Exception) -> None:
        left.clear()
        read_what_was_cancelled()

    is_lost = False
    recovery = TopologyRecovery(wanted=wanted, on_error=on_error)
    settings = anyamqp.Settings(credentials=credentials, reconnect=EAGER, topology_recovery=recovery)
    async with (
        Broker() as broker,
        anyamqp.connect(settings, dial=dial) as connection,
        connection.channel() as channel,
        connection.channel() as owner,
    ):
        await owner.declare_queue("q")
        if where == "on_error":
            broker.model.queues["q"] = ModelQueue(Declaration("q", durable=False), broker.model)
        is_lost = True
        await lose(broker, connection)
        assert not left
        assert (await channel.declare_queue("other")).name == "other"
    assert "CancelledError" in caplog.text


async def test_an_error_of_each_hook_is_logged_under_its_name(caplog: pytest.LogCaptureFixture) -> None:
    def wanted(_: Entity) -> bool:
        raise LookupError("of wanted")

    def on_error(_: Entity, _error: Exception) -> None:
        raise ValueError("of on_error")

    await lose_with_a_queue_that_is_refused(TopologyRecovery(wanted=wanted, on_error=on_error))
    assert logged_hooks(caplog) == {
        "topology_recovery.wanted raised": "of wanted",
        "topology_recovery.on_error raised": "of on_error",
    }


async def test_a_wanted_hook_whose_result_is_neither_true_nor_false_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Unknown:
        def __bool__(self) -> bool:
            raise TypeError("the truth value is unknown")

    told: list[str] = []
    recovery = TopologyRecovery(
        wanted=lambda _: cast("bool", Unknown()), on_error=lambda entity, _: told.append(entity.name)
    )
    await lose_with_a_queue_that_is_refused(recovery)
    assert told == ["q"]
    assert logged_hooks(caplog) == {"topology_recovery.wanted raised": "the truth value is unknown"}


async def lose_with_a_queue_that_is_refused(recovery: TopologyRecovery) -> None:
    """Lose a connection whose queue was deleted meanwhile, and declared by somebody else with other properties."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER, topology_recovery=recovery) as connection,
        connection.channel() as owner,
    ):
        await owner.declare_queue("q")
        broker.model.queues["q"] = ModelQueue(Declaration("q", durable=False), broker.model)
        await lose(broker, connection)


def logged_hooks(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """The lines about hooks, each with the text of the exception that it shows."""
    shown = [record for record in caplog.records if record.getMessage().startswith("topology_recovery.")]
    return {record.getMessage(): str(record.exc_info[1]) for record in shown if record.exc_info is not None}


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Have a method raise at its next call, as a fault of ours would."""
    sound: Callable[..., object] = getattr(owner, name)
    faults = [ZeroDivisionError("a fault of ours")]

    def fails(*args: object, **named: object) -> object:
        if faults:
            raise faults.pop()
        return sound(*args, **named)

    monkeypatch.setattr(owner, name, fails)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Recovery, "run"),
        (ConnectionCore, "_repeat_block"),
        (Session, "receive"),
        (Session, "poll"),
        (ChannelCore, "on_reply"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
async def test_a_fault_of_ours_costs_the_link_and_not_the_connection(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        fail_once(monkeypatch, owner, name)
        broker.reset_connections()
        await eventually(lambda: connection.stats.link_number == 3)
        await connection.wait_ready(5)
        assert await channel.purge_queue("q") == 0
        await eventually(lambda: broker.connection_count == 1)
    assert "a fault of ours" in caplog.text


@pytest.mark.parametrize(
    ("owner", "name", "is_ready"),
    [(Dispatcher, "tell", True), (ConnectionCore, "_repeat_block", False)],
    ids=["link", "connection"],
)
async def test_a_fault_on_the_first_link_costs_no_more(
    owner: type, name: str, is_ready: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it was OPEN the connection goes on under its policy, ``fail_fast`` or not."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER, ready_timeout=0) as connection,
    ):
        if is_ready:
            await connection.wait_ready(5)
        fail_once(monkeypatch, owner, name)
        async with connection.channel() as channel:
            await eventually(lambda: connection.stats.link_number == 2)
            await connection.wait_ready(5)
            assert (await channel.declare_queue("q")).name == "q"
    assert "a fault of ours" in caplog.text


async def test_a_fault_of_ours_is_the_reason_that_everybody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=EAGER) as connection,
        connection.channel() as channel,
    ):
        transitions = connection.transitions()
        fail_once(monkeypatch, Session, "receive")
        with anyio.fail_after(5):
            await channel.declare_queue("q")
            told: dict[str, str | None] = {}
            async for transition in transitions:
                if transition.event in (ConnectionEvent.LOST, ChannelEvent.LOST):
                    told[transition.machine] = transition.reason
                if len(told) == 2:
                    break
        assert list(told) == ["connection", "channel 1"]
        assert all("a fault of ours" in str(reason) for reason in told.values())


async def test_a_fault_in_a_timer_costs_neither_the_connection_nor_other_timers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_once(monkeypatch, OutboxShell, "_due")
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as unlucky,
        connection.publisher() as publisher,
    ):
        broker.freeze()
        await unlucky.submit(Message(b"1"), routing_key="q", timeout=0.01)
        await eventually(lambda: "a fault of ours" in caplog.text)
        with anyio.fail_after(5), pytest.raises(anyamqp.PublishTimeout):
            await publisher.publish(Message(b"2"), routing_key="q", timeout=0.01)
        broker.thaw()
        await eventually(lambda: unlucky.unconfirmed == 0)
        with pytest.raises(ExceptionGroup):
            await unlucky.flush()
        assert connection.stats.link_number == 1


async def test_an_auto_delete_queue_stays_gone_once_its_last_consumer_has_gone() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("passing", auto_delete=True)
        await channel.declare_queue("lasting", auto_delete=True)
        async with connection.consumer("lasting"):
            async with connection.consumer("passing"), connection.consumer("passing"):
                pass
            assert set(broker.queues) == {"lasting"}
            broker.reset_connections()
            await eventually(lambda: connection.stats.reconnects == 1)
            await connection.wait_ready(10)
            assert set(broker.queues) == {"lasting"}
