"""The actors of a world: what users of anyamqp do, at random, with the errors that they must expect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio

from anyamqp import (
    ChannelClosed,
    Connection,
    ConnectionLost,
    Consumer,
    ConsumerCancelled,
    Delivery,
    Message,
    NotFound,
    PreconditionFailed,
    Publication,
    Publisher,
    RemoteError,
    ReplyError,
    ReplyTimeout,
    RequestTimeout,
    ResourceLocked,
    RpcClient,
    Unroutable,
)
from anyamqp import serve_rpc as serve
from tools.simulate.messages import MISSING, NOWHERE, Publish
from tools.simulate.plan import Actor
from tools.simulate.violation import Violation, innermost

if TYPE_CHECKING:
    from tools.simulate.world import World

_TIMEOUTS: Final = (None, 0.5, 5.0, 60.0)


# --- publishing -----------------------------------------------------------------------------------------------------


async def publisher(world: World, actor: Actor) -> None:
    """Several tasks publish over one publisher, and await each outcome."""
    numbers = [count(1) for _ in range(actor.width)]
    while world.is_acting:
        with _given_up(world, actor):
            async with (
                world.connections[actor.connection].publisher(window=64) as one,
                anyio.create_task_group() as tasks,
            ):
                world.invariants.publishers[one] = 64
                for task in range(actor.width):
                    tasks.start_soon(_publish_all, world, actor, one, task, numbers[task])
        await world.pause(1)


@contextmanager
def _given_up(world: World, actor: Actor) -> Generator[None, None, None]:
    """Begin again where the broker refuses a request that sets a channel up: it is given up."""
    try:
        yield
    except* (ConsumerCancelled, NotFound, ReplyError, ChannelClosed, RequestTimeout) as group:
        first = innermost(group)
        world.log(actor.name, f"{type(first).__name__}: {first}")
        world.count(f"{actor.kind} {type(first).__name__}")


async def _publish_all(world: World, actor: Actor, one: Publisher, task: int, numbers: Iterator[int]) -> None:
    random = world.random(f"{actor.name} {task}")
    while world.is_acting:
        await world.pause(random.expovariate(1 / actor.pace))
        for _ in range(random.choice((1, 1, 1, 5))):
            publish = _publish(world, actor, random, task, next(numbers))
            patience = random.choice((0.0, 0.01, 1.0)) if random.random() < 0.05 else 1e6
            with anyio.move_on_after(patience) as scope:
                await _await_outcome(world, one, publish)
            if scope.cancelled_caught:
                world.messages.cancelled(publish)
                world.count("publish cancelled")


def _publish(world: World, actor: Actor, random: Random, task: int, number: int) -> Publish:
    chance = random.random()
    timeout = random.choice(_TIMEOUTS)
    publish = Publish(
        f"{actor.name}:{task}:{number}".encode(),
        MISSING if chance < 0.01 else "",
        NOWHERE if 0.01 < chance < 0.05 else actor.queue,
        None if timeout is None else world.now + timeout,
        world.now,
    )
    world.messages.begin(publish)
    return publish


def _timeout(publish: Publish) -> float | None:
    return None if publish.deadline is None else publish.deadline - publish.began_at


async def _await_outcome(world: World, one: Publisher, publish: Publish) -> None:
    try:
        await one.publish(
            publish.message, exchange=publish.exchange, routing_key=publish.queue, timeout=_timeout(publish)
        )
    except Exception as error:  # noqa: BLE001 - each error is checked
        _failed(world, publish, error)
    else:
        world.messages.confirm(publish)
        world.count("publish confirmed")


def _failed(world: World, publish: Publish, error: Exception) -> None:
    world.messages.fail(publish, error, world.now)
    world.count(f"publish {type(error).__name__}")
    world.log(publish.body.decode(), type(error).__name__)
    if isinstance(error, ChannelClosed):
        raise error


async def submitter(world: World, actor: Actor) -> None:
    """Submits batches, whose outcomes it awaits one by one or with flush."""
    random = world.random(actor.name)
    numbers = count(1)
    while world.is_acting:
        with _given_up(world, actor):
            async with world.connections[actor.connection].publisher(window=actor.width) as one:
                world.invariants.publishers[one] = actor.width
                while world.is_acting:
                    await world.pause(random.choice((0.1, random.expovariate(1 / (5 * actor.pace)))))
                    await _submit_batch(world, actor, one, random, numbers)
        await world.pause(1)


async def _submit_batch(world: World, actor: Actor, one: Publisher, random: Random, numbers: Iterator[int]) -> None:
    batch: dict[Publish, Publication] = {}
    errors: list[Exception] = []
    for _ in range(random.randint(1, 40)):
        publish = _publish(world, actor, random, 0, next(numbers))
        try:
            batch[publish] = await one.submit(
                publish.message, exchange=publish.exchange, routing_key=publish.queue, timeout=_timeout(publish)
            )
        except Exception as error:  # noqa: BLE001 - each error is checked
            errors.append(error)
            world.messages.fail(publish, error, world.now)
    if random.random() < 0.5:
        try:
            await one.flush()
        except ExceptionGroup:
            world.count("flush failed")
    for publish, publication in batch.items():
        try:
            await publication
        except Exception as error:  # noqa: BLE001 - each error is checked
            errors.append(error)
            world.messages.fail(publish, error, world.now)
            world.log(publish.body.decode(), type(error).__name__)
        else:
            world.messages.confirm(publish)
            world.count("submit confirmed")
    for failure in errors:
        world.count(f"submit {type(failure).__name__}")
        if isinstance(failure, ChannelClosed):
            raise failure


# --- consuming ------------------------------------------------------------------------------------------------------


async def consumer(world: World, actor: Actor) -> None:
    """Consumes, settles in many ways, stops now and then and begins again."""
    random = world.random(actor.name)
    while True:
        with _given_up(world, actor):
            async with (
                world.connections[actor.connection].consumer(
                    actor.queue, prefetch=actor.width, on_cancel=random.choice(("raise", "resubscribe", "end"))
                ) as one,
                anyio.create_task_group() as tasks,
            ):
                world.invariants.consumers[one] = world.now
                try:
                    await _consume(world, random, one, tasks.start_soon)
                finally:
                    world.invariants.consumers.pop(one, None)
        world.count("consumer ended")
        await anyio.sleep(random.uniform(0.1, 2))


async def _consume(world: World, random: Random, one: Consumer, start_soon: Callable[..., object]) -> None:
    left = random.randint(50, 500)
    async for delivery in one:
        world.messages.deliver(delivery.body)
        world.count("delivery")
        if random.random() < 0.2 and world.is_acting:
            await anyio.sleep(random.expovariate(20))
        chance = random.random() if world.is_acting else 0.0
        if delivery.is_settled:
            continue
        if chance < 0.75:
            delivery.ack()
        elif chance < 0.80:
            delivery.ack(multiple=True)
        elif chance < 0.85:
            delivery.nack()
        elif chance < 0.88:
            delivery.reject(requeue=True)
        elif chance < 0.91:
            delivery.requeue(after=random.uniform(0, 5))
        elif chance < 0.93:
            delivery.reject()
        else:
            start_soon(_ack_later, delivery, random.expovariate(1 / 4))
        left -= 1
        if left == 0 and world.is_acting:
            await one.stop()


async def _ack_later(delivery: Delivery, seconds: float) -> None:
    await anyio.sleep(seconds)
    if not delivery.is_settled:
        delivery.ack()


# --- channels -------------------------------------------------------------------------------------------------------


async def declarer(world: World, actor: Actor) -> None:
    """Declares, binds, publishes to, reads and deletes queues of its own, and makes errors."""
    random = world.random(actor.name)
    connection = world.connections[actor.connection]
    number = 0
    while world.is_acting:
        try:
            async with connection.channel() as channel:
                for _ in range(random.randint(1, 6)):
                    number += 1
                    name = f"{actor.name}-{number}"
                    await channel.declare_queue(name, exclusive=random.random() < 0.5)
                    await channel.declare_exchange(f"{name}-x", "topic")
                    await channel.bind_queue(name, f"{name}-x", "a.*")
                    await channel.publish(Message(name.encode()), exchange=f"{name}-x", routing_key="a.b")
                    await world.pause(random.expovariate(1 / actor.pace))
                    await _get(channel.get(name))
                    if random.random() < 0.1:
                        await channel.declare_queue(NOWHERE, passive=True)
                    await channel.delete_queue(name)
                    await channel.delete_exchange(f"{name}-x")
        except (NotFound, PreconditionFailed, ResourceLocked, ReplyError, ChannelClosed) as error:
            world.log(actor.name, f"{type(error).__name__}: {error}")
            world.count(f"channel {type(error).__name__}")
        except (RequestTimeout, ConnectionLost) as error:
            world.log(actor.name, f"{type(error).__name__}: {error}")
            world.count(f"request {type(error).__name__}")
        await world.pause(random.expovariate(1 / (5 * actor.pace)))


async def _get(getting: Awaitable[Delivery | None]) -> None:
    delivery = await getting
    if delivery is not None:
        delivery.ack()


# --- request and reply ----------------------------------------------------------------------------------------------


async def server(world: World, actor: Actor) -> None:
    """Answers calls."""
    connection: Connection = world.connections[actor.connection]

    async def answer(request: Delivery) -> Message:
        await anyio.sleep(0.01)
        if request.body.endswith(b"7"):
            raise ValueError("seven")
        return Message(b"re:" + request.body)

    while True:
        with _given_up(world, actor):
            async with (
                connection.consumer(actor.queue, prefetch=actor.width) as one,
                connection.publisher() as replies,
            ):
                await serve(one, replies, answer, concurrency=actor.width)
        await anyio.sleep(0.1)


async def client(world: World, actor: Actor) -> None:
    """Calls the server, from several tasks, and checks that each reply is the answer to its request."""
    while world.is_acting:
        with _given_up(world, actor):
            async with (
                world.connections[actor.connection].rpc_client(timeout=10) as rpc,
                anyio.create_task_group() as tasks,
            ):
                for task in range(actor.width):
                    tasks.start_soon(_call_all, world, actor, rpc, task)
        await world.pause(0.5)


async def _call_all(world: World, actor: Actor, rpc: RpcClient, task: int) -> None:
    random = world.random(f"{actor.name} {task}")
    number = 0
    while world.is_acting:
        number += 1
        body = f"{actor.name}.{task}.{number}".encode()
        await world.pause(random.expovariate(1 / actor.pace))
        try:
            reply = await rpc.call(Message(body), routing_key=actor.queue)
        except (Unroutable, ReplyTimeout, ConnectionLost, RemoteError, ReplyError) as error:
            world.count(f"call {type(error).__name__}")
            world.log(actor.name, type(error).__name__)
        else:
            world.count("call answered")
            if reply.body != b"re:" + body:
                world.broken(Violation(12, f"{body!r} got the reply {reply.body!r}"))


KINDS: Final[dict[str, Callable[[World, Actor], Coroutine[Any, Any, None]]]] = {
    "publisher": publisher,
    "submitter": submitter,
    "consumer": consumer,
    "declarer": declarer,
    "server": server,
    "client": client,
}
