"""Names and contents of queues on a broker that other tests share."""

from __future__ import annotations

import uuid

import anyio

from anyamqp import Channel, Delivery


def unique(kind: str) -> str:
    """A name that is unique on the broker."""
    return f"{kind}-{uuid.uuid4().hex}"


async def depth(channel: Channel, queue: str) -> int:
    """How many messages are ready in a queue, without those that a consumer holds."""
    return (await channel.declare_queue(queue, passive=True)).message_count


async def until_depth(channel: Channel, queue: str, expected: int, *, within: float = 20) -> None:
    """Wait until so many messages are ready: the broker handles acks and returns in its own time.

    Raises:
        TimeoutError: it took longer than ``within`` seconds.
    """
    with anyio.fail_after(within):
        while await depth(channel, queue) != expected:  # noqa: ASYNC110 - the broker announces nothing
            await anyio.sleep(0.01)


async def take_all(channel: Channel, queue: str) -> list[Delivery]:
    """Take all ready messages out of a queue."""
    taken: list[Delivery] = []
    while (delivery := await channel.get(queue, no_ack=True)) is not None:
        taken.append(delivery)
    return taken


async def take_bodies(channel: Channel, queue: str) -> list[bytes]:
    """Take all ready messages out of a queue. Returns their bodies."""
    return [delivery.body for delivery in await take_all(channel, queue)]
