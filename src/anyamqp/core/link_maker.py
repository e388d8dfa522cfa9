"""Makes the links of a connection: dials, and starts a session on the transport.

:mod:`anyamqp.protocol.reconnect` decides whether, when and where to dial.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Sequence
from typing import NamedTuple, cast

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import RunVar

from anyamqp.core.credentials import CredentialsKeeper
from anyamqp.core.journal import Journal
from anyamqp.endpoint import Address
from anyamqp.errors import AnyamqpError, ConnectTimeout, UnexpectedFailure
from anyamqp.message import FieldTable
from anyamqp.net.dialer import Dial, Dialer
from anyamqp.net.event_loop import failure_of
from anyamqp.net.link import Link
from anyamqp.protocol.addresses import AddressCycle
from anyamqp.protocol.dispatch import LinkOwner
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.lifecycle import LinkState
from anyamqp.protocol.reconnect import Attempts, Life, Turns
from anyamqp.protocol.sasl import Mechanism
from anyamqp.protocol.session import Session
from anyamqp.settings import VERSION, Settings

_TURNS: RunVar[Turns | None] = RunVar("anyamqp.turns")

_RANDOM = random.Random()  # noqa: S311 - jitter, not a secret
"""Shared by all connections: each ``Random`` takes 3 kB."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RANDOM.seed)  # else all child processes would dial at the same times

_AWAITED = {
    LinkState.AWAITING_START: "connection.start",
    LinkState.AWAITING_TUNE: "connection.tune",
    LinkState.AWAITING_OPEN_OK: "connection.open-ok",
}


