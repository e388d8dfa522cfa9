"""The supervisor of a connection: the single-flight reconnect, recovery in order.

One task per connection is the only code that dials (invariant 1). It loops: wait as the policy says, dial, handshake,
recover, ``opened``, run the link until it ends. Everybody else waits for a state; nobody else can connect, so there is
no race between reconnects and no lock against one. The old transport is closed before the next dial begins, because
the task group that moves its bytes must end first.

Recovery declares the topology and reopens the channels (:mod:`anyamqp.core.recovery`); then the connection is OPEN and
publishers send again what is unconfirmed, oldest first, before anything new. A queue that the broker does not answer
for, and whatever needs it, come back later: :attr:`Stats.not_back` names them.

Nothing here raises into the user's tasks: what goes wrong is a state, an entry in the log and the cause of the error
that calls on the connection raise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import anyio
import anyio.abc

from anyamqp.core.host import ChannelHost
from anyamqp.core.journal import Journal, some_of
from anyamqp.core.link_channel import LinkChannel
from anyamqp.core.link_maker import LinkMaker
from anyamqp.core.recovery import Recovery
from anyamqp.core.recovery_hooks import RecoveryHooks
from anyamqp.core.stats import Stats
from anyamqp.errors import (
    AnyamqpError,
    ConnectionLost,
    InvalidUse,
    LoginRefused,
    reason_of,
)
from anyamqp.message import FieldTable
from anyamqp.net.dialer import Dial
from anyamqp.net.event_loop import Flag, Loop, next_news, running_loop
from anyamqp.net.link import Link
from anyamqp.net.timers import Timer, Timers
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.dispatch import LinkOwner
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.lifecycle import (
    ChannelEvent,
    ConnectionEffect,
    ConnectionEvent,
    State,
    Transition,
)
from anyamqp.protocol.lifecycle.channel import ChannelState
from anyamqp.protocol.ports import BlockNotice, ChannelOwner
from anyamqp.protocol.topology import Topology
from anyamqp.settings import Settings
from anyamqp.wire import methods

_GRACE = 0.6
"""Seconds in which an attempt to connect may end in order when the user leaves."""

_LAST_WORD = 0.1
"""Seconds in which connection.close may leave when the reply is not waited for."""

_CLEAN_UP = 5.0
"""Seconds that a broker may need to clean up after a connection that it knows to be dead."""


class Supervisor(ChannelHost, LinkOwner):
    """Keeps one connection connected, and knows everything that lives on it.

    Args:
        settings: what the connection was told.
        fail_fast: whether to give up on the first connect at once when no retry cures what happened.
        dial: opens a transport in place of TCP.

    Raises:
        SettingsError: a file of the TLS settings is missing or not what it should be.
    """

    def __init__(self, settings: Settings, *, fail_fast: bool, dial: Dial | None) -> None:
        self._settings = settings
        self._timers = Timers()
        self._journal = Journal(settings.name, self._timers.later)
        self._maker = LinkMaker(settings, fail_fast=fail_fast, dial=dial, journal=self._journal)
        self._topology = Topology(settings.topology_recovery.mode)
        self.core: ConnectionCore[LinkChannel] = ConnectionCore(self._topology, self, self._place)
        hooks = RecoveryHooks(settings.topology_recovery, self._topology, self.core, self._journal)
        self._recovery = Recovery(self, self._topology, hooks.wanted, self.core, hooks.failed)
        self.tuning: Tuning | None = None
        """The limits agreed with the broker at the last handshake; None before the first."""
        self.server_properties: FieldTable = {}
        """What the broker said of itself at the last handshake."""
        self._link: Link | None = None
        self._finished = Flag()
        self._scope: anyio.CancelScope | None = None
        self._loop = Loop()
        self._interruptible: anyio.CancelScope | None = None
        """Around the work that the user's leaving cuts short."""
        self._close_by = math.inf
        """When closing ends at the latest, on the event loop's clock."""
        self._work: ConnectionEffect | None = None
        """The next step of the connection."""
        self._link_tasks: anyio.abc.TaskGroup | None = None

    # --- for the connection -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the connection's life cycle is."""
        return self.core.state.public

    @property
    def stats(self) -> Stats:
        """The connection at this moment."""
        journal, link = self._journal, self._link
        traffic = self._maker.past_traffic if link is None else self._maker.past_traffic.and_of(link)
        return Stats(
            state=self.state,
            link_number=self._maker.number,
            dials=journal.dials,
            reconnects=self.core.reconnects,
            open_channels=0 if link is None else link.session.channel_count,
            unconfirmed=sum(publisher.unconfirmed for publisher in self.core.publishers),
            blocked_since=None if self.core.block is None else self.core.block.since,
            last_error=journal.last_error,
            not_back=self._recovery.not_back,
            stale_acks=journal.stale_acks,
            unknown_confirms=journal.unknown_confirms,
            dropped_transitions=journal.dropped_transitions,
            stalls=journal.stalls,
            bytes_sent=traffic.bytes_sent,
            bytes_received=traffic.bytes_received,
            frames_sent=traffic.frames_sent,
            frames_received=traffic.frames_received,
        )

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin, in a task that ends with :meth:`close` or when the connection is given up, and raises nothing."""
        # Shielded, so that a cancellation around the user's block leaves somebody to do the close handshake. Made here,
        # because a connection may be made before there is an event loop.
        self._scope = anyio.CancelScope(shield=True)
        self._loop = self._journal.loop = running_loop()
        tasks.start_soon(self._run, self._scope)

    async def wait_for(self, *states: State) -> None:
        """Wait until the connection is in one of these states.

        Raises:
            ConnectionClosed: it is closed, and none of them is CLOSED.
        """
        while self.state not in states:
            if self.state is State.CLOSED or State.CLOSED not in states:
                self.core.raise_if_closed()
            await next_news(self.core.wakers)

    async def wait_ready(self) -> None:
        """Wait until the connection is OPEN or BLOCKED, and everything on it is back.

        Raises:
            ConnectionClosed: it is closed.
        """
        await self.wait_for(State.OPEN, State.BLOCKED)
        while self._recovery.not_back:
            await next_news(self._recovery.wakers)
            await self.wait_for(State.OPEN, State.BLOCKED)

    async def close(self) -> None:
        """Close the connection, within ``close_timeout``, whatever is cancelled meanwhile."""
        with anyio.CancelScope(shield=True):
            self._fire(ConnectionEvent.CLOSE)
            try:
                with anyio.CancelScope(deadline=self._close_by):
                    await self._finished.wait()
            finally:
                # On trio a KeyboardInterrupt comes through any shield.
                if self._scope is not None:
                    self._scope.cancel()
            await self._finished.wait()

    async def update_secret(self, update: methods.Connection.UpdateSecret) -> None:
        """Send a new secret when the connection is there, and wait for the broker's answer.

        While the connection is away, the secret is the password of the next login: the old one may have expired.

        Raises:
            ConnectionLost: the link ended before the answer, and there is no credentials function.
            ConnectionClosed: the connection is closed.
            ReplyError: the broker refused it.
        """
        if self.state not in (State.OPEN, State.BLOCKED):
            self._maker.credentials.updated(update.new_secret)
            await self.wait_for(State.OPEN, State.BLOCKED)
        try:
            await self._require_link().update_secret(update)
        except ConnectionLost:
            self.core.raise_if_closed()
            if not self._maker.credentials.is_asking:
                raise

    # --- what channels ask ------------------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """Where transitions are recorded."""
        return self._journal

    @property
    def recorder(self) -> Topology:
        """What was declared."""
        return self._topology

    @property
    def block(self) -> BlockNotice | None:
        """Why and since when the broker accepts no publishes; None if it accepts them."""
        return self.core.block

    @property
    def progress(self) -> str:
        """How the connection does, for the text of an error that tells of a time-out."""
        last = self._journal.last_error
        if self.core.block is not None:
            return f"the broker has blocked the connection: {self.core.block.reason}"
        if self.state in (State.CONNECTING, State.RECONNECTING):
            return self._maker.doing(self._link) + (f"; last error: {last}" if last else "")
        if missing := self._recovery.not_back:
            return f"not back: {some_of(missing)}"
        return f"the connection's last error: {last}" if last else f"the connection is {self.state.name}"

    @property
    def loop(self) -> Loop:
        """The event loop."""
        return self._loop

    @property
    def max_message_size(self) -> int:
        """The largest body accepted, in bytes."""
        return self._settings.max_message_size

    @property
    def request_timeout(self) -> float | None:
        """Seconds that a request may take."""
        return self._settings.request_timeout

    @property
    def close_timeout(self) -> float:
        """Seconds that a close handshake may take."""
        return self._settings.close_timeout

    @property
    def lock_grace(self) -> float:
        """Seconds for which what is exclusive may be locked by our own earlier link.

        After a loss that only we have noticed the broker keeps the lock until it misses our heartbeats (RabbitMQ finds
        a silent client within two to three intervals).
        """
        heartbeat = self._settings.heartbeat if self.tuning is None else self.tuning.heartbeat
        return 3.0 * heartbeat + _CLEAN_UP

    def new_channel(self, owner: ChannelOwner | None) -> ChannelCore[LinkChannel]:
        return self.core.new_channel(owner)

    def register(self, channel: ChannelCore[LinkChannel], *, delay: float = 0.0) -> None:
        if self._scope is None:
            raise InvalidUse("a connection works inside its block: async with connect(...) as connection")
        self.core.register(channel, is_postponed=delay > 0)
        if channel.state is ChannelState.CONNECTING_PAUSED:
            self.later(delay, partial(channel.take, ChannelEvent.DUE))

    def _place(self, number: int) -> LinkChannel:
        return LinkChannel(self._require_link(), number, self._journal.stale_ack, self.later)

    def _require_link(self) -> Link:
        if self._link is None:
            raise InvalidUse(f"a connection that is {self.state.name} without a link")
        return self._link

    def will_declare(self, queue: str) -> bool:
        return self._recovery.will_declare(queue)

    async def wait_forgotten(self) -> None:
        await next_news(self.core.number_wakers)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self._timers.later(seconds, partial(self._call, call))

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the timers of everybody else
            self._journal.unexpected(error)

    def changed(
        self, machine: str, source: State, event: ConnectionEvent | ChannelEvent, target: State, reason: str | None
    ) -> None:
        """The public state of the connection or of a channel changed."""
        now = anyio.current_time()
        self._journal.record(Transition(machine, source, event, target, now, reason, self._maker.number))
        self._recovery.changed()

    # --- what the link tells ----------------------------------------------------------------------------------------

    def on_link_opened(self, tuning: Tuning, server_properties: FieldTable) -> None:
        self.tuning = tuning
        self.core.most_channels = tuning.channel_max
        self.server_properties = server_properties
        self._fire(ConnectionEvent.CONNECTED)

    def on_link_blocked(self, reason: str) -> None:
        self._fire(ConnectionEvent.BLOCKED, reason)

    def on_link_unblocked(self) -> None:
        self._fire(ConnectionEvent.UNBLOCKED)

    def on_number_free(self) -> None:
        self.core.number_wakers.wake()

    def on_secret_updated(self, secret: str) -> None:
        self._maker.credentials.updated(secret)

    def on_link_ended(self, error: AnyamqpError | None) -> None:
        if isinstance(error, LoginRefused):
            error.login = self._maker.login
        if error is not None:
            self._journal.last_error = error
        self._fire(ConnectionEvent.LOST, reason_of(error))
        self._recovery.lost(error)

    # --- the supervisor ---------------------------------------------------------------------------------------------

    async def _run(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._timers.run)
                    self._maker.begin()
                    self._fire(ConnectionEvent.STARTED)
                    await self._work_on()
                    tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - a fault of ours must end as a state that everybody sees
            self._journal.crashed(error)
            self._fail(error)
        finally:
            self._fire(ConnectionEvent.CLOSED)

    async def _work_on(self) -> None:
        """Do one step after the other. Each ends with an event, whose effects name the next."""
        while (work := self._work) is not None:
            self._work = None
            if work is ConnectionEffect.WAIT:
                await self._wait()
            elif work is ConnectionEffect.DIAL:
                await self._dial()
            else:
                await self._run_link()

    async def _wait(self) -> None:
        try:
            delay = self._maker.pause()
        except AnyamqpError as hopeless:
            self._fail(hopeless)
            return
        with anyio.CancelScope() as self._interruptible:
            await anyio.sleep(delay)
            await self._maker.wait_turn()
        self._fire(ConnectionEvent.DUE)

    async def _dial(self) -> None:
        with anyio.CancelScope() as self._interruptible:
            await self._maker.dial()
        self._fire(ConnectionEvent.DIALED if self._maker.is_dialed else ConnectionEvent.REFUSED)

    def _fail(self, error: Exception) -> None:
        self.core.failure = error
        self._fire(ConnectionEvent.FAILED, reason_of(error))

    async def _run_link(self) -> None:
        """Run a link on the transport that was dialed until it ends."""
        link = self._link = self.core.link = self._maker.link(self)
        self.core.opened_at = None
        error: AnyamqpError | None = None
        try:
            async with anyio.create_task_group() as self._link_tasks:
                self._link_tasks.start_soon(link.run, self._maker.credentials.renewal)
                await self._maker.wait_open(link)
                await link.wait_over()
        except BaseException as raised:  # noqa: BLE001 - a fault of ours costs the link, not the connection
            error = self._maker.expected(raised)
        finally:
            self.core.close_facts = link.session.close_facts
            self._link = self.core.link = self._link_tasks = None
            self._maker.link_ended(link, error, self.core.opened_at)

    async def _recover(self, link: Link) -> None:
        with anyio.CancelScope() as self._interruptible:
            if await self._recovery.run(link):
                self._fire(ConnectionEvent.OPENED)
                self._recovery.opened()

    # --- effects ----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: ConnectionEffect, now: float) -> None:
        match effect, self._link:
            case ConnectionEffect.WAIT | ConnectionEffect.DIAL | ConnectionEffect.RUN_LINK, _:
                self._work = effect
            case ConnectionEffect.RECOVER, Link() as link if self._link_tasks is not None:
                self._link_tasks.start_soon(self._recover, link)
            case ConnectionEffect.INTERRUPT, _:
                self._close_by = self._end_of_attempt
                if self._interruptible is not None:
                    self._interruptible.cancel()
            case ConnectionEffect.LEAVE_HANDSHAKE, Link() as link:
                self._close_by = self._end_of_attempt
                if not link.session.bytes_received and self._scope is not None:
                    self._scope.cancel()  # nobody has answered yet, so there is nobody to say goodbye to
            case ConnectionEffect.LEAVE_LINK, Link() as link:
                link.close()
            case ConnectionEffect.CLOSE_LINK, Link() as link:
                link.close()
                deadline = link.close_deadline(self._settings.close_timeout)
                self._close_by = max(deadline, now + _LAST_WORD)
            case ConnectionEffect.END, _:
                self._journal.end()
                self._finished.set()
            case _:
                raise InvalidUse(f"the connection cannot {effect.value} without a link")

    # --- endings ----------------------------------------------------------------------------------------------------

    @property
    def _end_of_attempt(self) -> float:
        """When an attempt to connect must have ended if the user leaves now."""
        return anyio.current_time() + min(self._settings.close_timeout, _GRACE)

    def _fire(self, event: ConnectionEvent, reason: str | None = None) -> None:
        now = anyio.current_time()
        for effect in self.core.take(event, now, reason):
            self._carry_out(effect, now)
