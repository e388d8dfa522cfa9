"""The world as the owners of channels in it see it.

The owners (:mod:`tools.explore.user_channel`, :mod:`tools.explore.publisher`, :mod:`tools.explore.consumer`) stand for
the anyio shells (:mod:`anyamqp.core.channel`, :mod:`anyamqp.core.publishing`, :mod:`anyamqp.core.receiver`). They
carry out the effects of the real objects, and hold the place of tasks that wait: ``go_on`` runs, at the end of each
step, the tasks that have been woken. They decide nothing.
"""

from __future__ import annotations

from typing import Final, Protocol

from anyamqp.core.link_channel import LinkChannel
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from tools.explore.clock import Clock

CLOSE_TIMEOUT: Final = 10.0
"""Seconds that the reply to a close may take."""


class Surroundings(Protocol):
    """The world, as a part of it sees it."""

    core: ConnectionCore[LinkChannel]
    clock: Clock

    def register(self, channel: ChannelCore[LinkChannel], *, delay: float) -> None:
        """Register a channel that is to be opened on the present link in so many seconds."""
        ...

    def note(self, fact: str) -> None:
        """Something remarkable happened."""
        ...

    def settled(self, link: int, number: int, tag: int) -> None:
        """A delivery of a link was settled."""
        ...
