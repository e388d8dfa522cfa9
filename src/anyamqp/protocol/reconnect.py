"""Decide whether and when to dial again after a link or an attempt has ended.

The link maker reports how each link or attempt ended. It gets the delay before the next dial, or the error to give up
with. Only this module decides whether an error is worth another attempt.
"""

from __future__ import annotations

from random import Random
from typing import Final, NamedTuple

from anyamqp.endpoint import Address
from anyamqp.errors import (
    AnyamqpError,
    ConnectionForced,
    ConnectionLost,
    Cure,
    InvalidPath,
    LoginRefused,
    NotAllowed,
    ReplyError,
    UnexpectedFailure,
)
from anyamqp.settings import ReconnectPolicy

_REFUSALS = (LoginRefused, NotAllowed, InvalidPath)
"""The errors that a booting broker sends for a while, although our requests are right."""

_SPACING: Final = 0.002
"""Seconds between two dials to one address."""


class Life(NamedTuple):
    """The life of a link whose handshake and recovery succeeded.

    Attributes:
        opened_at: when the connection became open on it.
        has_worked: whether the broker has delivered, confirmed or answered anything since then.
    """

    opened_at: float
    has_worked: bool


class Turns:
    """Spaces the dials of all connections on one event loop, so that their handshakes do not all begin at once."""

    def __init__(self) -> None:
        self._next: dict[Address, float] = {}

    def __len__(self) -> int:
        return len(self._next)

    def take(self, address: Address, now: float) -> float:
        """Take the next turn to dial an address. Returns the seconds to wait; 0 unless others dial it now."""
        self._next = {one: at for one, at in self._next.items() if at > now}
        turn = self._next.get(address, now)
        self._next[address] = turn + _SPACING
        return turn - now


class Attempts:
    """Counts the attempts of one connection.

    Args:
        policy: when to dial again.
        fail_fast: whether the first connect gives up at once on an error that no retry can cure.
        random: the source of jitter.
    """

    def __init__(self, policy: ReconnectPolicy, *, fail_fast: bool, random: Random) -> None:
        self._policy = policy
        self._fail_fast = fail_fast
        self._random = random
        self._failed = 0
        self._rounds = 0
        self._away_since = 0.0
        self._refused_since: float | None = None
        self._was_open = False

    def begin(self, now: float) -> None:
        """The first attempt begins. ``now`` is in seconds, on any monotonic clock."""
        self._away_since = now

    def is_good(self, error: AnyamqpError, life: Life | None, now: float) -> bool:
        """Whether a link that ends now counts as a success: it lived for ``stable_after`` seconds, or it worked."""
        if life is None:
            return False
        # A protocol error or an unexpected failure is likely to happen on the next link too.
        is_fault = isinstance(error, ReplyError | UnexpectedFailure) and not isinstance(error, ConnectionForced)
        return now - life.opened_at >= self._policy.stable_after or (life.has_worked and not is_fault)

    def ended(self, error: AnyamqpError, *, life: Life | None, untried: bool, now: float) -> float:
        """A link, or an attempt to get one, has ended.

        Args:
            error: the reason.
            life: the life of the link; None if the link was never opened.
            untried: whether there are addresses that were not dialed since the last delay.
            now: the current time.

        Returns:
            Seconds to wait before the next dial.

        Raises:
            AnyamqpError: give up. No retry can cure this error, or the policy is exhausted
                (:class:`ConnectionLost`).
        """
        is_good = self.is_good(error, life, now)
        # A short-lived link that never worked counts as a failed attempt. Otherwise a broker that accepts and drops
        # connections would be dialed without a pause (invariant 10).
        self._failed = 0 if is_good else self._failed + 1
        if life is not None:
            self._was_open = True
            self._away_since = now
        if life is not None or not isinstance(error, _REFUSALS):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        self._raise_if_hopeless(error, now)
        if is_good:
            self._rounds = 0
        elif untried:
            return 0.0
        else:
            self._rounds += 1
        return self._policy.delay(self._rounds, self._random)

    def _raise_if_hopeless(self, error: AnyamqpError, now: float) -> None:
        if self._fail_fast and not self._was_open and error.cure is Cure.CHANGE:
            raise error
        if self._refused_since is not None and now - self._refused_since >= self._policy.refusal_grace:
            raise error
        away = now - self._away_since
        if self._policy.is_exhausted(self._failed, away):
            raise ConnectionLost(
                f"gave up after {self._failed} attempts and {away:.1f} s; last error: {error}"
            ) from error
