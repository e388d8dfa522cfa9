"""The outbox of a publisher: every publish ends in exactly one outcome (invariant 3), and order holds (invariant 5).

A publish that has room in the window is in one of three places: in the *backlog*, to be sent; in the *ledger* of the
current channel, sent and awaiting its confirm; or *set aside*, nacked and pausing before it is sent again. No move
between these places awaits anything, so the order is kept:

* The channel accepts publishes: the outbox moves the backlog into the ledger, oldest first.
* The link is lost: the outbox puts the ledger back in front of the backlog, in the order of the tags. The next link
  gets a new ledger, because delivery tags are valid on one link only.
* The broker closes the channel because of a publish, but does not say which: the outbox asks for a new channel and
  *probes*. It sends the suspects, that is, the unconfirmed publishes, one at a time until the broker closes the channel
  again; then it continues at full speed.
* The broker closes the channel for another reason: the outbox asks for a new one. If that keeps happening, the pauses
  grow, and in the end the outbox gives up.
* The broker nacks a publish that may be retried: the outbox sets it aside for a pause, then puts it in front of the
  backlog.

The outbox decides and never waits. Its shell (:mod:`anyamqp.core.publishing`) reports each event, with the time where
it matters, carries out the effects, and calls :meth:`Outbox.due` at the deadline. The outbox follows the table
:data:`~anyamqp.protocol.lifecycle.publisher.PUBLISHER`. Messages do not pass through effects: a publish goes straight
to the channel, a confirm straight into the ledger.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionBlocked,
    InvalidArgument,
    PublishTimeout,
    ReplyError,
    copy_of,
)
from anyamqp.protocol import blame
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.events import Confirm
from anyamqp.protocol.holdups import Block
from anyamqp.protocol.lifecycle.publisher import PUBLISHER, PublisherEffect, PublisherEvent, PublisherState
from anyamqp.protocol.pending import CONFIRMED, MOST_FAILURES, Counters, PendingPublish
from anyamqp.protocol.places import Places
from anyamqp.protocol.publishing import (
    OpenChannel,
    OutboxEffect,
    PublishChannel,
    PublishPolicy,
    RefuseWaiting,
    ReportConfirm,
)
from anyamqp.protocol.reopening import Reopenings
from anyamqp.protocol.waking import Wakeable
from anyamqp.protocol.window import Window, WindowWaiter
from anyamqp.wire import methods
from anyamqp.wire.basic import Received


class Outbox:
    """The publishes of one publisher. See the module's docstring.

    Args:
        channel: the channel to publish on; replaced after :class:`OpenChannel`.
        window: limits the unconfirmed publishes.
        policy: how to treat lost, nacked and blocked publishes.
        most_failures: how many failures to keep for flush.

    Attributes:
        deadline: when to call :meth:`due`; infinity for never.
        effects: the effects that :meth:`take_effects` will return.
        block: the broker's block of the connection.
        places: the places of the publishes; its ledger and backlog are attributes here too, for speed.
    """

    def __init__(
        self, channel: PublishChannel, *, window: Window, policy: PublishPolicy, most_failures: int = MOST_FAILURES
    ) -> None:
        self.channel: PublishChannel = channel
        self.window: Window = window
        self.counters: Counters = Counters(most_failures)
        self.places: Places = Places(window)
        self.ledger: Ledger[PendingPublish] = self.places.ledger
        self.backlog: deque[PendingPublish] = self.places.backlog
        self.suspects: int = 0  # how many publishes, from the oldest, to send one at a time
        self.deadline: float = math.inf
        self.effects: list[OutboxEffect] = []
        self.block: Block = Block(policy.blocked_timeout)
        self._policy = policy
        self._lifecycle = PUBLISHER.begin()
        self._refusal: AnyamqpError | None = None  # for every new publish: from FAIL_ALL and FAIL_WITH_CHANNEL
        self._reopenings = Reopenings()
        self._expires_at = math.inf

    @property
    def state(self) -> PublisherState:
        """The publisher's state."""
        return self._lifecycle.state

    def take_effects(self) -> list[OutboxEffect]:
        """Take the effects, which the shell carries out in this order."""
        effects, self.effects = self.effects, []
        return effects

    # --- the publisher's calls --------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The publisher's block begins."""
        self._fire(PublisherEvent.ENTERED)

    def try_enter(self, pending: PendingPublish) -> bool:
        """Take room in the window unless that needs a wait. Returns whether it did."""
        return not self.block.is_on and self.window.try_take(pending.size)

    def check_block(self, now: float) -> None:
        """Refuse a publish that would begin to wait.

        Raises:
            ConnectionBlocked: the connection has been blocked for too long.
        """
        if (error := self.block.error(now)) is not None:
            raise error

    def check_entered(self, pending: PendingPublish, now: float) -> None:
        """Refuse a publish that got room in the window after a wait.

        Raises:
            ConnectionBlocked: the connection has been blocked for too long.
        """
        if (error := self.block.error(now)) is not None:
            self.places.leave(pending)
            raise error

    def accept(self, pending: PendingPublish, now: float, *, is_awaited: bool = False) -> None:
        """Send a publish that has room in the window, or add it to the backlog.

        Raises:
            AnyamqpError: the publisher is closed.
        """
        if self._refusal is not None:  # an attribute, because the table never runs per message
            self.places.leave(pending)
            raise copy_of(self._refusal)
        self.counters.accept(pending)
        if pending.deadline < self._expires_at:
            self._expires_at = pending.deadline
            self._set_deadline()
        if self._lifecycle.state is PublisherState.FLOWING and now < pending.deadline:  # then the backlog is empty
            self._send(pending)
            # If other tasks await confirms too, it is cheaper to send their publishes together.
            self.channel.flush(is_awaited=is_awaited and len(self.ledger) == 1)
        else:
            self.backlog.append(pending)
            self._send_backlog(now)

    def wait_for_room(self, pending: PendingPublish, waker: Wakeable, now: float) -> WindowWaiter:
        """Queue for room in the window. The waker is set when the wait ends, with or without room."""
        self.places.drop_finished(now)
        # Dropped suspects are still counted, so the probing may end a little late. That costs only speed.
        self._set_suspects(min(self.suspects, len(self.ledger) + len(self.backlog)))
        waiter = WindowWaiter(pending.size, pending.deadline, waker)
        if pending.deadline < self._expires_at:
            self._expires_at = pending.deadline
            self._set_deadline()
        self.window.wait(waiter)
        return waiter

    def refusal_of(self, pending: PendingPublish, now: float) -> ConnectionBlocked | PublishTimeout:
        """The error of a publish that got no room: its deadline has passed, or the connection is blocked."""
        if now >= pending.deadline:
            return PublishTimeout(pending.message_id, sent=False)
        return ConnectionBlocked(self.block.reason)

    def close(self) -> None:
        """The publisher's block ends: settle every publish without an outcome."""
        self._fire(PublisherEvent.CLOSE, error=ChannelClosed("the publisher is closed"))
        self._expires_at = math.inf
        self.unblocked()

    def closed(self) -> None:
        """The publisher's block has ended."""
        self._fire(PublisherEvent.CLOSED)

    # --- events of the channel and the connection -------------------------------------------------------------------

    def channel_opened(self, now: float) -> None:
        """The channel is open on a link and in confirm mode. Publishes wait until it is ready."""
        self._reopenings.opened(now)
        self._fire(PublisherEvent.OPENED)

    def channel_ready(self, now: float) -> None:
        """The channel accepts publishes."""
        self._fire(PublisherEvent.READY, now=now)

    def confirmed(self, confirms: Sequence[Confirm], now: float) -> None:
        """The broker confirmed publishes."""
        count = size = 0
        pauses = self.places.nacked.pauses
        for method in confirms:
            settled = self.ledger.settle(method.delivery_tag, multiple=method.multiple)
            if not settled:
                self.effects.append(ReportConfirm(method.delivery_tag))
            is_ack = isinstance(method, methods.Basic.Ack)
            if is_ack:
                if pauses.taken:
                    pauses.reset()
            elif self._policy.retry_nacked:
                settled = self.places.set_aside(settled, now)
                self._set_deadline()
            for pending in settled:
                if is_ack and pending.returned is None:
                    pending.settle(CONFIRMED)
                else:
                    pending.refuse()
                # The content was kept to match a return, which would have come before the confirm.
                pending.body = pending.properties = b""
                size += pending.size
            count += len(settled)
        self.window.give_back(size, count)
        if self._reopenings.in_vain:
            self._reopenings.in_vain = 0
        if self.suspects:
            self._set_suspects(max(0, self.suspects - count))
        if self.backlog:
            self._send_backlog(now)

    def returned(self, method: methods.Basic.Return, message: Received) -> None:
        """The broker returned an unroutable publish; its confirm follows."""
        self.places.returned(method, message)

    def held(self) -> None:
        """The broker no longer accepts publishes on the channel."""
        self._fire(PublisherEvent.BLOCKED)

    def blocked(self, reason: str, since: float, now: float) -> None:
        """The broker has accepted no publishes on this connection since the time ``since``."""
        self.block.begin(reason, since)
        if now >= self.block.due_at:
            self._fail_unsent(now)
        self._set_deadline()

    def unblocked(self) -> None:
        """The broker accepts publishes again, or the link has ended."""
        self.block.end()
        self._set_deadline()

    def link_lost(self, error: AnyamqpError | None, now: float) -> None:
        """The link has ended. ``error`` is the reason; None if we closed it."""
        is_accused = blame.may_be_for_a_publish(error)
        self._fire(PublisherEvent.LINK_CLOSED if is_accused else PublisherEvent.LOST, error=error, now=now)

    def channel_failed(self, error: AnyamqpError, now: float) -> None:
        """The channel is closed for good."""
        is_reply = isinstance(error, ReplyError)
        self._fire(PublisherEvent.CHANNEL_CLOSED if is_reply else PublisherEvent.CHANNEL_GONE, error=error, now=now)

    def channel_refused(self, error: AnyamqpError) -> None:
        """The channel that the outbox asked for cannot be opened."""
        self._fire(PublisherEvent.GAVE_UP, error=error)

    def due(self, now: float) -> None:
        """The deadline has passed. Calling this too early is harmless."""
        if now >= self.places.nacked.due_at:
            self.places.resume_nacked(now)
            self._send_backlog(now)
        if now >= self.block.due_at:
            self._fail_unsent(now)
        if now >= self._expires_at:
            self.window.dismiss(now)
            waiting = [pending.deadline for pending in self.places.unsettled() if not pending.is_finished(now)]
            self._expires_at = min(self.window.nearest, *waiting, math.inf)
        self._set_deadline()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _fire(self, event: PublisherEvent, *, error: AnyamqpError | None = None, now: float = 0.0) -> None:
        """Fire an event and carry out its effects."""
        is_named = False
        for effect in self._lifecycle.fire(event).effects:
            match effect:
                case PublisherEffect.SEND_BACKLOG:
                    self._send_backlog(now)
                case PublisherEffect.RECALL:
                    self.places.recall(error, now, resend=self._policy.resend)
                case PublisherEffect.ACCUSE:
                    is_named = blame.is_for_a_publish(error) and len(self.ledger) > 0
                    self._accuse(error, now)
                case PublisherEffect.REOPEN:
                    # If a publish is to blame, it is settled or found by probing. Any other cause may recur.
                    self._reopen(0.0 if is_named else self._reopenings.closed(now), error)
                case PublisherEffect.FAIL_WITH_CHANNEL:
                    self._fail_all(self.channel.closed_error())
                case PublisherEffect.FAIL_ALL:
                    if error is not None:
                        self._fail_all(error)

    def _accuse(self, error: AnyamqpError | None, now: float) -> None:
        self.suspects = 0
        if error is not None and self.places.settle_guilty(error):
            return
        self.suspects = self.places.recall(error, now, resend=self._policy.resend)
        if self.suspects:
            self._fire(PublisherEvent.SUSPECTED)

    def _reopen(self, delay: float | None, error: AnyamqpError | None) -> None:
        if delay is None:
            self._fire(PublisherEvent.GAVE_UP, error=error)
        else:
            self.effects.append(OpenChannel(delay))

    def _fail_all(self, error: AnyamqpError) -> None:
        self._refusal = error
        self.suspects = 0
        self.places.fail_all(error)

    @property
    def _may_send(self) -> bool:
        """Whether the next publish may be sent. The channel's events keep the state in step with ``can_publish``."""
        state = self._lifecycle.state
        return state is PublisherState.FLOWING or (state is PublisherState.PROBING and not len(self.ledger))

    def _send_backlog(self, now: float) -> None:
        backlog = self.backlog
        while backlog and self._may_send:
            pending = backlog.popleft()
            if pending.is_finished(now):
                self._set_suspects(max(0, self.suspects - 1))
                self.places.leave(pending)
            else:
                self._send(pending)
        self.channel.flush()

    def _send(self, pending: PendingPublish) -> None:
        try:
            self.channel.publish(pending.route, pending.properties, pending.body)
        except InvalidArgument as error:
            pending.settle(error)
            self.places.leave(pending)
        else:
            pending.attempts += 1
            self.ledger.add(pending)
            if pending.observer is not None:
                pending.observer.sent(pending.attempts)

    def _set_suspects(self, count: int) -> None:
        had, self.suspects = self.suspects, count
        if had and not count:
            self._fire(PublisherEvent.PROBED)

    def _fail_unsent(self, now: float) -> None:
        """The connection has been blocked for too long: fail the publishes that were never sent."""
        self.block.due_at = math.inf
        for pending in self.places.take_never_sent(now):
            pending.settle(ConnectionBlocked(self.block.reason))
            self.places.leave(pending)
        self.window.dismiss(math.inf)
        self.effects.append(RefuseWaiting())

    def _set_deadline(self) -> None:
        self.deadline = min(self._expires_at, self.places.nacked.due_at, self.block.due_at)
