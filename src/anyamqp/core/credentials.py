"""The credentials of one connection: for each login, and their renewal on the open link.

Expiring credentials are renewed without interruption: after 80 % of their life (as in RabbitMQ's Java client), the
keeper calls the credentials function again and sends the new secret with connection.update-secret. If a renewal fails,
the keeper retries with growing pauses for as long as the link lives, even after the expiry: some brokers then close the
connection, and the next login calls the function anyway, but others only refuse requests until they get a new secret.

Source: RabbitMQ, "OAuth 2.0 Authentication Backend" and "Extensions", connection.update-secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any, cast

import anyio

from anyamqp.core.journal import Journal
from anyamqp.endpoint import Credentials, Login
from anyamqp.errors import AnyamqpError, CredentialsUnavailable, Cure, RequestTimeout
from anyamqp.net.event_loop import failure_of
from anyamqp.net.link import Link
from anyamqp.protocol.sasl import Mechanism, Plain
from anyamqp.settings import ReconnectPolicy, Settings
from anyamqp.wire import methods
from anyamqp.wire.frames import build

_RENEWED_AFTER = 0.8
"""Credentials are renewed after this fraction of their life."""

_LEAST_WAIT = 1.0
"""The least seconds between two renewals. A function that returns the same token until it expires would otherwise be
called in ever shorter steps."""

_PAUSES = ReconnectPolicy(initial=1.0, factor=2.0, maximum=30.0, jitter=0.5, first=None)
"""Pauses between attempts to renew. They have jitter, because an overloaded token issuer has other clients, too."""


@dataclass(frozen=True, slots=True)
class _Lease:
    """The life of credentials, on the event loop's clock."""

    renew_at: float
    expires_at: float


class CredentialsKeeper:
    """Provides the credentials of a connection and renews them.

    Args:
        settings: the connection's settings.
        journal: logs failed renewals.
        random: the source of jitter.
    """

    def __init__(self, settings: Settings, journal: Journal, random: Random) -> None:
        self._settings = settings
        self._source = settings.credentials
        self._journal = journal
        self._random = random
        self._lease: _Lease | None = None
        self.login: str = ""
        """The user of the last login, or its mechanisms if these have no user."""

    @property
    def is_asking(self) -> bool:
        """Whether there is a credentials function, so that each login has fresh credentials."""
        return callable(self._source)

    @property
    def renewal(self) -> Callable[[Link], Coroutine[Any, Any, None]] | None:
        """The coroutine that renews the current credentials on a link; None if they do not expire."""
        return None if self._lease is None else partial(self._keep_renewed, self._lease)

    async def mechanisms(self) -> tuple[Mechanism, ...]:
        """The mechanisms for a login that begins now, in order of preference.

        Raises:
            CredentialsUnavailable: the credentials function raised, or returned an object of a wrong type.
        """
        login, self._lease = await self._ask()
        mechanisms = self._settings.mechanisms(login)
        if isinstance(login, Credentials | Plain):
            self.login = f"user {login.username!r}"
        else:
            self.login = " or ".join(mechanism.name for mechanism in mechanisms)
        return mechanisms

    def updated(self, secret: str) -> None:
        """Use a secret that the user has sent for the next logins too, unless a function provides the password."""
        if isinstance(self._source, Credentials):
            self._source = replace(self._source, password=secret)

    async def _ask(self) -> tuple[Login, _Lease | None]:
        source = self._source
        if not callable(source):
            return source, None
        try:
            asked = cast("object", source())
            login = cast("object", await asked) if isinstance(asked, Awaitable) else None
        except BaseException as raised:
            if (failure := failure_of(raised)) is None:
                raise
            raise CredentialsUnavailable(f"the credentials function raised {type(raised).__name__}") from failure
        if not isinstance(asked, Awaitable):
            kind = type(asked).__name__
            sync = CredentialsUnavailable(f"the credentials function gave {kind} without await: it must be async")
            sync.cure = Cure.CHANGE
            raise sync
        if isinstance(login, type) or not isinstance(login, Credentials | Mechanism):
            kind = type(login).__name__
            raise CredentialsUnavailable(f"the credentials function gave {kind} instead of Credentials or a mechanism")
        if not isinstance(login, Credentials) or login.expires_in is None:
            return login, None
        now = anyio.current_time()
        return login, _Lease(now + max(_RENEWED_AFTER * login.expires_in, _LEAST_WAIT), now + login.expires_in)

    async def _keep_renewed(self, lease: _Lease, link: Link) -> None:
        await link.wait_open()
        wake_at = lease.renew_at
        failures = 0
        while True:
            await anyio.sleep_until(wake_at)
            if not link.is_open:
                return
            try:
                renewed = await self._renew(link)
            except AnyamqpError as error:
                if not link.is_open:
                    return
                delay = _PAUSES.delay(failures, self._random)
                failures += 1
                now = anyio.current_time()
                wake_at = now + delay
                self._journal.not_renewed(error, lease.expires_at - now, delay)
            else:
                if renewed is None:
                    return
                lease, wake_at, failures = renewed, renewed.renew_at, 0

    async def _renew(self, link: Link) -> _Lease | None:
        """Get new credentials and send them. Returns their life; None if they do not expire."""
        login, lease = await self._ask_patiently()
        if not isinstance(login, Credentials):
            kind = type(login).__name__
            raise CredentialsUnavailable(f"the credentials function gave {kind}, which has no secret to update")
        await self._update(link, build(methods.Connection.UpdateSecret, login.password, "renewed before it expires"))
        return lease

    async def _ask_patiently(self) -> tuple[Login, _Lease | None]:
        # The same limit as at a login, so that a call that hangs does not prevent all further ones.
        patience = self._settings.connect_timeout
        with anyio.move_on_after(patience):
            return await self._ask()
        raise CredentialsUnavailable(f"the credentials function took longer than {patience} s")

    async def _update(self, link: Link, update: methods.Connection.UpdateSecret) -> None:
        """Send a new secret on an open link and wait for the broker's answer.

        Raises:
            RequestTimeout: the broker did not answer within ``request_timeout``.
            ConnectionLost: the link ended before the answer.
            ReplyError: the link ended because the broker refused the secret.
        """
        timeout = self._settings.request_timeout
        with anyio.move_on_after(timeout):
            await link.update_secret(update)
            return
        raise RequestTimeout(f"connection.update-secret: no answer within {timeout} s")
