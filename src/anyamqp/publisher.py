"""Publishing with confirms: ``async with connection.publisher() as publisher``.

A publish is encoded first, so that a message that AMQP cannot carry is refused before anything changes. Then it takes
room in the window, and goes into the outbox: :mod:`anyamqp.protocol.outbox`.
"""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import count
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Never, Self

import anyio.lowlevel

from anyamqp.checks import check_flag, check_kind, check_seconds, check_whole
from anyamqp.core.host import ChannelHost
from anyamqp.core.publishing import OutboxShell
from anyamqp.message import NO_PROPERTIES, Message, Properties, check_message, random_id
from anyamqp.misuse import Entered, surplus_error
from anyamqp.net.event_loop import Loop
from anyamqp.protocol.lifecycle.publisher import PublisherState
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.ports import Publishing
from anyamqp.protocol.publishing import PublishPolicy
from anyamqp.publication import UNSET, Publication, Receipt, Unset, deadline_after, receipt_of, wait_settled
from anyamqp.wire.basic import Routes, Template, encode_properties

_TURN: Final = 64
"""Messages after which ``submit`` lets other tasks run."""


class Publisher(Entered):
    """Publishes with confirms: ``async with connection.publisher() as publisher``.

    Owns one channel at a time. When the block ends, every publish has its outcome; when it ends with an error, the
    publishes without an outcome are given up. Made by :meth:`Connection.publisher`, which documents the arguments.
    """

    _kind = "a publisher"
    _block = "async with connection.publisher() as publisher"

    def __init__(
        self,
        host: ChannelHost,
        *,
        registry: set[Publishing],
        exchange: str,
        defaults: Properties,
        mandatory: bool,
        timeout: float | None,
        window: int,
        window_bytes: int,
        resend: bool,
        retry_nacked: bool,
        blocked_timeout: float | None,
    ) -> None:
        check_kind("defaults", defaults, Properties, 'Properties(app_id="billing")')
        check_seconds("timeout", timeout, none="for ever")
        check_whole("window", window, 1, unit="messages")
        check_whole("window_bytes", window_bytes, 1, unit="bytes")
        check_flag("resend", resend)
        check_flag("retry_nacked", retry_nacked)
        check_seconds("blocked_timeout", blocked_timeout, none="as long as each publish has")
        self._host = host
        self._hooks = host.hooks
        self._loop = Loop()
        """The connection's event loop once the block has begun; before that one that runs in no known thread."""
        self._exchange = exchange
        self._defaults = {
            field.name: value for field in fields(Properties) if (value := getattr(defaults, field.name)) is not None
        }
        self._template = None if "message_id" in self._defaults else Template(defaults)
        """The properties of messages that have none of their own."""
        self._routes = Routes()
        self._routes.get(exchange, "", mandatory=mandatory)  # an invalid one is refused here, once
        self._id_prefix = f"{random_id()}-"
        self._ids = count(1)
        self._mandatory = mandatory
        self._timeout = math.inf if timeout is None else timeout
        self._shell = OutboxShell(
            host,
            registry,
            window=window,
            window_bytes=window_bytes,
            policy=PublishPolicy(
                resend=resend,
                retry_nacked=retry_nacked,
                blocked_timeout=math.inf if blocked_timeout is None else blocked_timeout,
            ),
        )
        self._composed_at = 0.0
        self._turn = 0
        """How many messages were submitted since other tasks ran."""

    @property
    def _is_new(self) -> bool:
        return self._shell.outbox.state is PublisherState.NEW

    async def __aenter__(self) -> Self:
        self._host.loop.require_here(self._kind)
        self._check_new()
        self._loop = self._host.loop
        await self._shell.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc_type is None:
                await self.flush()
        finally:
            self._shell.give_up()
            await self._shell.close()

    @property
    def unconfirmed(self) -> int:
        """Publishes that wait for their outcome."""
        return self._shell.unconfirmed

    async def publish(
        self,
        message: Message,
        *surplus: Never,
        exchange: str | None = None,
        routing_key: str = "",
        mandatory: bool | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> Receipt:
        """Publish a message and wait for the broker's confirm, over reconnects if need be.

        Args:
            message: the message; without a ``message_id`` it gets a random one, by which a consumer can tell a resend.
            surplus: nothing; the other arguments are given by name.
            exchange: where to publish, instead of the publisher's own; empty for the default exchange, which routes to
                the queue named by the key.
            routing_key: the routing key.
            mandatory: whether it is an error if no queue takes the message, instead of the publisher's own.
            timeout: seconds until :class:`PublishTimeout`, instead of the publisher's own; None to wait for ever.

        Raises:
            Unroutable: mandatory, and no queue took it.
            Nacked: the broker refused it, and nacks are not retried.
            PublishTimeout: no outcome in time.
            OutcomeUnknown: the link was lost before the confirm, and the publisher was made with ``resend=False``.
            ConnectionBlocked: the broker has accepted no publishes for longer than ``blocked_timeout``.
            ConnectionClosed: the connection was closed or gave up first.
            ReplyError: the broker closed the channel because of this publish, such as :class:`NotFound` for a missing
                exchange.
            InvalidArgument: AMQP cannot carry the message; nothing was sent.
            InvalidUse: called on another event loop than the connection's, or outside the publisher's block; nothing
                was sent.
        """
        if surplus:
            raise surplus_error(Publisher.publish)
        shell = self._shell
        compose = self._compose if self._hooks is None else self._compose_observed
        pending = compose(message, exchange, routing_key, mandatory, timeout)
        if not shell.try_enter(pending):
            await self._enter(pending)
        pending.is_observed = True
        shell.accept(pending, self._composed_at, is_awaited=True)
        try:
            if pending.outcome is None:
                pending.waiter = waiter = self._loop.waiter()
                await waiter.wait()
            return receipt_of(pending)
        except BaseException:
            # Cancelled: no caller waits for the outcome, so it is not sent again after a loss.
            pending.time_out()
            raise

    async def submit(
        self,
        message: Message,
        *surplus: Never,
        exchange: str | None = None,
        routing_key: str = "",
        mandatory: bool | None = None,
        timeout: float | Unset | None = UNSET,
    ) -> Publication:
        """Submit a message, waiting only for room in the window; see :meth:`publish` for the arguments.

        Returns:
            A handle that can be awaited for the outcome. :meth:`flush` raises the failures that were not awaited.

        Raises:
            PublishTimeout: there was no room in the window in time.
            ConnectionBlocked, ConnectionClosed, InvalidArgument: as for :meth:`publish`.
        """
        if surplus:
            raise surplus_error(Publisher.submit)
        self._turn += 1
        if self._turn >= _TURN:
            self._turn = 0
            await anyio.lowlevel.checkpoint()  # so that a large window cannot starve other tasks
        shell = self._shell
        compose = self._compose if self._hooks is None else self._compose_observed
        pending = compose(message, exchange, routing_key, mandatory, timeout)
        if not shell.try_enter(pending):
            self._turn = 0
            await self._enter(pending)
        shell.accept(pending, self._composed_at)
        return Publication(pending, self._loop)

    async def flush(self) -> None:
        """Wait until everything submitted so far has its outcome.

        Raises:
            ExceptionGroup: the failures since the last flush that were not awaited, each naming its message. Of more
                than 1000, or ``window`` if that is more, it has the first and the last, and its text says how many
                there were.
            InvalidUse: called on another event loop than the connection's, or outside the publisher's block.
        """
        self._check_entered()
        self._loop.require_here(self._kind)
        outbox = self._shell.outbox
        # Newest first: its confirm usually comes last, so one wait is usually enough for the whole window.
        for pending in reversed(outbox.places.unsettled()):
            if pending.outcome is None:
                await wait_settled(pending)
        if (failures := outbox.counters.take_failures()) is not None:
            raise failures

    def _compose(
        self,
        message: Message,
        exchange: str | None,
        routing_key: str,
        mandatory: bool | None,
        timeout: float | Unset | None,
    ) -> PendingPublish:
        loop = self._loop
        if get_ident() != loop.thread or not loop.is_running():
            self._check_entered()
            loop.require_here(self._kind)
        check_message(message, self._host.max_message_size)
        route = self._routes.get(
            self._exchange if exchange is None else exchange,
            routing_key,
            mandatory=self._mandatory if mandatory is None else mandatory,
        )
        properties = message.properties
        if properties is NO_PROPERTIES and self._template is not None:
            message_id = f"{self._id_prefix}{next(self._ids)}"
            encoded = self._template.with_id(message_id)
        else:
            changes = self._changes(properties)
            message_id = changes.get("message_id", properties.message_id) or ""
            encoded = encode_properties(properties, **changes)
        self._composed_at = now = loop.now()
        deadline = now + self._timeout if timeout is UNSET else deadline_after(now, timeout)
        return PendingPublish(self._shell.outbox.counters, route, message_id, encoded, message.body, deadline)

    def _compose_observed(
        self,
        message: Message,
        exchange: str | None,
        routing_key: str,
        mandatory: bool | None,
        timeout: float | Unset | None,
    ) -> PendingPublish:
        if self._hooks is None:
            return self._compose(message, exchange, routing_key, mandatory, timeout)
        self._check_entered()
        self._loop.require_here(self._kind)
        check_message(message, self._host.max_message_size)
        to = self._exchange if exchange is None else exchange
        observed, message = self._hooks.publish(message, to, routing_key, "publish")
        try:
            pending = self._compose(message, exchange, routing_key, mandatory, timeout)
        except BaseException as error:
            observed.ended(error)
            raise
        pending.observer = observed
        return pending

    def _changes(self, properties: Properties) -> dict[str, Any]:
        """The properties that the publisher adds to a message with these properties."""
        changes = {name: value for name, value in self._defaults.items() if getattr(properties, name) is None}
        if properties.headers is not None and "headers" in self._defaults:
            changes["headers"] = {**self._defaults["headers"], **properties.headers}
        if properties.message_id is None and "message_id" not in changes:
            changes["message_id"] = f"{self._id_prefix}{next(self._ids)}"
        return changes

    async def _enter(self, pending: PendingPublish) -> None:
        try:
            await self._shell.enter(pending)
        except BaseException as error:
            if pending.observer is not None:
                pending.observer.ended(error)
            raise
        self._composed_at = self._loop.now()
