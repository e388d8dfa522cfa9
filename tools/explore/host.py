"""The parts of a connection that a world needs, without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

from anyamqp.core.host import ChannelHost
from anyamqp.core.link_channel import LinkChannel
from anyamqp.entities import RecoveryMode
from anyamqp.errors import AnyamqpError
from anyamqp.net.link import Link
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.events import BlockNotice
from anyamqp.protocol.heartbeat import lock_grace
from anyamqp.protocol.lifecycle import ChannelEvent, ConnectionEvent, ConnectionState, State, Transition
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.topology import Topology
from tools.explore.clock import Clock
from tools.explore.link import PlainLink
from tools.explore.violation import Violation

CLOSE_TIMEOUT: Final = 10.0
"""Seconds that the reply to a close may take."""

UP: Final = (ConnectionState.OPEN, ConnectionState.BLOCKED)


class PlainJournal:
    """Stands for :class:`anyamqp.core.journal.Journal`.

    Attributes:
        facts: the remarkable events of the present step.
        lines: the lines of a sequence diagram; None to keep none.
    """

    def __init__(self) -> None:
        self.facts: set[str] = set()
        self.lines: list[str] | None = None

    def note(self, fact: str) -> None:
        """Something remarkable happened."""
        self.facts.add(fact)

    def say(self, line: str) -> None:
        """Add a line to the sequence diagram."""
        if self.lines is not None:
            self.lines.append(line)

    def stale_ack(self) -> None:
        self.note("an ack that came too late for its link")

    def unknown_confirm(self, delivery_tag: int) -> None:
        raise Violation(f"a confirm with tag {delivery_tag}, which the outbox does not know")

    def consumer_cancelled(self, queue: str) -> None:
        """The consumer shows it."""

    def entity_failed(self, entity: str, error: AnyamqpError) -> None:
        self.say(f"Note over Client: {entity} is not recovered: {error}")

    def not_back(self, missing: Sequence[str]) -> None:
        self.say(f"Note over Client: not back: {', '.join(missing)}")

    def back(self) -> None:
        self.say("Note over Client: everything is back")
        self.note("a latecomer that came back")


class PlainHost:
    """Stands for :class:`anyamqp.core.host.ChannelHost`: the real shells run on it, except for their waiting.

    Attributes:
        loop: the time.
        journal: the records.
        topology: records the entities that were declared.
        core: the connection.
        link: the present link; None between two.
    """

    request_timeout: float = 30.0
    close_timeout: float = CLOSE_TIMEOUT
    lock_grace: float = lock_grace(0)
    hooks: None = None

    def __init__(self) -> None:
        self.loop: Clock = Clock()
        self.journal: PlainJournal = PlainJournal()
        self.topology: Topology = Topology(RecoveryMode.EVERYTHING)
        self.core: ConnectionCore[LinkChannel] = ConnectionCore(self.topology, self, self._new_link_channel)
        self.link: PlainLink | None = None

    @property
    def for_shells(self) -> ChannelHost:
        """This host, as the shells want it: it has all members that they use without waiting."""
        return cast("ChannelHost", self)

    @property
    def block(self) -> BlockNotice | None:
        """Why and since when the broker accepts no publishes; None if it accepts them."""
        return self.core.block

    def new_channel(self, owner: ChannelOwner | None) -> ChannelCore[LinkChannel]:
        """A channel that the connection does not know yet."""
        return self.core.new_channel(owner)

    def register(self, channel: ChannelCore[LinkChannel], *, delay: float = 0.0) -> None:
        """Register a channel that is to be opened on the present link in so many seconds."""
        self.core.register(channel, is_postponed=delay > 0)
        if delay > 0:
            self.later(delay, partial(channel.take, ChannelEvent.DUE))

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in so many seconds."""
        self.loop.later(seconds, call)

    # --- the connection takes note ------------------------------------------------------------------------------------

    def changed(
        self, machine: str, source: State, event: ConnectionEvent | ChannelEvent, target: State, reason: str | None
    ) -> None:
        """The public state of the connection or of a channel changed."""
        why = event.value if reason is None else f"{event.value}: {reason}"
        self.journal.say(f"Note over Client: {machine} {source.name} -> {target.name} ({why})")
        if event is ChannelEvent.LOST and self.core.state in UP:
            raise Violation(f"{machine} is told of the loss before its connection")

    def record(self, transition: Transition) -> None:
        """The state of the link changed."""

    def stalled(self, seconds: float) -> None:
        """The event loop was late, which cannot be here."""

    def _new_link_channel(self, number: int) -> LinkChannel:
        if self.link is None:
            raise Violation("a channel is attached where there is no link")
        # PlainLink has all members that it uses; failed deliveries, which pause and need a real timer, do not occur.
        return LinkChannel(cast("Link", self.link), number, self.journal.stale_ack, self.later)  # type: ignore[arg-type]
