"""Bringing a new link into the state that the last one had.

In this order: exchanges, queues, bindings; then every channel, with its qos, confirm mode and consumers. Requests of a
step are sent one behind the other, without waiting in between. What the broker refuses to declare again fails those who
need it, with that error; the rest goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice

import anyio

from anyamqp.entities import Entity
from anyamqp.errors import AnyamqpError, ChannelClosed, ConnectionLost, ReplyError, RequestTimeout, ResourceLocked
from anyamqp.link import Link
from anyamqp.logical import ChannelHost, LogicalChannel
from anyamqp.protocol.lifecycle import State
from anyamqp.protocol.wire import Method
from anyamqp.topology import Recorded, Topology

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts at what is locked by our own earlier link, until the broker has cleaned up."""

_FEW = 16
"""Requests sent at a time after one was refused, doubled with each success: what follows a refused one is sent in vain,
and a thousand refusals among ten thousand entities would mean millions of requests."""


class Recovery:
    """Recovers a connection on one link after the other.

    Args:
        host: the connection, for the channel that declares.
        topology: what to declare.
        wanted: which of it to declare.
        channels: what to reopen, in this order; may grow meanwhile.
        entity_failed: told of what the broker refused to declare.
    """

    def __init__(
        self,
        host: ChannelHost,
        topology: Topology,
        wanted: Callable[[Entity], bool],
        channels: Mapping[LogicalChannel, None],
        entity_failed: Callable[[Recorded, ReplyError], None],
    ) -> None:
        self._host = host
        self._topology = topology
        self._wanted = wanted
        self._channels = channels
        self._entity_failed = entity_failed

    async def run(self, link: Link) -> None:
        """Recover on ``link``. Returns early when the link ends; ends it when the broker does not answer."""
        try:
            await self._declare(link)
            await self._reopen(link)
        except (RequestTimeout, ChannelClosed) as error:
            link.abort(error)

    async def _declare(self, link: Link) -> None:
        channel: LogicalChannel | None = None
        locked_until = anyio.current_time() + self._host.lock_grace
        pause = _FIRST_PAUSE
        for part in (self._topology.exchanges, self._topology.queues, self._topology.bindings):
            entities = deque(one for one in part() if self._wanted(one.entity))
            count = len(entities)
            while entities and link.is_open:
                if channel is None or channel.attachment is None:
                    channel = LogicalChannel(self._host, None)
                    channel.attach(link)
                try:
                    await self._replay(channel, entities, count)
                    count *= 2
                except ConnectionLost:
                    return
                except ReplyError as error:
                    channel = None  # the broker closed it; what is left in entities was not done
                    count = _FEW
                    if isinstance(error, ResourceLocked) and anyio.current_time() < locked_until:
                        await anyio.sleep(pause)
                        pause = min(2 * pause, _LONGEST_PAUSE)
                    else:
                        self._entity_failed(entities.popleft(), error)
        if channel is not None:
            # Waited for, because its number may be the only one there is (channel_max).
            await channel.close()

    async def _replay(self, channel: LogicalChannel, entities: deque[Recorded], count: int) -> None:
        def done(_request: Method, reply: Method) -> None:
            self._topology.declared_again(entities.popleft(), reply)

        await channel.replay([entity.request for entity in islice(entities, count)], done)

    async def _reopen(self, link: Link) -> None:
        # More than one round is for those who came meanwhile, and for exclusive consumers that are still locked out.
        pause = 0.0
        while link.is_open and self._unopened():
            if pause:
                await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE) or _FIRST_PAUSE
            # Looked up after the pause, and attached without an await: nobody can close one of them in between.
            waiting = self._unopened()
            for channel in waiting:
                if channel.attachment is None:
                    try:
                        channel.attach(link)
                    except AnyamqpError as error:
                        channel.shut(error)
            for channel in waiting:
                await channel.wait_settled()

    def _unopened(self) -> list[LogicalChannel]:
        return [one for one in self._channels if one.state in (State.CONNECTING, State.RECONNECTING)]
