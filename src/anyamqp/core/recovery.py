"""Bringing a new link into the state that the last one had.

In this order: exchanges, queues, bindings (:mod:`anyamqp.protocol.declaring`); then every channel, with its qos,
confirm mode and consumers. The connection is OPEN when everything is back, except for entities that the broker does not
answer for or that our last link still locks. These come back later, and nobody waits for them (invariant 13). An entity
that cannot be declared again fails the channels and consumers that need it, with that error; the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from anyamqp.core.declaring import DeclaringShell
from anyamqp.core.host import ChannelHost
from anyamqp.core.link_channel import LinkChannel
from anyamqp.entities import Entity
from anyamqp.errors import AnyamqpError, ChannelLimitReached, RequestTimeout, is_unexplained_close
from anyamqp.net.event_loop import next_news
from anyamqp.net.link import Link
from anyamqp.net.timers import Deadlines
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.channel_numbers import HIGHEST_CHANNEL
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.declaring import Declaring
from anyamqp.protocol.lanes import PATIENCE
from anyamqp.protocol.lifecycle.channel import OPENING, ChannelState
from anyamqp.protocol.ports import Consuming
from anyamqp.protocol.topology import Recorded, Topology
from anyamqp.protocol.waking import Wakers
from anyamqp.settings import DEFAULT_REQUEST_TIMEOUT

_DETACHED = (ChannelState.CONNECTING_DETACHED, ChannelState.RECONNECTING_DETACHED)


class Recovery:
    """Recovers a connection on one link after the other.

    Args:
        host: the connection, for the channels that declare.
        topology: the entities to declare.
        wanted: which of it to declare.
        connection: whose channels to reopen.
        entity_failed: told of each entity that could not be declared, with the reason.

    Attributes:
        wakers: woken when something is back.
    """

    __slots__ = (
        "_connection",
        "_entity_failed",
        "_heard_at",
        "_host",
        "_is_careful",
        "_is_open",
        "_is_told",
        "_link",
        "_looks",
        "_postponed",
        "_reopened",
        "_shell",
        "_silences",
        "_topology",
        "_wanted",
        "wakers",
    )

    def __init__(
        self,
        host: ChannelHost,
        topology: Topology,
        wanted: Callable[[Entity], bool],
        connection: ConnectionCore[LinkChannel],
        entity_failed: Callable[[Recorded, AnyamqpError], None],
    ) -> None:
        self.wakers: Wakers = Wakers()
        self._host = host
        self._topology = topology
        self._wanted = wanted
        self._connection = connection
        self._entity_failed = entity_failed
        self._link: Link | None = None
        """The link that is being recovered, or was."""
        self._shell: DeclaringShell | None = None
        self._is_open = False
        """Whether the connection is OPEN on this link, so that only latecomers are waited for."""
        self._is_told = True
        """Whether the log has nothing to add about entities, consumers and channels that were not back."""
        self._is_careful = False
        """Whether to send one request and open one channel at a time, because the broker closed the last link without
        a word of which one it was for. The one that is under way when it happens again is given up."""
        self._postponed: set[ChannelCore[LinkChannel]] = set()
        """The channels that an earlier link had to wait for."""
        self._reopened: dict[ChannelCore[LinkChannel], None] = {}
        """The channels that were opened on this link by recovery, and may not be open yet."""
        self._heard_at = 0.0
        self._silences = Deadlines(host.later, self._silent)
        self._looks = Deadlines(host.later, self._look)

    # --- one link -----------------------------------------------------------------------------------------------------

    async def run(self, link: Link) -> bool:
        """Recover on ``link``; end it when the broker answers nothing at all.

        Returns:
            Whether the connection may open; False if the link has ended.
        """
        self._link, self._is_open = link, False
        self._reopened.clear()
        self._postponed = {one for one in self._connection.unopened if one.state is ChannelState.CONNECTING_PAUSED}
        topology = self._topology
        entities = [*topology.exchanges(), *topology.queues(), *topology.bindings()]
        most = self._connection.most_channels or HIGHEST_CHANNEL
        declaring = Declaring(
            topology,
            [one for one in entities if self._wanted(one.entity)],
            # The channels that there are need the rest.
            most_lanes=max(1, (most - len(self._connection.channels)) // 2),
            locked_until=anyio.current_time() + self._host.lock_grace,
            is_careful=self._is_careful,
        )
        shell = self._shell = DeclaringShell(self._host, declaring, link, self._entity_failed, self._heard)
        self._heard()
        self._silences.add(self._heard_at + self._patience)
        shell.begin()
        while link.is_open and not declaring.is_settled:
            await next_news(self.wakers)
        with anyio.move_on_after(PATIENCE):
            while link.is_open and shell.is_closing:
                await next_news(self.wakers)
        reopen = self._reopen_one if self._is_careful else self._reopen_some
        while link.is_open and await reopen(link):
            pass
        if link.is_open:
            self._is_careful = False
            self._attach(link, self._detached)
        return link.is_open

    def opened(self) -> None:
        """The connection is OPEN on the link."""
        self._is_open = True
        missing = self.not_back
        self._is_told = not missing
        if missing:
            self._host.journal.not_back(missing)
        elif self._shell is not None and self._shell.declaring.is_complete:
            self._shell = None

    def lost(self, error: AnyamqpError | None) -> None:
        """The link has ended. Told before any channel hears of it."""
        shell, self._shell = self._shell, None
        self._silences.cancel()
        self._looks.cancel()
        opening = [] if self._is_open or shell is None else self._opening
        if opening and is_unexplained_close(error):
            if self._is_careful:
                opening[0].shut(error)
            self._is_careful = True
        if shell is not None:
            shell.lost(error)
            self._is_careful = self._is_careful or shell.declaring.is_careful
        self.wakers.wake()

    def changed(self) -> None:
        """The public state of a channel has changed."""
        self._heard()

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more in this recovery. Asking for it makes it so."""
        if self._shell is None:
            return False
        return self._shell.declaring.holds(queue) if self._is_open else self._shell.will_declare(queue)

    @property
    def not_back(self) -> tuple[str, ...]:
        """The entities, consumers and channels that are not back on the present link, each with the reason."""
        if self._shell is None:
            return ()
        consumers = list(self._connection.consumers)
        theirs = {consumer.channel for consumer in consumers}
        channels = [channel for channel in (*self._opening, *self._detached) if channel not in theirs]
        return (
            *(f"{recorded.entity}: {reason}" for recorded, reason in self._shell.declaring.pending()),
            *(text for consumer in consumers if (text := self._missing(consumer)) is not None),
            *(f"{channel}: {_reason(channel)}" for channel in channels),
        )

    def _missing(self, consumer: Consuming) -> str | None:
        reason = consumer.not_back
        if reason is None:
            return None
        queue = f"queue {consumer.queue!r}"
        return f"consumer of {queue}: {f'waits for {queue}' if self._is_held(consumer.queue) else reason}"

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _reopen_some(self, link: Link) -> bool:
        """Open the channels that are on no link, and wait until one of those that are being opened is.

        Returns:
            Whether there may be more to wait for; not if the broker has answered for none of them in a while.
        """
        self._attach(link, self._detached)
        if not self._opening:
            return False
        with anyio.move_on_after(PATIENCE) as patience:
            await next_news(self.wakers)
        return not patience.cancelled_caught

    async def _reopen_one(self, link: Link) -> bool:
        """Open one channel, and wait as long as it takes.

        Returns:
            Whether there may be more to open.
        """
        waiting = self._detached[:1]
        self._attach(link, waiting)
        while any(channel.state in OPENING for channel in waiting) and link.is_open:
            await next_news(self.wakers)
        return any(not self._is_off_link(channel) for channel in waiting)

    def _attach(self, link: Link, channels: Sequence[ChannelCore[LinkChannel]]) -> None:
        for channel in channels:
            if link.is_open and self._is_off_link(channel):
                self._reopened[channel] = None
                try:
                    channel.attach(link)
                except ChannelLimitReached as error:
                    if self._shell is not None and self._shell.has_lanes:
                        return  # a lane has the number, and gives it back when it is done
                    channel.shut(error)
                except AnyamqpError as error:
                    channel.shut(error)

    @property
    def _opening(self) -> list[ChannelCore[LinkChannel]]:
        """The channels that recovery has opened, and the broker has not answered for."""
        return [channel for channel in self._reopened if channel.state in OPENING]

    def _is_held(self, queue: str) -> bool:
        return self._shell is not None and self._shell.declaring.holds(queue)

    @property
    def _detached(self) -> list[ChannelCore[LinkChannel]]:
        """The channels to open on the present link; not those of consumers whose queue is still to be declared."""
        held = {consumer.channel for consumer in self._connection.consumers if self._is_held(consumer.queue)}
        off_link = [channel for channel in self._connection.unopened if self._is_off_link(channel)]
        return [channel for channel in off_link if channel not in held]

    def _is_off_link(self, channel: ChannelCore[LinkChannel]) -> bool:
        return channel.state in _DETACHED or (
            channel.state is ChannelState.CONNECTING_PAUSED and channel in self._postponed
        )

    def _heard(self) -> None:
        """The broker has answered something."""
        self._heard_at = self._host.loop.now()
        self.wakers.wake()
        if not self._is_told:
            self._looks.add(self._heard_at)  # when everybody has heard of it

    def _look(self, now: float) -> None:  # noqa: ARG002
        """Look whether everything is back now."""
        link = self._link
        if not self._is_open or self._shell is None or link is None:
            return
        self._attach(link, self._detached)
        if not self.not_back:
            self._is_told = True
            self._host.journal.back()
        self.wakers.wake()

    def _silent(self, now: float) -> float | None:
        """End the link if the broker has answered nothing at all for so long."""
        link, shell = self._link, self._shell
        if link is None or shell is None:
            return None
        if now < self._heard_at + self._patience:
            return self._heard_at + self._patience
        opening = bool(self._opening)
        entities = shell.declaring.unanswered
        if not (opening or entities):
            return None if shell.declaring.is_complete else now + self._patience
        if link.dispatcher.has_worked:
            return now + self._patience
        request = f"declaring {entities[0].entity}" if entities else "opening a channel"
        link.abort(RequestTimeout(f"{request}: no answer within {self._patience} s"))
        return None

    @property
    def _patience(self) -> float:
        """Seconds for an answer: without a limit, a broker that gives none would hold the connection for ever."""
        return self._host.request_timeout or DEFAULT_REQUEST_TIMEOUT


def _reason(channel: ChannelCore[LinkChannel]) -> str:
    return "the broker has not answered yet" if channel.state in OPENING else "waits for a number"
