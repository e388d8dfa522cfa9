"""Hooks see each publish and each delivery from its beginning to its end, and can harm nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import anyio
import pytest

import anyamqp
from anyamqp import (
    Connection,
    Delivery,
    DeliveryHook,
    Hooks,
    Incoming,
    Message,
    Nacked,
    NotFound,
    Outgoing,
    PublishHook,
    PublishTimeout,
    SettingsError,
    Settlement,
    Stats,
    Transition,
    Unroutable,
)
from anyamqp.testing import Broker

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
CURRENT: ContextVar[str] = ContextVar("current", default="nobody")


class Recorder(Hooks):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.transitions: list[Transition] = []

    def transition(self, transition: Transition) -> None:
        self.transitions.append(transition)

    def publish(self, outgoing: Outgoing) -> PublishHook:
        name = outgoing.message.body.decode() or "empty"
        self.told.append(f"{outgoing.kind} {name} to {outgoing.exchange!r} {outgoing.routing_key!r}")
        outgoing.add_headers({"trace": f"t-{name}", "mine": "hook"})
        return RecordedPublish(self.told, name)

    def delivery(self, incoming: Incoming) -> DeliveryHook:
        name = incoming.delivery.body.decode()
        self.told.append(f"{'got' if incoming.is_got else 'delivered'} {name} from {incoming.queue}")
        previous = CURRENT.get()
        if not incoming.is_got:
            CURRENT.set(name)
        return RecordedDelivery(self.told, name, previous, is_got=incoming.is_got)


class RecordedPublish(PublishHook):
    def __init__(self, told: list[str], name: str) -> None:
        self._told = told
        self._name = name

    def sent(self, attempt: int) -> None:
        self._told.append(f"sent {self._name} {attempt}")

    def ended(self, error: BaseException | None) -> None:
        self._told.append(f"ended {self._name} {'well' if error is None else type(error).__name__}")


class RecordedDelivery(DeliveryHook):
    def __init__(self, told: list[str], name: str, previous: str, *, is_got: bool) -> None:
        self._told = told
        self._name = name
        self._previous = previous
        self._is_got = is_got

    def failed(self, error: BaseException) -> None:
        self._told.append(f"failed {self._name} {type(error).__name__}")

    def ended(self, settlement: Settlement) -> None:
        self._told.append(f"{settlement} {self._name}")

    def left(self) -> None:
        if not self._is_got:
            CURRENT.set(self._previous)


class Breaking(Hooks):
    """Raises wherever it can."""

    def transition(self, transition: Transition) -> None:
        raise RuntimeError(f"in {transition}")

    def publish(self, outgoing: Outgoing) -> PublishHook:
        raise RuntimeError(f"in publish of {outgoing.message.body!r}")

    def delivery(self, incoming: Incoming) -> DeliveryHook:
        raise RuntimeError(f"in delivery from {incoming.queue}")


@asynccontextmanager
async def connected(*hooks: Hooks) -> AsyncGenerator[tuple[Broker, Connection], None]:
    """A connection to a broker with the queue "q"."""
    with anyio.fail_after(10):
        async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, hooks=hooks) as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("q")
            yield broker, connection


async def fill(connection: Connection, *bodies: bytes) -> None:
    async with connection.publisher() as publisher:
        for body in bodies:
            await publisher.submit(Message(body), routing_key="q")


# --- publishes ------------------------------------------------------------------------------------------------------


async def test_a_publish_is_told_from_its_beginning_to_its_outcome() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"a"), routing_key="q")
        with pytest.raises(Unroutable):
            await publisher.publish(Message(b"b"), routing_key="nowhere")
        with pytest.raises(NotFound):
            await publisher.publish(Message(b"c"), exchange="missing")
    assert recorder.told == [
        "publish a to '' 'q'", "sent a 1", "ended a well",
        "publish b to '' 'nowhere'", "sent b 1", "ended b Unroutable",
        "publish c to 'missing' ''", "sent c 1", "ended c NotFound",
    ]  # fmt: skip


async def test_a_publish_that_a_reset_caught_is_told_as_sent_again() -> None:
    recorder = Recorder()
    async with connected(recorder) as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.ack").reset()
        await publisher.publish(Message(b"a"), routing_key="q")
    assert recorder.told == ["publish a to '' 'q'", "sent a 1", "sent a 2", "ended a well"]
    assert [str(one.event.value) for one in recorder.transitions if one.machine == "connection"][:3] == [
        "opened",
        "lost",
        "opened",
    ]


async def test_submitted_publishes_end_when_their_confirms_come() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection):
        await fill(connection, b"a", b"b")
    assert sorted(recorder.told[-2:]) == ["ended a well", "ended b well"]


async def test_a_publish_without_room_in_time_ends_with_its_error() -> None:
    recorder = Recorder()
    async with connected(recorder) as (broker, connection), connection.publisher(window=1, timeout=0.05) as publisher:
        broker.faults.before("basic.ack").drop()
        first = await publisher.submit(Message(b"a"), routing_key="q", timeout=0.1)
        with pytest.raises(PublishTimeout):
            await publisher.publish(Message(b"b"), routing_key="q")
        with pytest.raises(PublishTimeout):
            await first
    assert "ended b PublishTimeout" in recorder.told


async def test_headers_of_a_hook_go_under_those_of_the_message() -> None:
    async with connected(Recorder()) as (broker, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"a", headers={"mine": "message"}), routing_key="q")
        assert broker.published().one().message.headers == {"trace": "t-a", "mine": "message"}


async def test_publishes_without_confirm_and_in_transactions_are_told() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection), connection.channel() as channel:
        await channel.publish(Message(b"a"), routing_key="q")
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"b"), routing_key="q")
    assert recorder.told == [
        "publish without confirm a to '' 'q'",
        "ended a well",
        "publish in transaction b to '' 'q'",
        "ended b well",
    ]


async def test_a_call_and_its_serving_are_told() -> None:
    recorder = Recorder()
    contexts: list[str] = []

    async def serve(delivery: Delivery) -> Message:
        contexts.append(CURRENT.get())
        return Message(delivery.body + b"!")

    async with (
        connected(recorder) as (_, connection),
        connection.consumer("q") as consumer,
        connection.publisher() as publisher,
        connection.rpc_client() as rpc,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(anyamqp.serve_rpc, consumer, publisher, serve)
        assert (await rpc.call(Message(b"a"), routing_key="q")).body == b"a!"
        await consumer.stop()
    assert contexts == ["a"]
    assert {"call a to '' 'q'", "ended a well", "delivered a from q", "ack a", "ended a! well"} <= set(recorder.told)


# --- deliveries -----------------------------------------------------------------------------------------------------


async def test_a_delivery_is_the_current_one_in_the_body_of_the_loop_until_it_is_settled() -> None:
    recorder = Recorder()
    seen: list[str] = []
    async with connected(recorder) as (_, connection):
        await fill(connection, b"a", b"b")
        recorder.told.clear()
        async with connection.consumer("q") as consumer:
            async for delivery in consumer:
                seen.append(CURRENT.get())
                async with delivery:
                    seen.append(CURRENT.get())
                seen.append(CURRENT.get())
                if delivery.body == b"b":
                    break
        assert seen == ["a", "a", "nobody", "b", "b", "nobody"]
    assert recorder.told == ["delivered a from q", "ack a", "delivered b from q", "ack b"]


async def test_a_body_left_without_settling_gives_the_context_back_and_ends_with_the_block() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection):
        await fill(connection, b"a", b"b")
        recorder.told.clear()
        async with connection.consumer("q") as consumer:
            first = await anext(consumer)
            assert CURRENT.get() == "a"
            await anext(consumer)
            assert CURRENT.get() == "b"
            first.ack()
            assert CURRENT.get() == "b"
        assert CURRENT.get() == "nobody"
    assert recorder.told == ["delivered a from q", "delivered b from q", "ack a", "none b"]


async def test_an_ack_of_many_ends_them_all() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection):
        await fill(connection, b"a", b"b", b"c")
        recorder.told.clear()
        async with connection.consumer("q") as consumer:
            deliveries = [await anext(consumer) for _ in range(3)]
            deliveries[1].ack(multiple=True)
            deliveries[2].reject()
    assert recorder.told[3:] == ["ack a", "ack b", "reject c"]


async def test_handlers_side_by_side_have_each_its_own_delivery() -> None:
    recorder = Recorder()
    seen: list[tuple[str, str]] = []

    async def handle(delivery: Delivery) -> None:
        before = CURRENT.get()
        await anyio.sleep(0.001)
        seen.append((delivery.body.decode(), before))
        assert CURRENT.get() == before
        if len(seen) == 8:
            await consumer.stop()

    async with connected(recorder) as (_, connection):
        await fill(connection, *(b"%d" % number for number in range(8)))
        async with connection.consumer("q") as consumer:
            await consumer.process(handle, concurrency=4)
    assert all(body == current for body, current in seen)
    assert CURRENT.get() == "nobody"


async def test_a_handler_that_fails_is_told_before_its_delivery_ends() -> None:
    recorder = Recorder()

    async def handle(_: Delivery) -> None:
        await consumer.stop()
        raise ValueError("no")

    async with connected(recorder) as (_, connection):
        await fill(connection, b"a")
        recorder.told.clear()
        async with connection.consumer("q", on_error="reject") as consumer:
            await consumer.process(handle)
    assert recorder.told == ["delivered a from q", "failed a ValueError", "reject a"]


async def test_a_block_that_raises_is_told_before_its_delivery_ends() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection):
        await fill(connection, b"a")
        recorder.told.clear()
        async with connection.consumer("q", on_error="reject") as consumer:
            with pytest.raises(ValueError, match="no"):
                async with await anext(consumer):
                    raise ValueError("no")
    assert recorder.told == ["delivered a from q", "failed a ValueError", "reject a"]


async def test_a_delivery_whose_link_is_gone_ends_as_stale() -> None:
    recorder = Recorder()
    async with connected(recorder) as (broker, connection):
        await fill(connection, b"a")
        recorder.told.clear()
        async with connection.consumer("q") as consumer:
            first = await anext(consumer)
            broker.faults.reset()
            again = await anext(consumer)
            first.ack()
            again.ack()
    assert recorder.told == ["delivered a from q", "delivered a from q", "stale a", "ack a"]


async def test_a_delivery_without_acks_ends_with_the_next_one() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection):
        await fill(connection, b"a", b"b")
        recorder.told.clear()
        async with connection.consumer("q", no_ack=True) as consumer:
            await anext(consumer)
            await anext(consumer)
    assert recorder.told == ["delivered a from q", "none a", "delivered b from q", "none b"]
    assert CURRENT.get() == "nobody"


async def test_a_loop_within_a_loop_gives_back_the_outer_delivery() -> None:
    async with connected(Recorder()) as (_, connection):
        async with connection.channel() as channel:
            await channel.declare_queue("inner")
        await fill(connection, b"a", b"b")
        async with connection.publisher() as publisher:
            await publisher.publish(Message(b"x"), routing_key="inner")
        async with connection.consumer("q") as outer, connection.consumer("inner") as inner:
            await anext(outer)
            async for _ in inner:
                assert CURRENT.get() == "x"
                break
            await anext(outer)
            assert CURRENT.get() == "b"
        assert CURRENT.get() == "nobody"


async def test_a_message_that_get_fetched_is_told() -> None:
    recorder = Recorder()
    async with connected(recorder) as (_, connection), connection.channel() as channel:
        await fill(connection, b"a")
        recorder.told.clear()
        delivery = await channel.get("q")
        assert delivery is not None
        delivery.ack()
    assert recorder.told == ["got a from q", "none a"]


# --- what hooks cannot do -------------------------------------------------------------------------------------------


async def test_a_hook_that_raises_is_logged_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    async with connected(Breaking(), recorder) as (_, connection):
        await fill(connection, b"a")
        async with connection.consumer("q") as consumer, await anext(consumer) as delivery:
            assert delivery.body == b"a"
    assert recorder.told[-1] == "ack a"
    assert {str(one.exc_info[1]) for one in caplog.records if one.exc_info} >= {
        "in publish of b'a'",
        "in delivery from q",
    }


async def test_a_hook_that_raises_in_a_cancelled_task_does_not_hide_the_cancellation() -> None:
    class Sour(PublishHook):
        def ended(self, error: BaseException | None) -> None:
            raise RuntimeError(f"in ended: {error}")

    class Hooking(Hooks):
        def publish(self, outgoing: Outgoing) -> PublishHook:
            assert outgoing.message.body == b"a"
            return Sour()

    async with connected(Hooking()) as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.ack").drop()
        with anyio.move_on_after(0.05) as scope:
            await publisher.publish(Message(b"a"), routing_key="q")
        assert scope.cancelled_caught


async def test_what_is_no_hook_is_refused_before_anything_happens() -> None:
    with pytest.raises(SettingsError, match=r"hooks: str is not a subclass of anyamqp\.Hooks"):
        anyamqp.connect(URL, hooks=["x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def test_statistics_are_given_at_the_beginning() -> None:
    given: list[tuple[str | None, anyamqp.State]] = []

    class Asking(Hooks):
        def begun(self, name: str | None, stats: Callable[[], Stats]) -> None:
            given.append((name, stats().state))

    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, hooks=Asking(), name="billing"):
        assert given == [("billing", anyamqp.State.CONNECTING)]


async def test_a_nack_is_told_as_its_outcome() -> None:
    recorder = Recorder()
    async with connected(recorder) as (broker, connection), connection.publisher() as publisher:
        broker.faults.before("basic.ack").confirms("nacked")
        with pytest.raises(Nacked):
            await publisher.publish(Message(b"a"), routing_key="q")
    assert recorder.told[-1] == "ended a Nacked"
