"""Names and contents of queues at a broker that other tests use at the same time."""

from __future__ import annotations

import uuid

import anyio

from anyamqp import Channel, Delivery


def unique(kind: str) -> str:
    """A name that nothing else at the broker has."""
    return f"{kind}-{uuid.uuid4().hex}"


async def depth(channel: Channel, queue: str) -> int:
    """How many messages are ready in a queue; those that a consumer holds do not count."""
    return (await channel.declare_queue(queue, passive=True)).message_count


async def until_depth(channel: Channel, queue: str, expected: int, *, within: float = 20) -> None:
    """Wait until so many messages are ready: the broker handles acks and returns in its own time.

    Raises:
        TimeoutError: that took longer than ``within`` seconds.
    """
    with anyio.fail_after(within):
        while await depth(channel, queue) != expected:  # noqa: ASYNC110 - the broker announces nothing
            await anyio.sleep(0.01)


async def take_all(channel: Channel, queue: str) -> list[Delivery]:
    """All ready messages of a queue, taken out of it."""
    taken: list[Delivery] = []
    while (delivery := await channel.get(queue, no_ack=True)) is not None:
        taken.append(delivery)
    return taken


async def take_bodies(channel: Channel, queue: str) -> list[bytes]:
    """The bodies of all ready messages of a queue, taken out of it."""
    return [delivery.body for delivery in await take_all(channel, queue)]
