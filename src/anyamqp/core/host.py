"""The interface of a connection for its channels and their owners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from anyamqp.core.journal import Journal
from anyamqp.core.link_channel import LinkChannel
from anyamqp.net.event_loop import Loop
from anyamqp.net.timers import Timer
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.ports import BlockNotice, ChannelOwner, Recorder


class ChannelHost(Protocol):
    """A connection, as a channel and its owner see it."""

    @property
    def journal(self) -> Journal: ...

    @property
    def recorder(self) -> Recorder: ...

    @property
    def block(self) -> BlockNotice | None:
        """Set while the broker accepts no publishes."""
        ...

    @property
    def progress(self) -> str:
        """The connection's progress, for the text of a time-out's error."""
        ...

    @property
    def request_timeout(self) -> float | None: ...

    @property
    def close_timeout(self) -> float: ...

    @property
    def loop(self) -> Loop: ...

    @property
    def max_message_size(self) -> int: ...

    @property
    def lock_grace(self) -> float:
        """Seconds for which the connection's own last link may lock an exclusive queue or consumer."""
        ...

    def new_channel(self, owner: ChannelOwner | None) -> ChannelCore[LinkChannel]:
        """Make a channel, without registering it."""
        ...

    def register(self, channel: ChannelCore[LinkChannel], *, delay: float = 0.0) -> None:
        """Keep the channel until it is closed, and attach it whenever a link is ready.

        Args:
            channel: the channel.
            delay: seconds until the channel is attached to the current link, if that is ready.

        Raises:
            ChannelLimitReached: no channel number is free.
            ConnectionClosed: the connection is closed.
        """
        ...

    def will_declare(self, queue: str) -> bool:
        """Whether the current recovery will declare a missing queue again."""
        ...

    async def wait_forgotten(self) -> None:
        """Wait until a channel is closed or a channel number is free."""
        ...

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in ``seconds``, unless the connection is closed before."""
        ...
