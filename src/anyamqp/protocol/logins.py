"""Decides which credentials a login uses, and when they are renewed on the open link.

Expiring credentials are renewed without interruption: after 80 % of their life (as in RabbitMQ's Java client) the
credentials function is called again, and the new secret is sent with connection.update-secret. A renewal that fails is
repeated with growing pauses for as long as the link lives, even after the expiry: some brokers then close the
connection, and the next login calls the function anyway, but others only refuse requests until they get a new secret.

Source: RabbitMQ, "OAuth 2.0 Authentication Backend" and "Extensions", connection.update-secret.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from anyamqp.endpoint import Credentials, CredentialsSource, Login
from anyamqp.errors import ConnectionLost, CredentialsUnavailable
from anyamqp.protocol.sasl import Mechanism
from anyamqp.settings import ReconnectPolicy

_RENEWED_AFTER: Final = 0.8
"""Credentials are renewed after this fraction of their life."""

_LEAST_WAIT: Final = 1.0
"""The shortest time between two renewals, in seconds. A function that returns the same token until it expires would
otherwise be called in ever shorter steps."""

_PAUSES: Final = ReconnectPolicy(initial=1.0, factor=2.0, maximum=30.0, jitter=0.5, first=None)
"""Pauses between attempts to renew. They have jitter, because an overloaded token issuer has other clients, too."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The life of credentials.

    Attributes:
        renew_at: when to renew them.
        expires_at: when they expire.
    """

    renew_at: float
    expires_at: float


class Logins:
    """The credentials for the logins of one connection.

    Args:
        source: the login of the settings, or the credentials function.

    Attributes:
        source: the login for the next link, or the function to call for it.
    """

    __slots__ = ("source",)

    def __init__(self, source: CredentialsSource) -> None:
        self.source: CredentialsSource = source

    def offered(self, secret: str, *, is_up: bool) -> None:
        """The user has a new secret.

        On an open link, it counts once the broker has accepted it. While the connection is away, the next login uses
        it at once: the old secret may have expired.
        """
        if not is_up:
            self.accepted(secret)

    def accepted(self, secret: str) -> None:
        """Use a secret of the user's for the next logins, unless a function provides the password."""
        if isinstance(self.source, Credentials):
            self.source = replace(self.source, password=secret)

    def unanswered(self, error: ConnectionLost) -> None:
        """The link ended before the broker accepted or refused a secret of the user's.

        Raises:
            ConnectionLost: ``error``, unless the credentials function provides fresh credentials for the next link.
        """
        if not callable(self.source):
            raise error


def checked_login(given: object) -> Login:
    """Check the result of a credentials function.

    Raises:
        CredentialsUnavailable: it is neither credentials nor a mechanism.
    """
    if isinstance(given, type) or not isinstance(given, Credentials | Mechanism):
        kind = type(given).__name__
        raise CredentialsUnavailable(f"the credentials function gave {kind} instead of Credentials or a mechanism")
    return given


def lease_of(login: Login, now: float) -> Lease | None:
    """The life of a login that a credentials function has just returned; None if it does not expire."""
    if not isinstance(login, Credentials) or login.expires_in is None:
        return None
    return Lease(now + max(_RENEWED_AFTER * login.expires_in, _LEAST_WAIT), now + login.expires_in)


def secret_of(login: Login) -> str:
    """The secret to send on the open link.

    Raises:
        CredentialsUnavailable: a mechanism has none.
    """
    if not isinstance(login, Credentials):
        kind = type(login).__name__
        raise CredentialsUnavailable(f"the credentials function gave {kind}, which has no secret to update")
    return login.password


class Renewal:
    """Schedules the renewals of the credentials on one link.

    Args:
        lease: the life of the credentials of the login.
        random: the source of jitter.

    Attributes:
        lease: the life of the present credentials; None if they do not expire, so that the renewals end.
        due_at: when to renew them next.
    """

    __slots__ = ("_failures", "_random", "due_at", "lease")

    def __init__(self, lease: Lease, random: Random) -> None:
        self.lease: Lease | None = lease
        self.due_at: float = lease.renew_at
        self._random = random
        self._failures = 0

    def renewed(self, lease: Lease | None) -> None:
        """The broker has accepted new credentials with this life."""
        self.lease = lease
        self._failures = 0
        if lease is not None:
            self.due_at = lease.renew_at

    def failed(self, now: float) -> float:
        """A renewal has failed. Returns the seconds until the next one."""
        delay = _PAUSES.delay(self._failures, self._random)
        self._failures += 1
        self.due_at = now + delay
        return delay
