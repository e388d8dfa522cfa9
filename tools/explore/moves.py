"""The moves that are possible in a world: the next steps of user, broker, network and clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from anyamqp.errors import TransportError
from anyamqp.protocol.lifecycle import ConnectionEvent, ConnectionState
from anyamqp.protocol.lifecycle.channel import OVER, ChannelState
from anyamqp.protocol.lifecycle.consumer import ConsumerState
from anyamqp.protocol.lifecycle.publisher import PublisherState
from anyamqp.wire import methods
from tools.explore.broker import BrokerChannel, BrokerLink, Published
from tools.explore.world import World

Move: TypeAlias = tuple[str, Callable[[], None]]
_LEAVING = (ConnectionState.CLOSING, ConnectionState.CLOSED)
_LEFT = (PublisherState.CLOSING, PublisherState.CLOSED)
_REFUSABLE = (methods.Queue.Declare, methods.Basic.Consume)


def play(world: World, name: str) -> None:
    """Make the move with this name, and let everything go on until the next."""
    world.journal.facts.clear()
    actor, _, deed = name.partition(": ")
    world.journal.say(_LINES[actor].format(deed))
    dict(moves(world))[name]()
    world.settle()


_LINES = {
    "user": "User->>Client: {}",
    "broker": "Broker->>Client: {}",
    "network": "Note over Client, Broker: {}",
    "clock": "Note over Client: {}",
}


def moves(world: World) -> Iterator[Move]:
    """The possible moves, each with its name."""
    yield from _of_user(world)
    yield from _of_network(world)
    if world.broker.link is not None:
        yield from _of_broker(world, world.broker.link)


def _of_user(world: World) -> Iterator[Move]:
    core, channel, publisher, consumer = world.core, world.channel, world.publisher, world.consumer
    is_leaving = core.state in _LEAVING
    if not is_leaving:
        yield "user: close the connection", partial(world.fire, ConnectionEvent.CLOSE)
    if channel is not None:
        if channel.core.state is ChannelState.CONNECTING_NEW:
            if not is_leaving:
                yield "user: open the channel", channel.open
        elif channel.core.state not in OVER:
            yield "user: close the channel", channel.close
            if channel.request is None and not channel.is_asking:
                yield "user: declare", channel.ask
    if publisher is not None:
        if publisher.outbox.state is PublisherState.NEW:
            if not is_leaving:
                yield "user: enter the publisher", publisher.begin
        elif publisher.is_entering:
            yield "user: cancel entering the publisher", publisher.cancel_entering
        else:
            if len(publisher.publishes) < world.left.publishes:
                yield f"user: publish {len(publisher.publishes) + 1}", publisher.publish
            if publisher.outbox.state not in _LEFT:
                yield "user: leave the publisher", publisher.leave
    if consumer is not None:
        if consumer.subscription.state is ConsumerState.NEW:
            if not is_leaving:
                yield "user: enter the consumer", consumer.begin
        elif consumer.is_entering:
            yield "user: cancel entering the consumer", consumer.cancel_entering
        else:
            if consumer.subscription.waiting and consumer.held is None:
                yield "user: take a delivery", consumer.take
            if consumer.held is not None:
                yield "user: ack", consumer.ack
            if consumer in core.consumers:
                yield "user: stop the consumer", consumer.leave


def _of_network(world: World) -> Iterator[Move]:
    left = world.left
    if world.is_dialing:
        yield "network: dialed", partial(_dialed, world)
        if left.refusals or world.core.state is ConnectionState.CLOSING:
            yield "network: dial refused", partial(_refused, world)
    if world.pause_until < math.inf and left.refusals:
        yield "clock: the policy gives up", world.give_up
    if world.nearest < math.inf:
        yield "clock: time passes", world.pass_time
    if world.link is not None and world.broker.link is not None and left.losses:
        unread = sum(map(world.broker.publishes_unread, world.broker.link.unread))
        for count in range(unread + 1):
            read = f", {count} publishes read" if unread else ""
            yield f"network: the link dies{read}", partial(_die, world, count)


def _dialed(world: World) -> None:
    world.dialed()


def _refused(world: World) -> None:
    world.is_dialing = False
    world.left = world.left._replace(refusals=max(0, world.left.refusals - 1))
    world.fire(ConnectionEvent.REFUSED)


def _die(world: World, count: int) -> None:
    world.left = world.left._replace(losses=world.left.losses - 1)
    world.broker.read_unconfirmed(count)
    world.broker.lose()
    if world.link is not None:
        world.link.abort(TransportError("reset"))


def _of_broker(world: World, link: BrokerLink) -> Iterator[Move]:
    broker, left = world.broker, world.left
    if link.is_over:
        return
    if not link.is_greeted:
        yield "broker: connection.start and tune", lambda: world.hear(broker.greet())
        return
    if isinstance(broker.unanswered(0), methods.Connection.Open):
        yield "broker: connection.open-ok", lambda: world.hear(broker.answer(0))
        if left.losses:
            yield "broker: connection.close", partial(_close_link, world)
        return
    for number, unread in sorted(link.unread.items()):
        if unread:
            yield from _answers(world, number)
    for number, channel in sorted(link.channels.items()):
        if left.closes:
            yield f"broker: close channel {number}", partial(_close_channel, world, number)
        if channel.is_stopped or (channel.is_confirming and left.blocks):
            yield f"broker: channel.flow on channel {number}", partial(_flow, world, number, channel)
        if channel.consumer is not None:
            if broker.waiting and not channel.unsettled:
                yield f"broker: deliver on channel {number}", partial(_hear, world, broker.deliver, number)
            if left.closes:
                yield f"broker: cancel on channel {number}", partial(_cancel, world, number)
    if broker.is_blocking:
        yield "broker: connection.unblocked", lambda: world.hear(broker.unblock())
    elif left.blocks:
        yield "broker: connection.blocked", partial(_block, world)
    if left.losses:
        yield "broker: connection.close", partial(_close_link, world)
        if broker.is_opening:
            yield "broker: connection.close without a reason", partial(_close_without_reason, world)


def _answers(world: World, number: int) -> Iterator[Move]:
    broker = world.broker
    one = broker.unanswered(number)
    if isinstance(one, Published):
        yield f"broker: confirm on channel {number}", partial(_hear, world, broker.answer, number)
        yield f"broker: nack on channel {number}", partial(_hear, world, broker.nack, number)
        yield f"broker: return on channel {number}", partial(_hear, world, broker.send_back, number)
        yield f"broker: refuse the publish on channel {number}", partial(_hear, world, broker.refuse, number)
        if world.left.losses:
            yield f"broker: connection.close for the publish on channel {number}", partial(_close_for_publish, world)
        if broker.publishes_unread(number) > 1:
            yield f"broker: confirm both on channel {number}", partial(_hear, world, broker.confirm_both, number)
            yield f"broker: refuse the second on channel {number}", lambda: world.hear(broker.refuse(number, behind=1))
    elif one is not None:
        yield f"broker: answer on channel {number}", partial(_hear, world, broker.answer, number)
        if isinstance(one, _REFUSABLE):
            yield f"broker: refuse on channel {number}", partial(_hear, world, broker.refuse, number)


def _hear(world: World, say: Callable[[int], bytes], number: int) -> None:
    world.hear(say(number))


def _close_channel(world: World, number: int) -> None:
    world.left = world.left._replace(closes=world.left.closes - 1)
    world.hear(world.broker.close_channel(number))


def _flow(world: World, number: int, channel: BrokerChannel) -> None:
    if not channel.is_stopped:
        world.left = world.left._replace(blocks=world.left.blocks - 1)
    world.hear(world.broker.flow(number))


def _cancel(world: World, number: int) -> None:
    world.left = world.left._replace(closes=world.left.closes - 1)
    world.hear(world.broker.cancel(number))


def _block(world: World) -> None:
    world.left = world.left._replace(blocks=world.left.blocks - 1)
    world.hear(world.broker.block())


def _close_for_publish(world: World) -> None:
    world.left = world.left._replace(losses=world.left.losses - 1)
    world.hear(world.broker.close_for_publish())


def _close_link(world: World) -> None:
    world.left = world.left._replace(losses=world.left.losses - 1)
    world.hear(world.broker.close_link())


def _close_without_reason(world: World) -> None:
    world.left = world.left._replace(losses=world.left.losses - 1)
    world.hear(world.broker.close_without_reason())
