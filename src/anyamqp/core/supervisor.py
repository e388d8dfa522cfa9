"""The supervisor runs a connection: one task dials, recovers and moves bytes.

That task is the only code that dials (invariant 1). It carries out the steps that :mod:`anyamqp.protocol.connection`
decides: wait, dial, shake hands, recover, run the link until it ends. All other tasks wait for a state, so reconnects
cannot race and need no lock. The task group that moves the bytes of a transport ends before the next dial begins, and
closes the transport.

Recovery declares the topology and reopens the channels (:mod:`anyamqp.core.recovery`); then the connection is OPEN and
publishers resend their unconfirmed messages, oldest first, before new ones. A queue that the broker does not answer
for, and whatever needs it, come back later: :attr:`Stats.not_back` names them.

Nothing here raises into the user's tasks: a failure is a state, a line in the log and the cause of the error
that calls on the connection raise.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.abc

from anyamqp.core.host import ChannelHost
from anyamqp.core.link_maker import first_failure
from anyamqp.core.recovery import Recovery
from anyamqp.core.recovery_hooks import RecoveryHooks
from anyamqp.errors import (
    AnyamqpError,
    ConnectionLost,
    InvalidUse,
    LoginRefused,
)
from anyamqp.hooks import Hooks
from anyamqp.message import FieldTable
from anyamqp.net.dialer import Dial
from anyamqp.net.event_loop import Flag, next_news
from anyamqp.net.link import Link
from anyamqp.protocol.dispatch import LinkOwner
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.leaving import Leaving
from anyamqp.protocol.lifecycle import (
    ConnectionEffect,
    ConnectionEvent,
    State,
)
from anyamqp.settings import Settings
from anyamqp.wire import methods


class Supervisor(LinkOwner):
    """Keeps one connection connected, and knows everything that lives on it.

    Args:
        settings: the settings of the connection.
        fail_fast: whether the first connect gives up at once on an error that no retry can cure.
        dial: opens a transport in place of TCP.
        hooks: observe the connection.

    Raises:
        SettingsError: a file of the TLS settings is missing or of the wrong kind.

    Attributes:
        host: the connection's parts, for the objects that live on it.
    """

    def __init__(self, settings: Settings, *, fail_fast: bool, dial: Dial | None, hooks: Sequence[Hooks] = ()) -> None:
        self.host: ChannelHost = ChannelHost(settings, fail_fast=fail_fast, dial=dial, hooks=hooks)
        self._core = core = self.host.core
        self._maker = self.host.maker
        self._journal = self.host.journal
        recovery_hooks = RecoveryHooks(settings.topology_recovery, core, self._journal)
        self._recovery = core.recovery = Recovery(self.host, recovery_hooks.wanted, recovery_hooks.failed)
        self._finished = Flag()
        self._scope: anyio.CancelScope | None = None
        self._attempt: anyio.CancelScope | None = None
        """Cancelled when the user leaves."""
        self._leaving = Leaving(settings.close_timeout)
        self._work: ConnectionEffect | None = None
        """The next step of the connection."""
        self._link_tasks: anyio.abc.TaskGroup | None = None

    # --- for the connection -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The connection's state."""
        return self._core.state.public

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin, in a task that ends with :meth:`close` or when the connection is given up, and raises nothing."""
        # Shielded, so that a cancellation around the user's block leaves this task to do the close handshake. Made
        # here, because a connection may be made before there is an event loop.
        self._scope = anyio.CancelScope(shield=True)
        self.host.begin()
        self._maker.begin()
        self._fire(ConnectionEvent.STARTED)
        tasks.start_soon(self._run, self._scope)

    async def wait_for(self, *states: State) -> None:
        """Wait until the connection is in one of these states.

        Raises:
            ConnectionClosed: it is closed, and none of them is CLOSED.
        """
        while self.state not in states:
            if self.state is State.CLOSED or State.CLOSED not in states:
                self._core.raise_if_closed()
            await next_news(self._core.wakers)

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
                with anyio.CancelScope(deadline=self._leaving.deadline):
                    await self._finished.wait()
            finally:
                # On trio a KeyboardInterrupt comes through any shield.
                if self._scope is not None:
                    self._scope.cancel()
            await self._finished.wait()

    async def update_secret(self, update: methods.Connection.UpdateSecret) -> None:
        """Send a new secret once the connection is open, and wait for the broker's answer.

        While the connection is away, the secret is the password of the next login: the old one may have expired.

        Raises:
            ConnectionLost: the link ended before the answer, and there is no credentials function.
            ConnectionClosed: the connection is closed.
            ReplyError: the broker refused it.
        """
        logins = self._maker.credentials.logins
        logins.offered(update.new_secret, is_up=self.state in (State.OPEN, State.BLOCKED))
        await self.wait_for(State.OPEN, State.BLOCKED)
        try:
            await self.host.require_link().update_secret(update)
        except ConnectionLost as error:
            self._core.raise_if_closed()
            logins.unanswered(error)

    # --- events of the link -----------------------------------------------------------------------------------------

    def on_link_opened(self, tuning: Tuning, server_properties: FieldTable) -> None:
        self.host.tuning = tuning
        self._core.most_channels = tuning.channel_max
        self.host.server_properties = server_properties
        self._fire(ConnectionEvent.CONNECTED)

    def on_link_blocked(self, reason: str) -> None:
        self._fire(ConnectionEvent.BLOCKED, reason)

    def on_link_unblocked(self) -> None:
        self._fire(ConnectionEvent.UNBLOCKED)

    def on_number_free(self) -> None:
        self._core.number_wakers.wake()

    def on_secret_updated(self, secret: str) -> None:
        self._maker.credentials.logins.accepted(secret)

    def on_link_ended(self, error: AnyamqpError | None) -> None:
        if isinstance(error, LoginRefused):
            error.login = self._maker.login
        if error is not None:
            self._journal.last_error = error
        self._fire(ConnectionEvent.LOST, error)

    # --- the supervisor ---------------------------------------------------------------------------------------------

    async def _run(self, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.host.timers.run)
                    await self._work_on()
                    tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - a fault of ours must end as a state that everybody sees
            fault = first_failure(error)
            self._journal.crashed(fault)
            self._fail(fault)
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
        with anyio.CancelScope() as self._attempt:
            await anyio.sleep(delay)
            await self._maker.wait_turn()
        self._attempt = None
        self._fire(ConnectionEvent.DUE)

    async def _dial(self) -> None:
        link: Link | None = None
        with anyio.CancelScope() as self._attempt:
            link = await self._maker.dial(self)
        self._attempt = None
        if link is None:
            self._fire(ConnectionEvent.REFUSED)
            return
        self.host.link, now = link, anyio.current_time()
        for effect in self._core.dialed(link, now):
            self._carry_out(effect, now)

    def _fail(self, error: Exception) -> None:
        self._fire(ConnectionEvent.FAILED, error)

    async def _run_link(self) -> None:
        """Run the link that was dialed until it ends."""
        link = self.host.require_link()
        try:
            async with anyio.create_task_group() as self._link_tasks:
                self._link_tasks.start_soon(link.run, self._maker.credentials.renewal)
                await self._maker.wait_open(link)
                await link.wait_over()
        except BaseException as raised:  # noqa: BLE001 - a fault of ours costs the link, not the connection
            link.abort(self._maker.expected(raised))
        finally:
            await link.tear_down()
            self.host.link = self._link_tasks = None
            self._maker.link_ended(link, self._core.opened_at)

    async def _recover(self, link: Link) -> None:
        with anyio.CancelScope() as self._attempt:
            if await self._recovery.run(link):
                self._fire(ConnectionEvent.OPENED)
        self._attempt = None

    # --- effects ----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: ConnectionEffect, now: float) -> None:
        match effect, self.host.link:
            case ConnectionEffect.WAIT | ConnectionEffect.DIAL | ConnectionEffect.RUN_LINK, _:
                self._work = effect
            case ConnectionEffect.RECOVER, Link() as link if self._link_tasks is not None:
                self._link_tasks.start_soon(self._recover, link)
            case ConnectionEffect.INTERRUPT, _:
                self._leaving.attempt(now)
                self._work = None  # a pause that waits for the end of the last link
                if self._attempt is not None:
                    self._attempt.cancel()
            case ConnectionEffect.LEAVE_HANDSHAKE, Link() as link:
                if self._leaving.handshake(link.session.bytes_received, now) and self._scope is not None:
                    self._scope.cancel()
            case ConnectionEffect.LEAVE_LINK, Link() as link:
                link.close()
            case ConnectionEffect.CLOSE_LINK, Link() as link:
                link.close()
                self._leaving.link(link.close_deadline(self.host.close_timeout), now)
            case ConnectionEffect.END, _:
                self._journal.end()
                self._finished.set()
            case _:
                raise InvalidUse(f"the connection cannot {effect.value} without a link")

    def _fire(self, event: ConnectionEvent, reason: Exception | str | None = None) -> None:
        now = anyio.current_time()
        for effect in self._core.take(event, now, reason):
            self._carry_out(effect, now)
