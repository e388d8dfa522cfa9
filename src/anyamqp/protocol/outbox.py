"""The outbox of a publisher: every publish ends in exactly one outcome (invariant 3), and order holds (invariant 5).

A publish that has room in the window is in one of three places: in the *backlog*, to be sent; in the *ledger* of the
present channel, sent and waiting for its confirm; or *set aside*, nacked and waiting to be sent again. Moving between
them never waits, so no order is lost:

* the channel can publish: the backlog empties into the ledger, oldest first;
* the link is lost: the ledger goes back in front of the backlog, in the order of its tags, and the next link gets a new
  ledger, because delivery tags die with their link;
* the broker closes the channel because of a publish. It does not say which one it was, so the outbox asks for a new
  channel and *probes*: it sends the suspects, which are the unconfirmed, one at a time until the guilty one shows, then
  goes on at full speed;
* the broker closes the channel for anything else: the outbox asks for a new one, after growing pauses if that happens
  again and again, and gives up at last;
* the broker nacks a publish that is to be retried: it is set aside for a pause, then goes in front of the backlog.

The outbox decides and does not wait: its shell (:mod:`anyamqp.core.publishing`) tells it of each event, with the time
where that matters, carries out the effects that it asks for, and calls :meth:`Outbox.due` at its deadline. Its state is
that of :data:`~anyamqp.protocol.lifecycle.publisher.PUBLISHER`. Messages do not pass through effects: a publish goes
straight to the channel, a confirm straight into the ledger.
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
from anyamqp.protocol.window import Waker, Window, WindowWaiter
from anyamqp.wire import methods
from anyamqp.wire.basic import Received


class Outbox:
    """The publishes of one publisher. See the module.

    Args:
        channel: the channel to publish on; replaced after :class:`OpenChannel`.
        window: how many publishes may be unconfirmed.
        policy: what happens to those in trouble.

    Attributes:
        deadline: when to call :meth:`due`; infinity for never.
        effects: what the shell is to do, until :meth:`take_effects`.
        block: the broker's block of the connection.
        places: where the publishes are; its ledger and backlog are here as well, for speed.
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
        self.suspects: int = 0
        """How many publishes from the front are still to be sent one at a time."""
        self.deadline: float = math.inf
        self.effects: list[OutboxEffect] = []
        self.block: Block = Block(policy.blocked_timeout)
        self._policy = policy
        self._lifecycle = PUBLISHER.begin()
        self._refusal: AnyamqpError | None = None
        """The error of every publish from now on."""
        self._reopenings = Reopenings()
        self._expires_at = math.inf

    @property
    def state(self) -> PublisherState:
        """The publisher's state."""
        return self._lifecycle.state

    def take_effects(self) -> list[OutboxEffect]:
        """Take what the shell is to do, in this order."""
        effects, self.effects = self.effects, []
        return effects

    # --- the publisher's calls --------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The publisher's block begins."""
        self._fire(PublisherEvent.ENTERED)

    def accept(self, pending: PendingPublish, now: float, *, is_awaited: bool = False) -> None:
        """Put a publish, which has room in the window, on its way.

        Raises:
            AnyamqpError: the publisher is closed.
        """
        if self._refusal is not None:
            self.places.leave(pending)
            raise copy_of(self._refusal)
        self.counters.accept(pending)
        if pending.deadline < self._expires_at:
            self._expires_at = pending.deadline
            self._set_deadline()
        if self.backlog or self.suspects or now >= pending.deadline or not self.channel.can_publish:
            self.backlog.append(pending)
            self._send_backlog(now)
        else:
            self._send(pending)
            # Where others wait as well, their publishes are better sent together.
            self.channel.flush(is_awaited=is_awaited and len(self.ledger) == 1)

    def wait_for_room(self, pending: PendingPublish, waker: Waker, now: float) -> WindowWaiter:
        """Queue for room in the window; the waker is set when the wait has ended."""
        self.places.drop_finished(now)
        # Suspects that went with it make the probing end a little late, which costs speed and nothing else.
        self._set_suspects(min(self.suspects, len(self.ledger) + len(self.backlog)))
        waiter = WindowWaiter(pending.size, pending.deadline, waker)
        if pending.deadline < self._expires_at:
            self._expires_at = pending.deadline
            self._set_deadline()
        self.window.wait(waiter)
        return waiter

    def refusal_of(self, pending: PendingPublish, now: float) -> ConnectionBlocked | PublishTimeout:
        """Why there was no room for a publish: its deadline, or the broker accepts no publishes."""
        if now >= pending.deadline:
            return PublishTimeout(pending.message_id, sent=False)
        return ConnectionBlocked(self.block.reason)

    def close(self) -> None:
        """The publisher's block ends: settle what has no outcome."""
        self._fire(PublisherEvent.CLOSE, error=ChannelClosed("the publisher is closed"))
        self._expires_at = math.inf
        self.unblocked()

    def closed(self) -> None:
        """The publisher's block has ended."""
        self._fire(PublisherEvent.CLOSED)

    # --- what the channel and the connection tell -------------------------------------------------------------------

    def channel_opened(self, now: float) -> None:
        """The channel is open on a link, and in confirm mode. Publishes wait until it is ready."""
        self._reopenings.opened(now)
        self._fire(PublisherEvent.OPENED)

    def channel_ready(self, now: float) -> None:
        """The channel takes publishes."""
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
                settled = self._set_aside(settled, now)
            for pending in settled:
                if is_ack and pending.returned is None:
                    pending.settle(CONFIRMED)
                else:
                    pending.refuse()
                # Only now can the broker no longer return it.
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
        """The broker returned a publish that no queue takes; its confirm follows."""
        self.places.returned(method, message)

    def blocked(self, reason: str, since: float, now: float) -> None:
        """The broker accepts no publishes on this connection."""
        self.block.begin(reason, since)
        self._fire(PublisherEvent.BLOCKED)
        if now >= self.block.due_at:
            self._fail_unsent(now)
        self._set_deadline()

    def unblocked(self) -> None:
        """The broker accepts publishes again, or the link is gone."""
        self.block.end()
        self._set_deadline()

    def link_lost(self, error: AnyamqpError | None, now: float) -> None:
        """The link is gone, for this reason; None if we closed it."""
        is_accused = blame.may_be_for_a_publish(error)
        self._fire(PublisherEvent.LINK_CLOSED if is_accused else PublisherEvent.LOST, error=error, now=now)

    def channel_failed(self, error: AnyamqpError, now: float) -> None:
        """The channel is closed for good."""
        is_reply = isinstance(error, ReplyError)
        self._fire(PublisherEvent.CHANNEL_CLOSED if is_reply else PublisherEvent.CHANNEL_GONE, error=error, now=now)

    def channel_refused(self, error: AnyamqpError) -> None:
        """The channel that the outbox asked for cannot be had."""
        self._fire(PublisherEvent.GAVE_UP, error=error)

    def due(self, now: float) -> None:
        """The deadline has come; called too early, this does no harm."""
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
        """Take an event, and do what its row says."""
        is_named = False
        for effect in self._lifecycle.fire(event).effects:
            if effect is PublisherEffect.SEND_BACKLOG:
                self._send_backlog(now)
            elif effect is PublisherEffect.RECALL:
                self._recall(error, now)
            elif effect is PublisherEffect.ACCUSE:
                is_named = blame.is_for_a_publish(error) and len(self.ledger) > 0
                self._accuse(error, now)
            elif effect is PublisherEffect.REOPEN:
                # A publish that the broker names is settled or found by probing; anything else may come again at once.
                self._reopen(0.0 if is_named else self._reopenings.closed(now), error)
            elif effect is PublisherEffect.FAIL_WITH_CHANNEL:
                self._fail_all(self.channel.closed_error())
            elif error is not None:
                self._fail_all(error)

    def _accuse(self, error: AnyamqpError | None, now: float) -> None:
        unconfirmed = self.ledger.outstanding()
        only = unconfirmed[0] if len(unconfirmed) == 1 else None
        self.suspects = 0
        if only is not None:
            only.closes += 1
        if error is not None and only is not None and blame.is_guilty_alone(error, only.closes):
            self.places.renew_ledger()
            only.settle(error)
            self.places.leave(only)
        elif suspects := self._recall(error, now):
            self.suspects = suspects
            self._fire(PublisherEvent.SUSPECTED)

    def _recall(self, error: AnyamqpError | None, now: float) -> int:
        """Have what was sent and is still wanted sent again, or settle it if that may not be.

        Returns:
            How many publishes are sent again.
        """
        wanted = self.places.take_sent(now)
        if self._policy.resend:
            self.places.send_again(wanted)
            return len(wanted)
        for pending in wanted:
            pending.lose(error)
            self.places.leave(pending)
        return 0

    def _reopen(self, delay: float | None, error: AnyamqpError | None) -> None:
        if delay is None:
            self._fire(PublisherEvent.GAVE_UP, error=error)
        else:
            self.effects.append(OpenChannel(delay))

    def _fail_all(self, error: AnyamqpError) -> None:
        self._refusal = error
        self.suspects = 0
        self.places.fail_all(error)

    def _send_backlog(self, now: float) -> None:
        backlog = self.backlog
        while backlog and self.channel.can_publish and not (self.suspects and len(self.ledger)):
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

    def _set_suspects(self, count: int) -> None:
        had, self.suspects = self.suspects, count
        if had and not count:
            self._fire(PublisherEvent.PROBED)

    def _set_aside(self, nacked: Sequence[PendingPublish], now: float) -> list[PendingPublish]:
        """Have them sent again after a pause, but for those that are past it, which are given back."""
        self.places.nacked.add([pending for pending in nacked if not pending.is_finished(now)], now)
        self._set_deadline()
        return [pending for pending in nacked if pending.outcome is not None]

    def _fail_unsent(self, now: float) -> None:
        """The broker has been blocked for too long."""
        self.block.due_at = math.inf
        for pending in self.places.take_never_sent(now):
            pending.settle(ConnectionBlocked(self.block.reason))
            self.places.leave(pending)
        self.window.dismiss(math.inf)
        self.effects.append(RefuseWaiting())

    def _set_deadline(self) -> None:
        self.deadline = min(self._expires_at, self.places.nacked.due_at, self.block.due_at)
