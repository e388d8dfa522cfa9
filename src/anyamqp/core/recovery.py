"""Brings a new link into the state that the last one had.

In this order: exchanges, queues, bindings (:mod:`anyamqp.protocol.declaring`); then every channel, with its qos,
confirm mode and consumers. The connection is OPEN when everything is back, except for entities that the broker does not
answer for or that our last link still locks. These come back later and delay nothing else (invariant 13). An entity
that cannot be declared again fails the channels and consumers that need it, with that error; the rest goes on.

:mod:`anyamqp.protocol.recovering` decides; this module carries out, waits and keeps the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from anyamqp.core.declaring import DeclaringShell
from anyamqp.core.host import ChannelHost
from anyamqp.core.link_channel import LinkChannel
from anyamqp.entities import Entity
from anyamqp.errors import AnyamqpError
from anyamqp.net.event_loop import next_news
from anyamqp.net.link import Link
from anyamqp.net.timers import Deadlines
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.declaring import TellFailed
from anyamqp.protocol.lifecycle.recovery import RecoveryState
from anyamqp.protocol.recovering import Abort, Attach, Effects, Fail, RecoveryCore, TellBack, TellNotBack
from anyamqp.protocol.topology import Recorded
from anyamqp.protocol.waking import Wakers
from anyamqp.settings import DEFAULT_REQUEST_TIMEOUT


class Recovery:
    """Recovers a connection on one link after the other.

    Args:
        host: the connection, whose entities are declared and whose channels are reopened.
        wanted: which of the entities to declare.
        entity_failed: told of each entity that could not be declared, with the reason.

    Attributes:
        wakers: woken when something is back.
    """

    __slots__ = ("_core", "_deadlines", "_entity_failed", "_host", "_link", "_shell", "_wanted", "wakers")

    def __init__(
        self,
        host: ChannelHost,
        wanted: Callable[[Entity], bool],
        entity_failed: Callable[[Recorded, AnyamqpError], None],
    ) -> None:
        self.wakers: Wakers = Wakers()
        self._host = host
        self._wanted = wanted
        self._entity_failed = entity_failed
        self._core: RecoveryCore[LinkChannel] = RecoveryCore(
            host.topology, host.core, answer_within=host.request_timeout or DEFAULT_REQUEST_TIMEOUT
        )
        self._link: Link | None = None
        """The link that is being recovered; None once everything is back, or the link is lost."""
        self._shell: DeclaringShell | None = None
        self._deadlines = Deadlines(host.later, self._expire)
        """Deadlines while the connection is OPEN; before that, :meth:`run` waits for them."""

    async def run(self, link: Link) -> bool:
        """Recover on ``link``; end it when the broker answers nothing at all.

        Returns:
            Whether the connection may open; False if the link has ended.
        """
        if not link.is_open:
            return False  # it ended before the task that runs this began
        self.begin(link)
        while link.is_open:
            self._act(anyio.current_time())
            if self._core.state is RecoveryState.SETTLED:
                break
            with anyio.CancelScope(deadline=self._core.deadline):
                await next_news(self.wakers)
        return link.is_open

    def begin(self, link: Link) -> None:
        """Send the first requests on a link."""
        now = self._host.loop.now()
        wanted = [one for one in self._host.topology.in_order() if self._wanted(one.entity)]
        declaring = self._core.begin(wanted, now + self._host.lock_grace, now)
        self._link = link
        self._shell = DeclaringShell(self._host, declaring, link, self._entity_failed, self.changed)
        self._shell.begin()

    def opened(self) -> None:
        """The connection is OPEN on the link."""
        self._carry_out(self._core.opened())
        self._deadlines.add(self._core.deadline)

    def lost(self, error: AnyamqpError | None) -> None:
        """The link has ended. Told before any channel hears of it."""
        self._deadlines.cancel()
        effects = self._core.lost(error, self._host.loop.now())
        self._drop()
        self._carry_out(effects)
        self.wakers.wake()

    def changed(self) -> None:
        """The broker has answered something, or the public state of a channel has changed."""
        self._core.heard(self._host.loop.now())
        self.wakers.wake()
        if self._core.is_open:
            self._deadlines.add(self._core.deadline)

    def will_declare(self, queue: str) -> bool:
        """Whether a queue that is missing is declared once more in this recovery. The call itself requests that."""
        is_declared = self._core.will_declare(queue, self._host.loop.now())
        if self._shell is not None:
            self._shell.reset_timer()
        return is_declared

    @property
    def not_back(self) -> tuple[str, ...]:
        """The entities, consumers and channels that are not back on the present link, each with the reason."""
        return self._core.not_back

    # --- inside -------------------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> float:
        self._act(now)
        self.wakers.wake()
        return self._core.deadline

    def _act(self, now: float) -> None:
        link, shell = self._link, self._shell
        if link is not None and shell is not None:
            has_worked = link.dispatcher.has_worked
            self._carry_out(self._core.due(now, is_lane_closing=shell.is_closing, has_worked=has_worked))

    def _carry_out(self, effects: Effects[LinkChannel]) -> None:
        for effect in effects:
            match effect:
                case Attach(channels):
                    self._attach(channels)
                case Fail(channel, error):
                    channel.fail(error)
                case Abort(error):
                    if self._link is not None:
                        self._link.abort(error)
                case TellFailed(recorded, error):
                    self._entity_failed(recorded, error)
                case TellNotBack(missing):
                    self._host.journal.not_back(missing)
                case TellBack():
                    self._host.journal.back()
        if self._core.declaring is None:
            self._drop()

    def _attach(self, channels: Sequence[ChannelCore[LinkChannel]]) -> None:
        for channel in channels:
            link, shell = self._link, self._shell
            if link is None or shell is None or not link.is_open:
                return
            if not self._core.is_off_link(channel):
                continue
            try:
                channel.attach(link)
            except AnyamqpError as error:
                failed = self._core.unattached(channel, error, has_lanes=shell.has_lanes)
                if not failed:
                    return
                self._carry_out(failed)

    def _drop(self) -> None:
        """Keep nothing of the link: it has ended, or everything is back."""
        shell, self._shell, self._link = self._shell, None, None
        if shell is not None:
            shell.end()
