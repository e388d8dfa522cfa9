"""The properties of a world. The numbers are those of the invariants in docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from anyamqp.errors import AnyamqpError, ReplyError, Unroutable, is_unexplained_close
from anyamqp.protocol.lifecycle import ConnectionState
from anyamqp.protocol.lifecycle.channel import OPENING, ChannelState
from anyamqp.protocol.lifecycle.consumer import OVER, ConsumerState
from anyamqp.protocol.lifecycle.recovery import CAREFUL
from anyamqp.protocol.pending import CONFIRMED
from anyamqp.protocol.recovering import LONGEST_REOPENING
from anyamqp.wire import methods
from tools.explore.consumer import Consumer
from tools.explore.host import UP
from tools.explore.moves import moves, play
from tools.explore.publisher import Publisher
from tools.explore.violation import Violation
from tools.explore.world import World

SOMETIMES: Final = (
    "a publish that was resent and confirmed",
    "a publish that was returned",
    "a publish that was refused, and its neighbour confirmed",
    "a request that was sent again",
    "a consumer that came back",
    "an ack that came too late for its link",
    "a close of a channel that crossed theirs",
    "a close of the connection that crossed theirs",
    "a block that ended",
    "a connection that opened while a channel was opening",
    "a latecomer that came back",
    "a close without a reason, and a careful recovery",
    "a channel given up after two closes without a reason",
)
"""The events that some path must reach, or the exploration is too shallow."""

_DETACHED: Final = (ChannelState.CONNECTING_DETACHED, ChannelState.RECONNECTING_DETACHED)
_HELD: Final = (ChannelState.OPEN_HELD, ChannelState.BLOCKED_HELD)
_SHUT: Final = (ChannelState.CONNECTING_NEW, ChannelState.CLOSED)
_OPENS_OR_CLOSES: Final = (methods.Channel.Open, methods.Channel.Close)
_MOST_STEPS: Final = 20


def check(world: World) -> None:
    """*Always*: invariants 1, 3 to 8 and 13. A move that raises breaks invariant 2, or one that the world checks.

    Raises:
        Violation: one does not hold.
    """
    if world.is_dialing and world.link is not None:
        raise Violation("invariant 1: a dial while a link lives")
    if world.core.state is ConnectionState.CLOSED:
        _check_nothing_is_left(world)
    if world.core.state in UP:
        _check_channels(world)
    _check_recovery(world)
    if world.publisher is not None:
        _check_publishes(world, world.publisher)
    if world.consumer is not None:
        _check_consumer(world.consumer)


def sometimes(world: World) -> Iterator[str]:
    """The remarkable events of the last step, and those that the state shows."""
    yield from world.journal.facts
    if world.recovery.core.state in CAREFUL:
        yield "a close without a reason, and a careful recovery"
    if world.channel is not None and is_unexplained_close(world.channel.core.error):
        yield "a channel given up after two closes without a reason"
    if world.publisher is None:
        return
    outcomes = [pending.outcome for pending, _ in world.publisher.publishes]
    if any(pending.outcome is CONFIRMED and pending.attempts > 1 for pending, _ in world.publisher.publishes):
        yield "a publish that was resent and confirmed"
    if any(isinstance(outcome, Unroutable) for outcome in outcomes):
        yield "a publish that was returned"
    if any(isinstance(outcome, ReplyError) for outcome in outcomes) and CONFIRMED in outcomes:
        yield "a publish that was refused, and its neighbour confirmed"


def check_end(world: World) -> None:
    """*Eventually*: the user closes the connection, the broker answers or is lost, and it is CLOSED. Plays that.

    Raises:
        Violation: it does not come to that.
    """
    for _ in range(_MOST_STEPS):
        if world.core.state is ConnectionState.CLOSED:
            return
        name = ending([name for name, _ in moves(world)])
        if name is None:
            raise Violation(f"eventually: nothing can happen any more, and the connection is {world.core.state.name}")
        play(world, name)
        check(world)
    raise Violation(f"eventually: the connection stays {world.core.state.name} for {_MOST_STEPS} steps")


def ending(possible: Sequence[str]) -> str | None:
    """The move by which the strategy of :func:`check_end` goes on; None if there is none."""
    return next((name for name in (*_ENDING, *possible) if name in possible), None)


_ENDING: Final = (
    "user: close the connection",
    "broker: connection.start and tune",
    "broker: connection.open-ok",
    "broker: answer on channel 0",
    "network: dial refused",
    "clock: time passes",
)
"""The moves of the strategy, the first possible one at a time."""


def _check_nothing_is_left(world: World) -> None:
    channels = [part.channel for part in (world.publisher, world.consumer) if part is not None]
    channels += [] if world.channel is None else [world.channel.core]
    left = {
        "a link": world.link is not None,
        "a dial": world.is_dialing,
        "a timer": bool(world.clock.calls) or world.pause_until < world.clock.now(),
        "a channel": bool(world.core.channels) or any(channel.state not in _SHUT for channel in channels),
        "a publish": world.publisher is not None and world.publisher.unconfirmed > 0,
        "a consumer": world.consumer is not None
        and world.consumer.subscription.state not in (*OVER, ConsumerState.NEW),
        "a request": world.channel is not None and world.channel.is_asking,
        "an end that nobody was told of": not world.is_over,
    }
    found = [name for name, is_left in left.items() if is_left]
    if found:
        raise Violation(f"invariant 7: left after CLOSED: {', '.join(found)}")


def _check_channels(world: World) -> None:
    is_blocked = world.core.state is ConnectionState.BLOCKED
    for channel in world.core.channels:
        state = channel.state
        if state in _DETACHED and world.link is not None and world.link.is_open:
            raise Violation(f"invariant 13: {channel} is on no link, while the connection is open")
        if state in _HELD:
            raise Violation(f"invariant 13: {channel} is held, while the connection is open")
        is_stopped = state is ChannelState.BLOCKED_CONNECTION
        if (state is ChannelState.OPEN and is_blocked) or (is_stopped and not is_blocked):
            raise Violation(f"{channel} is {state.name}, while the connection is {world.core.state.name}")
    link, theirs = world.link, world.broker.link
    if link is None or theirs is None or not link.is_open:
        return
    if any(isinstance(one, _OPENS_OR_CLOSES) for unread in theirs.unread.values() for one in unread):
        return
    places = sorted(channel.link_channel.number for channel in world.core.channels if channel.link_channel is not None)
    if not places == sorted(theirs.channels) == sorted(link.dispatcher.handlers):
        raise Violation(f"invariant 6: channels {places}, but {sorted(theirs.channels)} at the broker")
    if len(places) != link.session.channel_count:
        raise Violation(f"invariant 6: channels {places}, but the session has {link.session.channel_count}")


def _check_recovery(world: World) -> None:
    recovery, core, link = world.recovery, world.recovery.core, world.link
    if link is None or not link.is_open:
        return
    if recovery.is_running and core.state not in CAREFUL:
        if core.deadline > recovery.begun_at + LONGEST_REOPENING:
            raise Violation("invariant 13: the connection may wait for one channel for ever")
        if any(core.is_off_link(channel) for channel in world.core.unopened):
            raise Violation("invariant 13: a channel waits for another to be opened")
    reported = {text.partition(":")[0] for text in world.core.not_back}
    owners = {consumer.channel: f"consumer of queue {consumer.queue!r}" for consumer in world.core.consumers}
    for channel in recovery.left_behind:
        if channel.state in OPENING and reported.isdisjoint((str(channel), owners.get(channel))):
            raise Violation(f"invariant 13: {channel} is not back, and nobody is told of it")


def _check_publishes(world: World, publisher: Publisher) -> None:
    outbox = publisher.outbox
    waiting = [*outbox.ledger.outstanding(), *outbox.backlog, *outbox.places.nacked.publishes]
    for pending, outcome in publisher.publishes:
        if outcome.count != (pending.outcome is not None):
            raise Violation(f"invariant 3: publish {pending.message_id} has {outcome.count} outcomes")
        if pending.outcome is None and waiting.count(pending) != 1:
            raise Violation(f"invariant 3: publish {pending.message_id} waits in {waiting.count(pending)} places")
        if pending.outcome is CONFIRMED and pending.message_id.encode() not in world.broker.stored:
            raise Violation(f"invariant 4: publish {pending.message_id} is confirmed, and the broker does not have it")
    if world.broker.seen != sorted(world.broker.seen):
        raise Violation(f"invariant 5: first appearances in the order {world.broker.seen}")
    if publisher.channel.can_publish and outbox.backlog and not outbox.suspects:
        raise Violation("invariant 13: publishes wait, and nothing holds them up")


def _check_consumer(consumer: Consumer) -> None:
    subscription = consumer.subscription
    if subscription.state not in OVER and any(delivery.is_stale for delivery in subscription.waiting):
        raise Violation("invariant 8: a stale delivery waits to be handed out")


def error_of(raised: Exception) -> str:
    """The property that an exception of a move breaks."""
    if isinstance(raised, Violation):
        return str(raised)
    kind = type(raised).__name__
    return f"{'invariant 2' if isinstance(raised, AnyamqpError) else 'a move raised'}: {kind}: {raised}"
