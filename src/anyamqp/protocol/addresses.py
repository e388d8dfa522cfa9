"""Decides which address of the broker to dial next.

Each DNS record is an attempt of its own, not one of a race: a race opens connections only to drop them, and a broker
logs each of those as a client that went away during the handshake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TypeVar

from anyamqp.endpoint import Address

_T = TypeVar("_T")


class AddressCycle:
    """Where to dial next.

    A round goes through all addresses, and through all DNS records of each. The next round has the same order and
    resolves the names anew.

    Args:
        addresses: the addresses in order.
        shuffle: whether to shuffle the addresses, and the records of each.
        random: the source of the shuffled order.
    """

    def __init__(self, addresses: Sequence[Address], *, shuffle: bool, random: Random) -> None:
        self._shuffle = shuffle
        self._random = random
        self._addresses = self._ordered(addresses)
        self._left = len(self._addresses)
        """Addresses left in this round, with the current one."""
        self._records: list[str] = []
        """Records left of the current address, the current one first; empty before it is resolved."""

    def __str__(self) -> str:
        host, port = self.address
        record = self.record
        return f"{host} ({record}):{port}" if record not in (None, host) else str(self.address)

    @property
    def address(self) -> Address:
        """The current address."""
        return self._addresses[0]

    @property
    def record(self) -> str | None:
        """The current record of the address; None if it is not resolved."""
        return self._records[0] if self._records else None

    def resolved(self, records: Iterable[str]) -> None:
        """Set the records of the current address."""
        self._records = self._ordered(dict.fromkeys(records))

    def advance(self, *, start_over: bool) -> bool:
        """Go on to the next record or address.

        Args:
            start_over: begin a round with the same address, because a link to it was good.

        Returns:
            Whether the next one belongs to the same round.
        """
        if start_over:
            self._records.clear()
            self._left = len(self._addresses)
            return False
        if len(self._records) > 1:
            del self._records[0]
            return True
        self._records.clear()
        self._addresses.append(self._addresses.pop(0))
        self._left -= 1
        if self._left:
            return True
        self._left = len(self._addresses)
        return False

    def _ordered(self, items: Iterable[_T]) -> list[_T]:
        order = list(items)
        if self._shuffle:
            self._random.shuffle(order)
        return order
