"""The ledger of delivery tags: what was published on a channel and has no confirm yet.

RabbitMQ counts publishes on a channel from 1 after confirm.select, and confirms them in any order, one by one or all up
to a tag (RabbitMQ, "Publisher Confirms"). The ledger counts along. Tags die with their link: a new link gets a new
ledger.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

_SLACK = 256
"""Settled tags kept beyond those outstanding before the order is made anew."""


class Ledger(Generic[T]):
    """Publishes in the order of their tags. Settling costs what it settles, however many are outstanding."""

    __slots__ = ("_items", "_next_tag", "_order")

    def __init__(self) -> None:
        self._next_tag = 1
        self._items: dict[int, T] = {}
        # Tags in order, for multiple. Tags settled out of order stay until they reach the left end, so that each tag
        # is appended once and popped once: a dict alone would scan its graveyard to find its first key.
        self._order: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> int:
        """Record the next publish.

        Returns:
            The tag that the broker gives it.
        """
        tag = self._next_tag
        self._next_tag += 1
        self._items[tag] = item
        self._order.append(tag)
        return tag

    def settle(self, tag: int, *, multiple: bool) -> list[T]:
        """Take out what a confirm settles, oldest first.

        Args:
            tag: the confirm's delivery tag. With ``multiple``, 0 means all (AMQP 0-9-1, basic.ack).
            multiple: everything up to and including the tag.

        Returns:
            The items; none if the tag is unknown or already settled.
        """
        if not multiple:
            if tag not in self._items:
                return []
            item = self._items.pop(tag)
            self._drop_settled()
            if len(self._order) > 2 * len(self._items) + _SLACK:
                # One publish that is never confirmed would keep the tags of all that follow it.
                self._order.clear()
                self._order.extend(self._items)
            return [item]
        if tag >= self._next_tag:
            return []
        settled: list[T] = []
        while self._order and (tag == 0 or self._order[0] <= tag):
            first = self._order.popleft()
            if first in self._items:
                settled.append(self._items.pop(first))
        self._drop_settled()
        return settled

    def outstanding(self) -> list[T]:
        """What has no confirm yet, oldest first."""
        return [self._items[tag] for tag in self._order if tag in self._items]

    def _drop_settled(self) -> None:
        while self._order and self._order[0] not in self._items:
            self._order.popleft()
