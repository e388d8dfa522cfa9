"""The places of the publishes of one outbox: backlog, ledger, and set aside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter

from anyamqp.errors import AnyamqpError, copy_of
from anyamqp.protocol import blame
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.holdups import NackedPublishes
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.returns import returned_publish
from anyamqp.protocol.window import Window
from anyamqp.wire import methods
from anyamqp.wire.basic import Received


class Places:
    """The publishes of an outbox. A publish has room in the window exactly while it is in one of the three places.

    Args:
        window: the publisher's window.

    Attributes:
        backlog: the publishes to send, in order.
        ledger: the publishes that were sent on the current channel.
        nacked: the nacked publishes, set aside for a pause.
    """

    __slots__ = ("_last_returned", "backlog", "ledger", "nacked", "window")

    def __init__(self, window: Window) -> None:
        self.window: Window = window
        self.backlog: deque[PendingPublish] = deque()
        self.ledger: Ledger[PendingPublish] = Ledger()
        self.nacked: NackedPublishes = NackedPublishes()
        self._last_returned = 0
        """The tag of the last publish that the broker returned on the current channel."""

    def unsettled(self) -> list[PendingPublish]:
        """The publishes without an outcome, in the order in which they were accepted."""
        waiting = (pending for pending in self._all() if pending.outcome is None)
        return sorted(waiting, key=attrgetter("number"))

    def leave(self, pending: PendingPublish) -> None:
        """The publish has left its place: free its room in the window, and drop its content."""
        self.window.give_back(pending.size)
        pending.drop_content()

    def drop_finished(self, now: float) -> None:
        """Free the room of unsent publishes that have timed out or were cancelled."""
        self._replace_backlog(self._unfinished(self.backlog, now))
        self.nacked.publishes = self._unfinished(self.nacked.publishes, now)

    def recall(self, error: AnyamqpError | None, now: float, *, resend: bool) -> int:
        """Take the unconfirmed publishes out of the ledger, whose channel has ended with ``error``.

        Put them in front of the backlog, or settle them if the policy forbids to ``resend``.

        Returns:
            How many publishes will be sent again.
        """
        unconfirmed = self.ledger.outstanding()
        self._renew_ledger()
        wanted = self._unfinished(unconfirmed, now)
        if resend:
            self.send_again(wanted)
            return len(wanted)
        for pending in wanted:
            pending.lose(error)
            self.leave(pending)
        return 0

    def send_again(self, publishes: list[PendingPublish]) -> None:
        """Put publishes whose confirm was lost in front of the backlog."""
        for pending in publishes:
            pending.returned = None
            pending.was_lost = True
        self._put_first(publishes)

    def settle_guilty(self, error: AnyamqpError) -> bool:
        """Settle the only unconfirmed publish, if it caused the close. Returns whether it did."""
        unconfirmed = self.ledger.outstanding()
        if len(unconfirmed) != 1:
            return False
        (only,) = unconfirmed
        only.closes += 1
        if not blame.is_guilty_alone(error, only.closes):
            return False
        self._renew_ledger()
        only.settle(error)
        self.leave(only)
        return True

    def returned(self, method: methods.Basic.Return, message: Received) -> None:
        """The broker returned an unroutable publish; its confirm follows."""
        found = returned_publish(self.ledger, method, message, after=self._last_returned)
        if found is not None:
            self._last_returned, pending = found
            pending.returned = method

    def set_aside(self, nacked: Sequence[PendingPublish], now: float) -> list[PendingPublish]:
        """Set nacked publishes aside for a pause. Returns those that have an outcome and are not sent again."""
        self.nacked.add([pending for pending in nacked if not pending.is_finished(now)], now)
        return [pending for pending in nacked if pending.outcome is not None]

    def resume_nacked(self, now: float) -> None:
        """The pause of the nacked publishes is over: put them in front of the backlog."""
        self._put_first(self._unfinished(self.nacked.take(), now))

    def take_never_sent(self, now: float) -> list[PendingPublish]:
        """Take the publishes that the broker cannot have. The others stay in the backlog."""
        waiting = self._unfinished([*self.nacked.take(), *self.backlog], now)
        self._replace_backlog([pending for pending in waiting if pending.was_lost])
        return [pending for pending in waiting if not pending.was_lost]

    def fail_all(self, error: AnyamqpError) -> None:
        """Settle every publish with a copy of the error, and empty all places."""
        for pending in self._all():
            pending.settle(copy_of(error))
            self.leave(pending)
        self._renew_ledger()
        self.nacked.take()
        self.backlog.clear()

    def _renew_ledger(self) -> None:
        """Start a new ledger: the channel has ended, and its delivery tags are invalid."""
        self.ledger.clear()
        self._last_returned = 0

    def _all(self) -> Iterable[PendingPublish]:
        return (*self.ledger.outstanding(), *self.nacked.publishes, *self.backlog)

    def _put_first(self, publishes: list[PendingPublish]) -> None:
        self.backlog.extendleft(reversed(publishes))

    def _replace_backlog(self, publishes: Iterable[PendingPublish]) -> None:
        self.backlog.clear()
        self.backlog.extend(publishes)

    def _unfinished(self, publishes: Iterable[PendingPublish], now: float) -> list[PendingPublish]:
        """The publishes without an outcome; the others leave."""
        unfinished: list[PendingPublish] = []
        for pending in publishes:
            if pending.is_finished(now):
                self.leave(pending)
            else:
                unfinished.append(pending)
        return unfinished
