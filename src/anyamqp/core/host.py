"""The connection, as the objects on it see it."""

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
    """What a channel and its owner need of their connection."""

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
        """The connection's progress, for the text of an error that tells of a time-out."""
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
        """Seconds for which our own earlier link may lock an exclusive queue or consumer."""
        ...

    def new_channel(self, owner: ChannelOwner | None) -> ChannelCore[LinkChannel]:
        """A channel that the connection does not know yet."""
        ...

    def register(self, channel: ChannelCore[LinkChannel], *, delay: float = 0.0) -> None:
        """Keep the channel until it is closed, and attach it whenever a link is ready.

        Args:
            channel: the channel.
            delay: seconds until it is attached to the present link, if that is ready.

        Raises:
            ChannelLimitReached: as many are open as was agreed.
            ConnectionClosed: the connection is closed.
        """
        ...

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more in the recovery that is under way."""
        ...

    async def wait_forgotten(self) -> None:
        """Wait until a channel is closed, or its number free."""
        ...

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call a function in so many seconds, unless the connection is closed before."""
        ...
