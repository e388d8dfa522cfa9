"""Acknowledgements that are sent together: which of them one frame with ``multiple`` can stand for.

The broker numbers the deliveries of a channel from 1 (AMQP 0-9-1, basic.deliver: delivery-tag). A frame with
``multiple`` settles everything up to its tag (basic.ack), so it may stand for several acks only if no older delivery is
unsettled. Tags that are settled out of order are remembered until the gap below them closes. A gap that stays open, or
that the broker made by leaving out tags, must not take memory for ever: from 65,536 remembered tags on, each ack has a
frame of its own.
"""

from __future__ import annotations

import math
from typing import Final

from anyamqp.protocol.output import Output
from anyamqp.wire.basic import encode_ack

_MOST_APART: Final = 65536
"""Remembered tags above which each ack has a frame of its own."""


class Acks:
    """The settled tags of one channel on one link, and the acks that no frame carries yet."""

    __slots__ = ("_count", "_floor", "_is_exact", "_pending", "_settled")

    def __init__(self) -> None:
        self._is_exact = False
        """Whether each ack has a frame of its own."""
        self._floor = 0
        """All tags up to this one are settled."""
        self._settled: set[int] = set()
        """Settled tags above the floor."""
        self._pending: list[int] = []
        """Acknowledged tags that no frame carries yet."""
        self._count: float = 0
        """How many tags are settled, where each ack has a frame of its own."""

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def settled_count(self) -> float:
        """How many deliveries are settled by frames that were taken; infinity where that is not known."""
        settled = self._count if self._is_exact else self._floor + len(self._settled)
        return settled - len(self._pending)

    def keep_apart(self) -> None:
        """Give each ack a frame of its own from now on: tx.rollback makes acknowledged deliveries unsettled again."""
        self._keep_apart(math.inf)

    def _keep_apart(self, count: float) -> None:
        self._is_exact, self._count = True, count
        self._settled.clear()

    def ack(self, tag: int) -> bool:
        """Acknowledge one delivery; the frame comes with :meth:`take`.

        Returns:
            Whether no other ack waits for a frame.
        """
        pending = self._pending
        pending.append(tag)
        self.settle(tag)
        return len(pending) == 1

    def settle(self, tag: int) -> None:
        """Note that one delivery is settled by a frame of its own, or needs none."""
        if self._is_exact:
            self._count += 1
            return
        if tag != self._floor + 1:
            if tag > self._floor:
                self._settled.add(tag)
                if len(self._settled) > _MOST_APART:
                    self._keep_apart(self._floor + len(self._settled))
            return
        self._floor = tag
        if self._settled:
            self._close_gap()

    def settle_up_to(self, tag: int) -> None:
        """Note that a frame of its own, sent after those that :meth:`take` gives, settles all tags up to this one."""
        if self._is_exact:
            self._count = math.inf
            return
        if tag > self._floor:
            self._floor = tag
            self._settled = {one for one in self._settled if one > tag}
            self._close_gap()

    def take(self) -> list[tuple[int, bool]]:
        """The acks to send now, each a tag and whether it is ``multiple``; at most one is."""
        pending, self._pending = self._pending, []
        if self._is_exact:
            return [(tag, False) for tag in pending]
        covered = [tag for tag in pending if tag <= self._floor]
        frames = [(tag, False) for tag in pending if tag > self._floor]
        if covered:
            frames.append((max(covered), len(covered) > 1))
        return frames

    def _close_gap(self) -> None:
        while self._settled and self._floor + 1 in self._settled:
            self._floor += 1
            self._settled.remove(self._floor)


class UnsentAcks:
    """The acks of one session that no frame carries yet.

    Args:
        output: the frames of the session.
    """

    __slots__ = ("_by_channel", "_output")

    def __init__(self, output: Output) -> None:
        self._output = output
        self._by_channel: dict[int, Acks] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_channel.values()))

    def __bool__(self) -> bool:
        return bool(self._by_channel)

    def add(self, number: int, acks: Acks) -> None:
        """Note that the channel with this number has acks to send."""
        self._by_channel[number] = acks

    def flush(self, number: int) -> None:
        """Write the frames for the acks of one channel."""
        acks = self._by_channel.pop(number, None)
        if acks is not None:
            for tag, multiple in acks.take():
                self._output.answer_with(encode_ack(number, tag, multiple=multiple))

    def flush_all(self) -> None:
        """Write the frames for the acks of all channels."""
        for number in list(self._by_channel):
            self.flush(number)

    def drop(self, number: int) -> None:
        """Forget the acks of one channel, which has ended."""
        self._by_channel.pop(number, None)

    def drop_all(self) -> None:
        """Forget the acks of all channels: the link has ended."""
        self._by_channel.clear()
