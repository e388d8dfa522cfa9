"""Bringing a new link into the state that the last one had.

In this order: exchanges, queues, bindings; then every channel, with its qos, confirm mode and consumers. Requests of a
step are sent one behind the other, without waiting in between. An entity that cannot be declared again fails those who
need it, with that error; the rest goes on.

The broker may notice the death of the last link only now, and delete what went with it: an auto-delete exchange between
our declare of it and our bind, for example. So where something is missing that was just declared, the pass is repeated
from the exchanges, a few times, before anybody fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import anyio

from anyamqp.core.channel import LogicalChannel
from anyamqp.core.host import ChannelHost
from anyamqp.core.link_channel import LinkChannel
from anyamqp.core.waiting import answered_within
from anyamqp.entities import Entity
from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionLost,
    InvalidArgument,
    NotFound,
    ReplyError,
    RequestTimeout,
    ResourceLocked,
    is_unexplained_close,
)
from anyamqp.net.event_loop import next_news
from anyamqp.net.link import Link
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.lifecycle.channel import OPENING
from anyamqp.protocol.topology import Recorded, Topology
from anyamqp.settings import DEFAULT_REQUEST_TIMEOUT
from anyamqp.wire.methods import Method

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts at what our own earlier link still locks, or takes away, until the broker has cleaned up."""

_MOST_REPEATS = 3
"""Passes on one link besides the first."""

_FEW = 16
"""Requests sent at a time after one was refused, doubled with each success: what follows a refused one is sent in vain,
and a thousand refusals among ten thousand entities would mean millions of requests."""


