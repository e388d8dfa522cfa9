"""The fingerprint of a world: equal for worlds from which the same can happen.

It leaves out the names of objects and the counters of traffic. Of times it has the seconds left until each deadline,
and ages below one second, because the real objects treat young channels differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import TypeAlias, cast

from anyamqp.core.link_channel import LinkChannel
from anyamqp.delivery import Delivery
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.recovering import RecoveryCore
from anyamqp.protocol.requests import Request
from anyamqp.wire.frames import method_name
from tools.explore.broker import BrokerLink, Published, Unread
from tools.explore.consumer import Consumer
from tools.explore.publisher import Publisher
from tools.explore.recovery import PlainRecovery
from tools.explore.user_channel import UserChannel
from tools.explore.world import World

Facts: TypeAlias = tuple[object, ...]
_YOUNG = 1.0
_ELSEWHERE = ("_connection", "_lifecycle", "_topology", "declaring")
"""The attributes of a recovery that are elsewhere in the fingerprint, or do nothing without entities."""


def fingerprint(world: World) -> bytes:
    """The fingerprint."""
    return blake2b(repr(facts(world)).encode(), digest_size=12).digest()


def facts(world: World) -> Facts:
    """All that the fingerprint is made of."""
    core, now = world.core, world.clock.now()
    channels = {id(channel): number for number, channel in enumerate(_channels(world))}
    return (
        core.state.name,
        world.is_dialing,
        _left(now, world.pause_until, world.leaving.deadline, *(at for at, _ in world.clock.calls)),
        world.is_over,
        tuple(world.left),
        tuple(_channel(channel) for channel in _channels(world)),
        tuple(channels.get(id(channel)) for channel in core.channels),
        _recovery(world.recovery, channels, now),
        _link(world, channels),
        world.channel and _user(world.channel),
        world.publisher and _publisher(world.publisher, now),
        world.consumer and _consumer(world, world.consumer, now),
        _broker(world),
    )


def _channels(world: World) -> list[ChannelCore[LinkChannel]]:
    """The channels that something in the world still knows, in an order that does not depend on their names."""
    own = [part.core if isinstance(part, UserChannel) else part.channel for part in _parts(world)]
    handlers = [] if world.link is None else list(world.link.dispatcher.handlers.values())
    return list(dict.fromkeys([*own, *world.core.channels, *cast("list[ChannelCore[LinkChannel]]", handlers)]))


def _parts(world: World) -> list[UserChannel | Publisher | Consumer]:
    return [part for part in (world.channel, world.publisher, world.consumer) if part is not None]


def _left(now: float, *deadlines: float) -> Facts:
    return tuple(round(at - now, 3) if at < math.inf else None for at in deadlines)


def _age(now: float, at: float) -> float:
    return round(min(now - at, _YOUNG), 3)


def _channel(channel: ChannelCore[LinkChannel]) -> Facts:
    link_channel = channel.link_channel
    return channel.state.name, None if link_channel is None else link_channel.number, type(channel.error).__name__


def _link(world: World, channels: dict[int, int]) -> Facts:
    link = world.link
    if link is None:
        return ()
    session, handlers = link.session, link.dispatcher.handlers
    return (
        session.state.name,
        session.block and (session.block.reason, session.block.since - world.clock.now()),
        session.channel_count,
        bool(session.bytes_received),
        link.dispatcher.has_worked,
        tuple((number, channels.get(id(handler))) for number, handler in sorted(handlers.items())),
        tuple(tuple(map(_request, session.unanswered(number))) for number in sorted(handlers)),
    )


def _request(request: Request | None) -> Facts:
    if request is None:
        return ()
    return method_name(request.method), request.purpose.name, request.is_over, type(request.error).__name__


def _recovery(recovery: PlainRecovery, channels: dict[int, int], now: float) -> Facts:
    """All that it remembers of this link. Without a deadline, nothing but its state has consequences."""
    core = recovery.core
    if recovery.deadline == math.inf:
        return (core.state.name,)
    kept = [getattr(core, name) for name in sorted(RecoveryCore.__slots__) if name not in _ELSEWHERE]
    return (
        core.state.name,
        recovery.is_running,
        _left(now, recovery.begun_at),
        [channels.get(id(channel)) for channel in recovery.left_behind],
        *(_kept(one, channels, now) for one in kept),
    )


def _kept(one: object, channels: dict[int, int], now: float) -> object:
    if isinstance(one, float):
        return _left(now, one)
    if isinstance(one, dict | set):
        return [channels.get(id(channel)) for channel in cast("Iterable[object]", one)]
    return one


def _user(channel: UserChannel) -> Facts:
    return channel.is_asking, channel.is_repeating, _request(channel.request), type(channel.error).__name__


def _publisher(publisher: Publisher, now: float) -> Facts:
    outbox = publisher.outbox
    return (
        outbox.state.name,
        outbox.suspects,
        _left(now, outbox.deadline, publisher.leave_by),
        [(tag, pending.number) for tag, pending in outbox.ledger.tagged()],
        [pending.number for pending in outbox.backlog],
        [_publish(pending) for pending, _ in publisher.publishes],
        [_left(now, pending.deadline) for pending, _ in publisher.publishes if pending.outcome is None],
        publisher.is_entering,
        publisher.is_leaving,
        publisher.reopenings,
        _age(now, publisher.opened_at),
    )


def _publish(pending: PendingPublish) -> Facts:
    outcome = type(pending.outcome).__name__
    return outcome, min(pending.attempts, 2), pending.closes, pending.was_lost, pending.returned is not None


def _consumer(world: World, consumer: Consumer, now: float) -> Facts:
    subscription = consumer.subscription
    return (
        subscription.state.name,
        _left(now, subscription.deadline, consumer.leave_by),
        [_delivery(delivery) for delivery in subscription.waiting],
        consumer.held and _delivery(consumer.held),
        type(subscription.error).__name__,
        consumer.is_entering,
        consumer in world.core.consumers,
        _request(consumer.farewell),
        consumer.endings,
        _age(now, consumer.opened_at),
    )


def _delivery(delivery: Delivery) -> Facts:
    return delivery.delivery_tag, delivery.is_stale


def _broker(world: World) -> Facts:
    broker = world.broker
    own = broker.waiting, sorted(broker.stored), broker.seen, broker.is_blocking
    return own if broker.link is None else (*own, *_broker_link(broker.link))


def _broker_link(link: BrokerLink) -> Facts:
    return (
        link.is_greeted,
        link.is_over,
        sorted(link.ending),
        [
            (number, channel.published, channel.is_stopped, channel.consumer, channel.delivered, channel.unsettled)
            for number, channel in sorted(link.channels.items())
        ],
        [(number, list(map(_unread, unread))) for number, unread in sorted(link.unread.items()) if unread],
    )


def _unread(one: Unread) -> str:
    return one.body.decode() if isinstance(one, Published) else method_name(one)
