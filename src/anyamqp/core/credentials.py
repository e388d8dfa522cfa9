"""Calls the credentials function for each login, and renews the credentials on the open link.

:mod:`anyamqp.protocol.logins` decides which credentials are used, and when they are renewed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from random import Random
from typing import Any, cast

import anyio

from anyamqp.core.journal import Journal
from anyamqp.endpoint import Credentials, Login
from anyamqp.errors import AnyamqpError, CredentialsUnavailable, Cure, RequestTimeout
from anyamqp.net.event_loop import failure_of
from anyamqp.net.link import Link
from anyamqp.protocol.logins import Lease, Logins, Renewal, checked_login, lease_of, secret_of
from anyamqp.protocol.sasl import Mechanism, Plain
from anyamqp.settings import Settings
from anyamqp.wire import methods
from anyamqp.wire.frames import build


class CredentialsKeeper:
    """Provides the credentials of a connection and renews them.

    Args:
        settings: the connection's settings.
        journal: logs failed renewals.
        random: the source of jitter.

    Attributes:
        logins: decides which credentials are used.
        login: the user of the last login, or its mechanisms if these have no user.
    """

    def __init__(self, settings: Settings, journal: Journal, random: Random) -> None:
        self.logins: Logins = Logins(settings.credentials)
        self.login: str = ""
        self._settings = settings
        self._journal = journal
        self._random = random
        self._lease: Lease | None = None

    @property
    def renewal(self) -> Callable[[Link], Coroutine[Any, Any, None]] | None:
        """The coroutine that renews the current credentials on a link; None if they do not expire."""
        lease = self._lease
        return None if lease is None else partial(self._keep_renewed, Renewal(lease, self._random))

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

    async def _ask(self) -> tuple[Login, Lease | None]:
        source = self.logins.source
        if not callable(source):
            return source, None
        try:
            asked = cast("object", source())
            given = cast("object", await asked) if isinstance(asked, Awaitable) else None
        except BaseException as raised:
            if (failure := failure_of(raised)) is None:
                raise
            raise CredentialsUnavailable(f"the credentials function raised {type(raised).__name__}") from failure
        if not isinstance(asked, Awaitable):
            kind = type(asked).__name__
            sync = CredentialsUnavailable(f"the credentials function gave {kind} without await: it must be async")
            sync.cure = Cure.CHANGE
            raise sync
        login = checked_login(given)
        return login, lease_of(login, anyio.current_time())

    async def _keep_renewed(self, renewal: Renewal, link: Link) -> None:
        await link.wait_open()
        while (lease := renewal.lease) is not None:
            await anyio.sleep_until(renewal.due_at)
            if not link.is_open:
                return
            try:
                renewal.renewed(await self._renew(link))
            except AnyamqpError as error:
                if not link.is_open:
                    return
                now = anyio.current_time()
                self._journal.not_renewed(error, lease.expires_at - now, renewal.failed(now))

    async def _renew(self, link: Link) -> Lease | None:
        """Get new credentials and send them. Returns their life; None if they do not expire."""
        login, lease = await self._ask_patiently()
        await self._update(link, build(methods.Connection.UpdateSecret, secret_of(login), "renewed before it expires"))
        return lease

    async def _ask_patiently(self) -> tuple[Login, Lease | None]:
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
