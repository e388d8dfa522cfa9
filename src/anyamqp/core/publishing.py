"""The shell of an outbox: it awaits, keeps the time, and opens channels for the outbox."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from anyamqp.core.channel import LogicalChannel
from anyamqp.core.host import ChannelHost
from anyamqp.errors import AnyamqpError
from anyamqp.net.timers import Deadlines
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.outbox import Outbox
from anyamqp.protocol.pending import MOST_FAILURES, PendingPublish
from anyamqp.protocol.ports import ChannelOwner, Publishing
from anyamqp.protocol.publishing import OpenChannel, PublishPolicy, RefuseWaiting
from anyamqp.protocol.window import Window
from anyamqp.wire import methods
from anyamqp.wire.methods import Method


class OutboxShell(ChannelOwner):
    """Runs the outbox of one publisher.

    Args:
        host: the connection.
        registry: the connection's publishers.
        window: the most unconfirmed messages.
        window_bytes: the most bytes of unconfirmed messages.
        policy: the treatment of lost, nacked and blocked publishes.

    Attributes:
        outbox: the publisher's decisions.
    """

    def __init__(
        self, host: ChannelHost, registry: set[Publishing], *, window: int, window_bytes: int, policy: PublishPolicy
    ) -> None:
        self._host = host
        self._registry = registry
        self._channel = LogicalChannel(host, self)
        self.outbox: Outbox = Outbox(
            self._channel.core,
            window=Window(window, window_bytes),
            policy=policy,
            most_failures=max(MOST_FAILURES, window),
        )
        self._deadlines = Deadlines(host.later, self._due)
        self._entering: set[anyio.CancelScope] = set()
        """The scopes of the tasks that wait for room in the outgoing buffer."""

    @property
    def unconfirmed(self) -> int:
        return self.outbox.counters.unsettled

    @property
    def window(self) -> int:
        return self.outbox.window.count

    async def open(self) -> None:
        """Register the publisher, and wait until its channel is open."""
        self.outbox.enter()
        self._registry.add(self)
        self.on_blocked()  # if the connection is blocked already
        try:
            await self._channel.open()
        except BaseException:
            self.give_up()
            self.outbox.closed()
            raise

    def give_up(self) -> None:
        """Settle every publish without an outcome, and begin to close the channel."""
        self._registry.discard(self)
        self.outbox.close()
        self._deadlines.cancel()
        self._channel.begin_close()

    async def close(self) -> None:
        """Wait until the channel is closed. Call :meth:`give_up` first."""
        await self._channel.close()
        self.outbox.closed()

    # --- submitting -------------------------------------------------------------------------------------------------

    def try_enter(self, pending: PendingPublish) -> bool:
        """Take room in the window unless that needs a wait. Returns whether it did."""
        return not self._channel.is_full and self.outbox.try_enter(pending)

    async def enter(self, pending: PendingPublish) -> None:
        """Wait for room in the outgoing buffer and in the window, then take it.

        Raises:
            ConnectionBlocked: the connection has been blocked for too long.
            PublishTimeout: there was no room in time.
        """
        outbox = self.outbox
        outbox.check_block(anyio.current_time())
        if self._channel.is_full:
            await self._wait_for_buffer(pending)
        if not outbox.window.try_take(pending.size):
            await self._wait_for_window(pending)
        outbox.check_entered(pending, anyio.current_time())

    def accept(self, pending: PendingPublish, now: float, *, is_awaited: bool = False) -> None:
        """Send a publish that has room in the window, or add it to the backlog.

        Never await between taking room and this call: publishes enter the backlog and the ledger in the order in which
        they got room.

        Raises:
            AnyamqpError: the publisher is closed.
        """
        self.outbox.accept(pending, now, is_awaited=is_awaited)
        if self.outbox.deadline < self._deadlines.nearest:
            self._deadlines.add(self.outbox.deadline)

    async def _wait_for_buffer(self, pending: PendingPublish) -> None:
        scope = anyio.CancelScope(deadline=pending.deadline)
        self._entering.add(scope)
        try:
            has_room = await self._channel.wait_not_full(scope)
        finally:
            self._entering.discard(scope)
        if not has_room:
            raise self.outbox.refusal_of(pending, anyio.current_time())

    async def _wait_for_window(self, pending: PendingPublish) -> None:
        room = self._host.loop.waiter()
        waiter = self.outbox.wait_for_room(pending, room, anyio.current_time())
        self._deadlines.add(self.outbox.deadline)
        try:
            await room.wait()
        except BaseException:
            self.outbox.window.withdraw(waiter)
            raise
        if not waiter.is_granted:
            raise self.outbox.refusal_of(pending, anyio.current_time())

    # --- effects of the outbox --------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        for effect in self.outbox.take_effects():
            if isinstance(effect, OpenChannel):
                self._open_another(effect.delay)
            elif isinstance(effect, RefuseWaiting):
                for scope in self._entering:
                    scope.cancel()
            else:
                self._host.journal.unknown_confirm(effect.delivery_tag)
        self._deadlines.add(self.outbox.deadline)

    def _open_another(self, delay: float) -> None:
        refused = self._channel.renew(delay=delay)
        self.outbox.channel = self._channel.core
        if refused is not None:
            self.outbox.channel_refused(refused)

    def _due(self, now: float) -> float:
        self.outbox.due(now)
        self._carry_out()
        return self.outbox.deadline

    # --- events of the channel and the connection -------------------------------------------------------------------

    @property
    def awaits_answer(self) -> bool:
        return len(self.outbox.ledger) > 0

    def setup(self) -> Sequence[Method]:
        return [methods.Confirm.Select()]

    def on_opened(self) -> None:
        self.outbox.channel_opened(self._host.loop.now())

    def on_ready(self) -> None:
        self.outbox.channel_ready(self._host.loop.now())

    def on_confirms(self, confirms: Sequence[Confirm]) -> None:
        outbox = self.outbox
        outbox.confirmed(confirms, self._host.loop.now())
        if outbox.effects or outbox.deadline < self._deadlines.nearest:
            self._carry_out()

    def on_contents(self, contents: Sequence[Content]) -> None:
        for method, message in contents:
            if isinstance(method, methods.Basic.Return):
                self.outbox.returned(method, message)

    def on_held(self) -> None:
        self.outbox.held()

    def on_lost(self, error: AnyamqpError | None) -> None:
        self.outbox.link_lost(error, self._host.loop.now())

    def on_failed(self, error: AnyamqpError) -> None:
        self.outbox.channel_failed(error, self._host.loop.now())
        self._carry_out()

    def on_blocked(self) -> None:
        block = self._host.block
        if block is not None:
            self.outbox.blocked(block.reason, block.since, self._host.loop.now())
            self._carry_out()

    def on_unblocked(self) -> None:
        self.outbox.unblocked()
