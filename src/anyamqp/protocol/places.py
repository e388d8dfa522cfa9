"""The places of the publishes of one outbox: backlog, ledger, and aside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from operator import attrgetter

from anyamqp.errors import AnyamqpError, copy_of
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.holdups import NackedPublishes
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.returns import returned_publish
from anyamqp.protocol.window import Window
from anyamqp.wire import methods
from anyamqp.wire.basic import Received


class Places:
    """Where the publishes of an outbox are. Each is in one of three places and has room in the window, or in none.

    Args:
        window: the room for publishes.

    Attributes:
        backlog: those that are to be sent, in their order.
        ledger: those that were sent on the present channel.
        nacked: those that the broker nacked, set aside for a pause.
    """

    __slots__ = ("_last_returned", "backlog", "ledger", "nacked", "window")

    def __init__(self, window: Window) -> None:
        self.window: Window = window
        self.backlog: deque[PendingPublish] = deque()
        self.ledger: Ledger[PendingPublish] = Ledger()
        self.nacked: NackedPublishes = NackedPublishes()
        self._last_returned = 0
        """The tag of the last publish that came back unroutable."""

    def unsettled(self) -> list[PendingPublish]:
        """The publishes without an outcome, in the order in which they were accepted."""
        waiting = (pending for pending in self._all() if pending.outcome is None)
        return sorted(waiting, key=attrgetter("number"))

    def leave(self, pending: PendingPublish) -> None:
        """The publish is in no place any more: free its room."""
        self.window.give_back(pending.size)
        pending.drop_content()

    def drop_finished(self, now: float) -> None:
        """Free the room of unsent publishes that nobody waits for: timed out, or cancelled."""
        self._replace_backlog(self._unfinished(self.backlog, now))
        self.nacked.publishes = self._unfinished(self.nacked.publishes, now)

    def take_sent(self, now: float) -> list[PendingPublish]:
        """Take the unconfirmed out of the ledger, whose tags died with the channel.

        Returns:
            Those that still wait for their outcome.
        """
        unconfirmed = self.ledger.outstanding()
        self.renew_ledger()
        return self._unfinished(unconfirmed, now)

    def send_again(self, publishes: list[PendingPublish]) -> None:
        """Put publishes that a loss caught in front of the backlog."""
        for pending in publishes:
            pending.returned = None
            pending.was_lost = True
        self._put_first(publishes)

    def renew_ledger(self) -> None:
        """The channel is gone, and its delivery tags with it."""
        self.ledger.clear()
        self._last_returned = 0

    def returned(self, method: methods.Basic.Return, message: Received) -> None:
        """The broker returned a publish that no queue takes; its confirm follows."""
        found = returned_publish(self.ledger, method, message, after=self._last_returned)
        if found is not None:
            self._last_returned, pending = found
            pending.returned = method

    def resume_nacked(self, now: float) -> None:
        """The pause of the nacked publishes is over: they go in front of the backlog."""
        self._put_first(self._unfinished(self.nacked.take(), now))

    def take_never_sent(self, now: float) -> list[PendingPublish]:
        """Take those that the broker does not have for sure; the others wait on in the backlog."""
        waiting = self._unfinished([*self.nacked.take(), *self.backlog], now)
        self._replace_backlog([pending for pending in waiting if pending.was_lost])
        return [pending for pending in waiting if not pending.was_lost]

    def fail_all(self, error: AnyamqpError) -> None:
        """Settle every publish with the error, and empty all places."""
        for pending in self._all():
            pending.settle(copy_of(error))
            self.leave(pending)
        self.renew_ledger()
        self.nacked.take()
        self.backlog.clear()

    def _all(self) -> Iterable[PendingPublish]:
        return (*self.ledger.outstanding(), *self.nacked.publishes, *self.backlog)

    def _put_first(self, publishes: list[PendingPublish]) -> None:
        self.backlog.extendleft(reversed(publishes))

    def _replace_backlog(self, publishes: Iterable[PendingPublish]) -> None:
        self.backlog.clear()
        self.backlog.extend(publishes)

    def _unfinished(self, publishes: Iterable[PendingPublish], now: float) -> list[PendingPublish]:
        """Those that still wait for their outcome; the others leave."""
        unfinished: list[PendingPublish] = []
        for pending in publishes:
            if pending.is_finished(now):
                self.leave(pending)
            else:
                unfinished.append(pending)
        return unfinished