class Traffic(NamedTuple):
    """Bytes and frames, both ways."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0

    def and_of(self, link: Link) -> Traffic:
        """The sum of this and the traffic of a link."""
        session = link.session
        return Traffic(
            self.bytes_sent + session.bytes_sent,
            self.bytes_received + session.bytes_received,
            self.frames_sent + session.frames_sent,
            self.frames_received + session.frames_received,
        )


class LinkMaker:
    """Makes the links of one connection, one after the other.

    Args:
        settings: the settings of the connection.
        fail_fast: whether the first connect gives up at once on an error that no retry cures.
        dial: opens a transport in place of TCP.
        journal: logs failed attempts.

    Raises:
        SettingsError: a file of the TLS settings is missing or invalid.

    Attributes:
        number: the number of the current or last link, counted from 1; 0 before the first.
        deadline: the time by which the current attempt must succeed.
        past_traffic: the traffic of the links that have ended.
        credentials: provides the credentials of each login.
    """

    __slots__ = (
        "_addresses",
        "_attempts",
        "_dialer",
        "_journal",
        "_settings",
        "_turns",
        "credentials",
        "deadline",
        "number",
        "past_traffic",
    )

    def __init__(self, settings: Settings, *, fail_fast: bool, dial: Dial | None, journal: Journal) -> None:
        self.number: int = 0
        self.deadline: float = math.inf
        self.past_traffic: Traffic = Traffic()
        self.credentials: CredentialsKeeper = CredentialsKeeper(settings, journal, _RANDOM)
        self._settings = settings
        self._journal = journal
        self._addresses = AddressCycle(settings.addresses, shuffle=settings.shuffle, random=_RANDOM)
        self._dialer = Dialer(settings.tls, self._addresses, dial)
        self._attempts = Attempts(settings.reconnect, self._addresses, fail_fast=fail_fast, random=_RANDOM)
        self._turns = Turns()

    def begin(self) -> None:
        """Begin the first attempt, on the running event loop."""
        self._turns = _turns_of_this_loop()
        self._attempts.begin(anyio.current_time())

    @property
    def address(self) -> Address:
        """The address of the present link, or of the present attempt."""
        return self._addresses.address

    @property
    def login(self) -> str:
        """The user who logs in, and the address, for people."""
        return f"{self.credentials.login} at {self._addresses}"

    def doing(self, link: Link | None) -> str:
        """The current step of the attempt, for people."""
        if link is None:
            return self._dialer.doing
        awaited = _AWAITED.get(link.session.state)
        if awaited is None:
            return f"recovering on link {link.number}"
        return f"waiting for {awaited} from {self._addresses}"

    def pause(self) -> float:
        """Get the seconds to wait before the next dial, and log why there is no link.

        Raises:
            AnyamqpError: the policy gives up.
        """
        seconds, failure = self._attempts.pause(anyio.current_time())
        if failure is not None:
            self._journal.retrying(failure, str(self._addresses), seconds)
        self._dialer.doing = f"waiting {seconds:.1f} s before dialing {self._addresses}"
        return seconds

    async def wait_turn(self) -> None:
        """Wait until no other connection of this event loop dials the same address."""
        await anyio.sleep(self._turns.take(self._addresses.address, anyio.current_time()))

    async def dial(self, owner: LinkOwner) -> Link | None:
        """Get credentials and a transport.

        Returns:
            A link on the transport; None if the attempt failed, whatever the error.
        """
        timeout = self._settings.connect_timeout
        self.deadline = anyio.current_time() + timeout
        try:
            with anyio.CancelScope(deadline=self.deadline):
                self._dialer.doing = "waiting for the credentials function"
                mechanisms = await self.credentials.mechanisms()
                self._journal.dials += 1
                return self._link(await self._dialer.dial(), mechanisms, owner)
            raise ConnectTimeout(f"{self._dialer.doing}: no answer within {timeout} s")  # noqa: TRY301
        except BaseException as raised:  # noqa: BLE001 - any fault ends only the attempt, not the connection
            self._attempts.failed(self.expected(raised))
        return None

    async def wait_open(self, link: Link) -> None:
        """Wait until the handshake is done or the link has ended; abort the link at the deadline."""
        with anyio.CancelScope(deadline=self.deadline) as handshake:
            await link.wait_open()
        if handshake.cancelled_caught:
            timeout = self._settings.connect_timeout
            link.abort(ConnectTimeout(f"{self.doing(link)}: no answer within {timeout} s"))

    def link_ended(self, link: Link, opened_at: float | None) -> None:
        """Note that a link has ended.

        Args:
            link: the link.
            opened_at: the time at which the connection became open on it; None if it did not.
        """
        self.past_traffic = self.past_traffic.and_of(link)
        self._attempts.link_ended(link.error, Life(opened_at, link.dispatcher.has_worked))

    def expected(self, raised: BaseException) -> AnyamqpError:
        """Make an anyamqp error of an exception. Re-raises an exception that ends the task, such as a cancellation."""
        failure = failure_of(raised)
        if failure is None:
            raise raised
        failure = first_failure(failure)
        if not isinstance(failure, AnyamqpError) or not isinstance(raised, Exception):
            self._journal.unexpected(failure)
            unexpected = UnexpectedFailure(f"unexpected {type(failure).__name__}: {failure}")
            unexpected.__cause__ = failure
            failure = unexpected
        self._journal.last_error = failure
        return failure

    def _link(self, stream: ByteStream, mechanisms: Sequence[Mechanism], owner: LinkOwner) -> Link:
        settings = self._settings
        self.number += 1
        session = Session(
            number=self.number,
            mechanisms=mechanisms,
            virtual_host=settings.virtual_host,
            proposal=Tuning(settings.channel_max, settings.frame_max, settings.heartbeat),
            client_properties=self._client_properties(),
            max_message_size=settings.max_message_size,
            now=anyio.current_time(),
        )
        return Link(self.number, stream, session, owner, self._journal)

    def _client_properties(self) -> FieldTable:
        version = sys.version_info
        properties: dict[str, str] = {
            "product": "anyamqp",
            "version": VERSION,
            "platform": f"Python {version.major}.{version.minor}.{version.micro}",
        }
        if self._settings.name is not None:
            properties["connection_name"] = self._settings.name
        return {**properties, **self._settings.client_properties}


def first_failure(failure: Exception) -> Exception:
    """The first exception of a group, and of the groups in it; an exception that is no group as it is."""
    while isinstance(failure, ExceptionGroup):
        failure = cast("ExceptionGroup[Exception]", failure).exceptions[0]
    return failure


def _turns_of_this_loop() -> Turns:
    turns = _TURNS.get(None)
    if turns is None:
        turns = Turns()
        _TURNS.set(turns)
    return turns
