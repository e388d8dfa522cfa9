"""The connection, as the objects on it see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import anyio

from anyamqp.core.hooking import ConnectionHooks
from anyamqp.core.journal import Journal, some_of
from anyamqp.core.link_channel import LinkChannel
from anyamqp.core.link_maker import LinkMaker
from anyamqp.core.stats import Stats
from anyamqp.errors import InvalidUse
from anyamqp.hooks import Hooks
from anyamqp.message import FieldTable
from anyamqp.net.dialer import Dial
from anyamqp.net.event_loop import Loop, next_news, running_loop
from anyamqp.net.link import Link
from anyamqp.net.timers import Timer, Timers
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.events import BlockNotice, Tuning
from anyamqp.protocol.heartbeat import lock_grace
from anyamqp.protocol.lifecycle import ChannelEvent, ConnectionEvent, State, Transition
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.topology import Topology
from anyamqp.settings import Settings


class ChannelHost:
    """A connection's parts, for the objects that live on it.

    Args:
        settings: the settings of the connection.
        fail_fast: whether the first connect gives up at once on an error that no retry can cure.
        dial: opens a transport in place of TCP.
        hooks: observe the connection.

    Raises:
        SettingsError: a file of the TLS settings is missing or of the wrong kind.

    Attributes:
        core: decides the life of the connection.
        journal: logs and counts.
        topology: records the entities that were declared.
        maker: dials, and makes links.
        hooks: calls the user's hooks; None if there are none.
        timers: call functions later.
        loop: the event loop.
        link: the present link; None between two links.
        tuning: the limits agreed with the broker at the last handshake; None before the first.
        server_properties: the broker's properties from the last handshake.
        settings: the settings of the connection.
    """

    def __init__(self, settings: Settings, *, fail_fast: bool, dial: Dial | None, hooks: Sequence[Hooks] = ()) -> None:
        self.settings: Settings = settings
        self.timers: Timers = Timers()
        self.journal: Journal = Journal(settings.name, self.timers.later)
        self.maker: LinkMaker = LinkMaker(settings, fail_fast=fail_fast, dial=dial, journal=self.journal)
        self.hooks: ConnectionHooks | None = None
        if hooks:
            self.hooks = ConnectionHooks(hooks, self.journal, lambda: self.maker.address)
            self.journal.listener = self.hooks.transition
        self.topology: Topology = Topology(settings.topology_recovery.mode)
        self.core: ConnectionCore[LinkChannel] = ConnectionCore(self.topology, self, self._new_link_channel)
        self.loop: Loop = Loop()
        self.link: Link | None = None
        self.tuning: Tuning | None = None
        self.server_properties: FieldTable = {}

    def begin(self) -> None:
        """The connection begins, on this event loop."""
        self.loop = self.journal.loop = running_loop()
        if self.hooks is not None:
            self.hooks.begun(self.settings.name, lambda: self.stats)

    def require_link(self) -> Link:
        """The present link.

        Raises:
            InvalidUse: there is none.
        """
        if self.link is None:
            raise InvalidUse(f"a connection that is {self.core.state.value} without a link")
        return self.link

    # --- settings ---------------------------------------------------------------------------------------------------

    @property
    def max_message_size(self) -> int:
        """The largest body accepted, in bytes."""
        return self.settings.max_message_size

    @property
    def request_timeout(self) -> float | None:
        """Seconds that a request may take."""
        return self.settings.request_timeout

    @property
    def close_timeout(self) -> float:
        """Seconds that a close handshake may take."""
        return self.settings.close_timeout

    @property
    def lock_grace(self) -> float:
        """Seconds for which our own earlier link may lock an exclusive queue or consumer."""
        return lock_grace(self.settings.heartbeat if self.tuning is None else self.tuning.heartbeat)

    # --- the connection's state -------------------------------------------------------------------------------------

    @property
    def block(self) -> BlockNotice | None:
        """Why and since when the broker accepts no publishes; None if it accepts them."""
        return self.core.block

    @property
    def progress(self) -> str:
        """The connection's progress, for the text of a time-out error."""
        last = self.journal.last_error
        if self.core.block is not None:
            return f"the broker has blocked the connection: {self.core.block.reason}"
        if self.core.state.public in (State.CONNECTING, State.RECONNECTING):
            return self.maker.doing(self.link) + (f"; last error: {last}" if last else "")
        if missing := self.core.not_back:
            return f"not back: {some_of(missing)}"
        return f"the connection's last error: {last}" if last else f"the connection is {self.core.state.public.name}"

    @property
    def stats(self) -> Stats:
        """The connection at this moment."""
        core, journal, link = self.core, self.journal, self.link
        traffic = self.maker.past_traffic if link is None else self.maker.past_traffic.and_of(link)
        is_away = core.state.public in (State.CONNECTING, State.RECONNECTING)
        return Stats(
            state=core.state.public,
            detail=f"{core.state.value}, {self.maker.doing(link)}" if is_away else core.state.value,
            link_number=self.maker.number,
            dials=journal.dials,
            reconnects=core.reconnects,
            open_channels=0 if link is None else link.session.channel_count,
            unconfirmed=self._unconfirmed,
            window=sum(publisher.window for publisher in core.publishers),
            silent_for=None if link is None else self.loop.now() - link.session.received_at,
            blocked_since=None if core.block is None else core.block.since,
            blocked_seconds=journal.blocked_seconds(self.loop.now()),
            last_error=journal.last_error,
            not_back=core.not_back,
            stale_acks=journal.stale_acks,
            unknown_confirms=journal.unknown_confirms,
            dropped_transitions=journal.dropped_transitions,
            stalls=journal.stalls,
            bytes_sent=traffic.bytes_sent,
            bytes_received=traffic.bytes_received,
            frames_sent=traffic.frames_sent,
            frames_received=traffic.frames_received,
        )

    def changed(
        self, machine: str, source: State, event: ConnectionEvent | ChannelEvent, target: State, reason: str | None
    ) -> None:
        """The public state of the connection or of a channel changed."""
        now = anyio.current_time()
        transition = Transition(machine, source, event, target, now, reason, self.maker.number)
        is_back = event is ConnectionEvent.OPENED
        self.journal.record(transition, unconfirmed=self._unconfirmed if is_back else 0)

    @property
    def _unconfirmed(self) -> int:
        return sum(publisher.unconfirmed for publisher in self.core.publishers)

    # --- channels ---------------------------------------------------------------------------------------------------

    def new_channel(self, owner: ChannelOwner | None) -> ChannelCore[LinkChannel]:
        """A channel that the connection does not know yet."""
        return self.core.new_channel(owner)

    def register(self, channel: ChannelCore[LinkChannel], *, delay: float = 0.0) -> None:
        """Keep the channel until it is closed, and attach it whenever a link is ready.

        Args:
            channel: the channel.
            delay: seconds until it is attached to the present link, if that is ready.

        Raises:
            ChannelLimitReached: no channel number is free.
            ConnectionClosed: the connection is closed.
            InvalidUse: the connection's block was not entered.
        """
        self.core.register(channel, is_postponed=delay > 0)
        if delay > 0:
            self.later(delay, partial(channel.take, ChannelEvent.DUE))

    async def wait_forgotten(self) -> None:
        """Wait until a channel is closed, or its number free."""
        await next_news(self.core.number_wakers)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call a function after ``seconds``, unless the connection is closed before."""
        return self.timers.later(seconds, partial(self._call, call))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _new_link_channel(self, number: int) -> LinkChannel:
        return LinkChannel(self.require_link(), number, self.journal.stale_ack, self.later)

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the timers of everybody else
            self.journal.unexpected(error)
