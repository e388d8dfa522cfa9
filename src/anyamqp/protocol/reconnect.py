"""Decides whether, when and where to dial again after a link or an attempt has ended.

The link maker reports how each link or attempt ended. It gets the pause before the next dial, or the error to give up
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
from anyamqp.protocol.addresses import AddressCycle
from anyamqp.settings import ReconnectPolicy

_REFUSALS = (LoginRefused, NotAllowed, InvalidPath)
"""The errors that a booting broker sends for a while, although our requests are right."""

_SPACING: Final = 0.002
"""Seconds between two dials to one address."""


class Life(NamedTuple):
    """The life of a link.

    Attributes:
        opened_at: when the connection became open on it, after handshake and recovery; None if it never did.
        has_worked: whether the broker has delivered, confirmed or answered anything since then.
    """

    opened_at: float | None
    has_worked: bool


_NO_LINK: Final = Life(None, has_worked=False)


class Pause(NamedTuple):
    """The pause before a dial.

    Attributes:
        seconds: its length.
        failure: the reason why the last attempt failed; None if there was none, or if it led to an open connection.
    """

    seconds: float
    failure: AnyamqpError | None


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
        addresses: where to dial.
        fail_fast: whether the first connect gives up at once on an error that no retry can cure.
        random: the source of jitter.
    """

    def __init__(self, policy: ReconnectPolicy, addresses: AddressCycle, *, fail_fast: bool, random: Random) -> None:
        self._policy = policy
        self._addresses = addresses
        self._fail_fast = fail_fast
        self._random = random
        self._last: tuple[AnyamqpError, Life] | None = None
        """The end of the last attempt, until :meth:`pause` takes it."""
        self._failed = 0
        self._rounds = 0
        self._away_since = 0.0
        self._refused_since: float | None = None
        self._was_open = False

    def begin(self, now: float) -> None:
        """The first attempt begins. ``now`` is in seconds, on any monotonic clock."""
        self._away_since = now

    def failed(self, error: AnyamqpError) -> None:
        """No transport could be opened."""
        self._last = (error, _NO_LINK)

    def link_ended(self, error: AnyamqpError | None, life: Life) -> None:
        """A link has ended; an attempt whose link was never open has failed.

        Args:
            error: the reason; None if we closed the link.
            life: the life of the link.
        """
        self._last = None if error is None else (error, life)

    def pause(self, now: float) -> Pause:
        """The pause before the next dial, which goes to the current address.

        Raises:
            AnyamqpError: give up. No retry can cure the error of the last attempt, or the policy is exhausted
                (:class:`ConnectionLost`).
        """
        last, self._last = self._last, None
        if last is None:
            return Pause(0.0, None)
        error, life = last
        is_good = self._is_good(error, life, now)
        has_untried = self._addresses.advance(start_over=is_good)
        # A short-lived link that never worked counts as a failed attempt. Otherwise a broker that accepts and drops
        # connections would be dialed without a pause (invariant 10).
        self._failed = 0 if is_good else self._failed + 1
        was_open = life.opened_at is not None
        if was_open:
            self._was_open = True
            self._away_since = now
        if was_open or not isinstance(error, _REFUSALS):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        self._raise_if_hopeless(error, now)
        failure = None if was_open else error
        if has_untried:
            return Pause(0.0, failure)
        self._rounds = 0 if is_good else self._rounds + 1
        return Pause(self._policy.delay(self._rounds, self._random), failure)

    def _is_good(self, error: AnyamqpError, life: Life, now: float) -> bool:
        """Whether a link that ends now counts as a success: it lived for ``stable_after`` seconds, or it worked."""
        if life.opened_at is None:
            return False
        # A protocol error or an unexpected failure is likely to happen on the next link too.
        is_fault = isinstance(error, ReplyError | UnexpectedFailure) and not isinstance(error, ConnectionForced)
        return now - life.opened_at >= self._policy.stable_after or (life.has_worked and not is_fault)

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