class Recovery:
    """Recovers a connection on one link after the other.

    Args:
        host: the connection, for the channel that declares.
        topology: what to declare.
        wanted: which of it to declare.
        connection: whose channels to reopen.
        entity_failed: told of each entity that could not be declared, with the reason.
    """

    def __init__(
        self,
        host: ChannelHost,
        topology: Topology,
        wanted: Callable[[Entity], bool],
        connection: ConnectionCore[LinkChannel],
        entity_failed: Callable[[Recorded, AnyamqpError], None],
    ) -> None:
        self._host = host
        self._topology = topology
        self._wanted = wanted
        self._connection = connection
        self._entity_failed = entity_failed
        self._channel: LogicalChannel | None = None
        """Declares; None until it is needed."""
        self._declared: dict[Recorded, None] = {}
        """What was declared in the present pass."""
        self._named: dict[Recorded, None] = {}
        """The queues to which the broker has given their names on this link: asked again, it would make more queues."""
        self._repeats = 0
        """How many passes may follow on this link; 0 while no recovery is under way."""
        self._is_incomplete = False
        """Whether something that the present pass declared has vanished."""
        self._is_careful = False
        """Whether to send one request and open one channel at a time, because the broker closed the last link without
        a word of which one it was for. The one that is under way when it happens again is given up."""

    async def run(self, link: Link) -> bool:
        """Recover on ``link``; end it when the broker does not answer.

        Returns:
            Whether all is done; False if the link ended before.
        """
        self._channel = None
        self._named.clear()
        self._repeats = _MOST_REPEATS
        try:
            await self._declare(link)
            await self._reopen(link)
        except (RequestTimeout, ChannelClosed) as error:
            link.abort(error)
        finally:
            self._repeats = 0
        return link.is_open

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more in this recovery. Asking for it makes it so."""
        recorded = self._topology.queue(queue)
        if recorded not in self._declared or not self._repeats:
            return False
        self._is_incomplete = True
        return True

    # --- exchanges, queues, bindings --------------------------------------------------------------------------------

    async def _declare(self, link: Link) -> None:
        locked_until = anyio.current_time() + self._host.lock_grace
        pause = 0.0
        while link.is_open:
            self._is_incomplete = False
            self._declared.clear()
            for part in (self._topology.exchanges, self._topology.queues, self._topology.bindings):
                await self._declare_part(link, part(), locked_until)
            if not self._is_incomplete:
                break
            self._repeats -= 1
            await anyio.sleep(pause)
            pause = 2 * pause or _FIRST_PAUSE
        channel, self._channel = self._channel, None
        if channel is not None:
            # Waited for, because its number may be the only one there is (channel_max).
            await channel.close()

    async def _declare_part(self, link: Link, part: Sequence[Recorded], locked_until: float) -> None:
        entities = deque(one for one in part if one not in self._named and self._wanted(one.entity))
        count = 1 if self._is_careful else len(entities)
        pause = _FIRST_PAUSE
        while entities and link.is_open and not self._is_incomplete:
            try:
                await self._replay(link, entities, count)
                count = count if self._is_careful else 2 * count
            except ConnectionLost:
                self._suspect(link, entities)
            except ReplyError as error:
                self._channel = None  # the broker closed it; what is left in entities was not done
                count = 1 if self._is_careful else _FEW
                if isinstance(error, ResourceLocked) and anyio.current_time() < locked_until:
                    await anyio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                elif isinstance(error, NotFound) and self._repeats and self._has_vanished(entities[0]):
                    self._is_incomplete = True
                else:
                    self._entity_failed(entities.popleft(), error)
            except InvalidArgument as error:
                self._entity_failed(entities.popleft(), error)

    async def _replay(self, link: Link, entities: deque[Recorded], count: int) -> None:
        def done(reply: Method) -> None:
            recorded = entities.popleft()
            self._declared[recorded] = None
            self._topology.declared_again(recorded, reply)
            if recorded.is_named_by_broker:
                self._named[recorded] = None

        if self._channel is None or self._channel.link_channel is None:
            self._channel = LogicalChannel(self._host, None)
            self._channel.core.attach(link)
        await self._channel.replay([one.request for one in islice(entities, count)], done, within=self._patience)

    def _has_vanished(self, binding: Recorded) -> bool:
        """Whether an end of the binding was declared in this pass, so that a 404 may mean that it is gone again."""
        return any(end in self._declared for end in self._topology.ends(binding))

    def _suspect(self, link: Link, entities: deque[Recorded]) -> None:
        """The link is lost, perhaps because of a request whose answer was awaited."""
        if not is_unexplained_close(link.error):
            return
        if self._is_careful:
            self._entity_failed(entities.popleft(), link.error)
        self._is_careful = True

    # --- channels ---------------------------------------------------------------------------------------------------

    async def _reopen(self, link: Link) -> None:
        # There is more than one round for channels that came meanwhile, for exclusive consumers that are still locked
        # out, and for consumers whose queue has vanished.
        pause = 0.0
        while link.is_open and self._connection.unopened:
            if pause:
                await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE) or _FIRST_PAUSE
            if self._is_incomplete:
                self._repeats -= 1
                await self._declare(link)
            # Looked up after the pause, and attached without an await: nobody can close one of them in between.
            waiting = self._connection.unopened
            for some in [[one] for one in waiting] if self._is_careful else [waiting]:
                self._attach(link, some)
                for channel in some:
                    await answered_within(self._patience, _settled(channel), "opening a channel")
                if is_unexplained_close(link.error):
                    if self._is_careful:
                        some[0].shut(link.error)
                    self._is_careful = True
                    return
        self._is_careful = self._is_careful and not link.is_open

    def _attach(self, link: Link, channels: Sequence[ChannelCore[LinkChannel]]) -> None:
        for channel in channels:
            if channel.place is None and link.is_open:
                try:
                    channel.attach(link)
                except AnyamqpError as error:
                    channel.shut(error)

    @property
    def _patience(self) -> float:
        """Seconds for an answer: without a limit, a broker that gives none would hold the connection for ever."""
        return self._host.request_timeout or DEFAULT_REQUEST_TIMEOUT


async def _settled(channel: ChannelCore[LinkChannel]) -> None:
    """Wait until the channel is open on the present link, or closed, or has lost that link."""
    while channel.state in OPENING:
        await next_news(channel.wakers)
