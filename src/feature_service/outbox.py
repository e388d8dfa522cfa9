"""The vectors that were accepted but not yet confirmed. Nothing here awaits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from feature_service.vector import FeatureVector


@dataclass(frozen=True, slots=True)
class Parcel:
    """An accepted vector, ready to publish.

    Attributes:
        message_id: its id, the same however often it is sent, so that consumers recognise duplicates.
        vector: the vector.
        body: the vector as JSON.
    """

    message_id: str
    vector: FeatureVector
    body: bytes


class Outbox:
    """Holds at most ``bound`` vectors, waiting or in flight. A vector leaves only when it is confirmed.

    Attributes:
        accepted: how many vectors were accepted.
        refused: how many vectors were refused because the outbox was full.
        confirmed: how many vectors the broker has confirmed.
        retried: how many vectors were put back because their publish failed.
    """

    def __init__(self, bound: int) -> None:
        self.accepted = 0
        self.refused = 0
        self.confirmed = 0
        self.retried = 0
        self._bound = bound
        self._waiting: deque[Parcel] = deque()
        self._under_way = 0

    def __len__(self) -> int:
        return len(self._waiting) + self._under_way

    @property
    def is_full(self) -> bool:
        """Whether the next vector would be refused."""
        return len(self) >= self._bound

    def offer(self, vector: FeatureVector) -> Parcel | None:
        """Accept a vector, or refuse it if there is no room.

        Returns:
            The accepted vector, or None.
        """
        if self.is_full:
            self.refused += 1
            return None
        self.accepted += 1
        parcel = Parcel(f"{vector.symbol}-{vector.timestamp:.6f}-{self.accepted}", vector, vector.to_json())
        self._waiting.append(parcel)
        return parcel

    def take(self, most: int) -> list[Parcel]:
        """Take at most ``most`` vectors to publish, oldest first. Pass each to :meth:`confirm` or :meth:`put_back`."""
        parcels = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._under_way += len(parcels)
        return parcels

    def confirm(self, parcel: Parcel) -> None:  # noqa: ARG002 - subclasses use it
        """The broker has confirmed a vector."""
        self._under_way -= 1
        self.confirmed += 1

    def put_back(self, parcels: Iterable[Parcel]) -> None:
        """Put back vectors whose publish failed: they are published next, in the same order."""
        returned = list(parcels)
        self._under_way -= len(returned)
        self.retried += len(returned)
        self._waiting.extendleft(reversed(returned))
