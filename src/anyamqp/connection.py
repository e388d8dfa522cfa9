"""The connection that a user holds. :mod:`anyamqp.core.supervisor` keeps it connected."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import anyio

from anyamqp.channel import Channel
from anyamqp.channel_shell import ChannelShell
from anyamqp.checks import check_seconds
from anyamqp.consumer import Consumer
from anyamqp.core.stats import Stats
from anyamqp.core.supervisor import Supervisor
from anyamqp.core.transition_stream import TransitionStream
from anyamqp.errors import InvalidArgument, RequestTimeout
from anyamqp.message import NO_PROPERTIES, FieldTable, Properties
from anyamqp.misuse import Entered, explained
from anyamqp.on_error import OnError
from anyamqp.options import StreamOffset
from anyamqp.pool import ChannelPool
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.lifecycle import State
from anyamqp.protocol.subscribing import OnCancel
from anyamqp.publisher import Publisher
from anyamqp.queue import Queue
from anyamqp.rpc import RpcClient
from anyamqp.scope import ConnectionScope
from anyamqp.settings import Settings
from anyamqp.wire import methods
from anyamqp.wire.frames import build

DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_WINDOW: Final = 256
DEFAULT_WINDOW_BYTES: Final = 16 * 1024 * 1024
DEFAULT_PREFETCH: Final = 100


class Connection(Entered):
    """A connection that lasts as long as its block, whatever happens to the network. Made by :func:`connect`.

    Entering raises the error that made the first connect fail: :class:`LoginRefused`, :class:`NotAllowed` (unknown
    virtual host), :class:`TLSError`, :class:`ReadyTimeout`, or :class:`ConnectionClosed` when the policy is exhausted.
    An exception of the block leaves it as itself. Leaving closes the connection with AMQP's handshake, also when the
    block was cancelled, within ``close_timeout``.
    """

    _kind = "a connection"
    _block = "async with connect(...) as connection"

    def __init__(self, settings: Settings, supervisor: Supervisor, *, ready_timeout: float | None) -> None:
        self._settings = settings
        self._ready_timeout = ready_timeout
        self._supervisor = supervisor
        self._scope = ConnectionScope(supervisor)

    def __repr__(self) -> str:
        where = ", ".join(map(str, self._settings.addresses))
        return f"<Connection to {where} {self.state.name}>"

    @property
    def _is_new(self) -> bool:
        return self._scope.is_new

    async def __aenter__(self) -> Self:
        self._check_new()
        await self._scope.begin()
        try:
            if self._ready_timeout != 0:
                await self._scope.wait_first_ready(self._ready_timeout)
        except BaseException:
            await self._scope.end()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._require_here()
        await self._scope.end()

    async def close(self) -> None:
        """Close the connection: every later call on it raises :class:`ConnectionClosed`.

        Leaving the block does it as well. Takes ``close_timeout`` seconds at most, may be called from any task and more
        than once, and is not interrupted by a cancellation.
        """
        self._require_here()
        await self._supervisor.close()

    @property
    def state(self) -> State:
        """The state of its life cycle."""
        return self._supervisor.state

    @property
    def stats(self) -> Stats:
        """A snapshot of the connection."""
        return self._supervisor.host.stats

    @property
    def tuning(self) -> Tuning | None:
        """The limits agreed with the broker at the last handshake; None before the first."""
        return self._supervisor.host.tuning

    @property
    def server_properties(self) -> FieldTable:
        """The broker's product, version and capabilities, as of the last handshake; empty before the first."""
        return self._supervisor.host.server_properties

    def transitions(self) -> TransitionStream:
        """The transitions of the connection, its links and its channels, from now until the connection is closed.

        Raises:
            InvalidUse: the connection was entered on another event loop or in another thread.
        """
        return self._supervisor.host.journal.stream()

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the connection is OPEN or BLOCKED, and everything on it is back.

        After a loss the connection may be OPEN while a queue, or a consumer or channel that needs it, is not back yet:
        see :attr:`Stats.not_back`.

        Args:
            timeout: seconds; None to wait for ever.

        Raises:
            ReadyTimeout: it was not ready in time; ``__cause__`` is the last error of its attempts.
            ConnectionClosed: it is closed.
            InvalidArgument: ``timeout`` is not a number of seconds.
        """
        self._require_here()
        check_seconds("timeout", timeout, none="for ever")
        await self._scope.wait_ready(timeout)

    async def wait_unblocked(self, timeout: float | None = None) -> None:
        """Wait until the broker accepts publishes: the connection is OPEN.

        Args:
            timeout: seconds; None to wait for ever.

        Raises:
            ConnectionBlocked: it is still BLOCKED after that time; the error has the broker's reason.
            ReadyTimeout: it is not ready after that time for another reason.
            ConnectionClosed: it is closed.
            InvalidArgument: ``timeout`` is not a number of seconds.
        """
        self._require_here()
        check_seconds("timeout", timeout, none="for ever")
        await self._scope.wait_for(State.OPEN, timeout=timeout)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, for whatever reason."""
        self._require_here()
        await self._supervisor.wait_for(State.CLOSED)

    async def update_secret(self, secret: str, *, reason: str = "") -> None:
        """Give the broker a new password or token for this connection (connection.update-secret, RabbitMQ).

        Waits while the connection is away. If the credentials are :class:`Credentials`, later logins use ``secret`` as
        their password: from the broker's answer on, or at once while the connection is away, because the broker may
        refuse the old one by then. If they come from a function, it is called at the next login anyway, so a loss
        before the answer is no failure; credentials with ``expires_in`` are renewed without this. A mechanism of your
        own must learn of the new secret from you.

        Args:
            secret: the password or token.
            reason: why it changed, for the broker's log; 255 bytes at most.

        Raises:
            InvalidArgument: AMQP or SASL PLAIN cannot carry the secret or the reason; nothing was sent.
            RequestTimeout: no answer within ``request_timeout``, reconnects included.
            NotAllowed: the broker refused it; RabbitMQ then closes the link, and the connection logs in again.
            ConnectionLost: the link ended before the answer, and there is no credentials function.
            ConnectionClosed: the connection is closed.
        """
        self._require_here()
        update = build(methods.Connection.UpdateSecret, secret, reason)
        if "\0" in secret:
            raise InvalidArgument("secret: holds a character that SASL PLAIN cannot carry")
        timeout = self._settings.request_timeout
        with anyio.move_on_after(timeout):
            await self._supervisor.update_secret(update)
            return
        raise RequestTimeout(
            f"connection.update-secret: no answer within {timeout} s; {self._supervisor.host.progress}"
        )

    @explained
    def channel(self, *, wait: float = 0.0) -> Channel:
        """A channel: ``async with connection.channel() as channel``.

        Args:
            wait: seconds to wait for another channel to be closed when ``channel_max`` channels are open; entering
                the block then raises :class:`ChannelLimitReached`.

        Raises:
            InvalidArgument: ``wait`` is not a number of seconds.
        """
        return Channel(ChannelShell(self._supervisor.host), wait=wait)

    @explained
    def channel_pool(self, size: int) -> ChannelPool:
        """A pool that lends at most ``size`` channels: ``async with connection.channel_pool(8) as pool``.

        Raises:
            InvalidArgument: the size is not a whole number from 1 up.
        """
        return ChannelPool(self._supervisor.host, size)

    @explained
    def publisher(
        self,
        *,
        exchange: str = "",
        defaults: Properties = NO_PROPERTIES,
        mandatory: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
        window: int = DEFAULT_WINDOW,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        resend: bool = True,
        retry_nacked: bool = False,
        blocked_timeout: float | None = None,
    ) -> Publisher:
        """A publisher: ``async with connection.publisher() as publisher``.

        Args:
            exchange: the exchange of publishes that name none.
            defaults: properties for messages that leave them unset, such as
                ``Properties(content_type="application/json", app_id="billing")``. Headers are merged; the message's
                take precedence.
            mandatory: whether it is an error if no queue takes a message.
            timeout: seconds until a publish raises :class:`PublishTimeout`; None to wait for ever.
            window: how many publishes may be without an outcome; ``submit`` waits for room.
            window_bytes: how many bytes their bodies may have together.
            resend: whether unconfirmed publishes are sent again after a loss. A consumer may then see a message twice,
                under the same ``message_id``. Otherwise such a publish raises :class:`OutcomeUnknown`.
            retry_nacked: whether publishes that the broker nacks, as a quorum queue does while it elects a leader, are
                sent again until their deadline. Later publishes may overtake one that waits to be sent again.
                Otherwise such a publish raises :class:`Nacked`.
            blocked_timeout: seconds after connection.blocked until publishes that were not sent raise
                :class:`ConnectionBlocked`: None to wait until their own deadlines, 0 to fail at once.

        Raises:
            InvalidArgument: an argument is out of its range, or AMQP cannot carry one of the defaults.
        """
        return Publisher(
            self._supervisor.host,
            registry=self._supervisor.host.core.publishers,
            exchange=exchange,
            defaults=defaults,
            mandatory=mandatory,
            timeout=timeout,
            window=window,
            window_bytes=window_bytes,
            resend=resend,
            retry_nacked=retry_nacked,
            blocked_timeout=blocked_timeout,
        )

    @explained
    def consumer(
        self,
        queue: Queue | str,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        priority: int | None = None,
        stream_offset: StreamOffset | None = None,
        arguments: FieldTable | None = None,
        on_cancel: OnCancel = "raise",
        on_error: OnError = "requeue",
    ) -> Consumer:
        """A consumer: ``async with connection.consumer("queue") as consumer: async for delivery in consumer``.

        Args:
            queue: the queue or its name.
            prefetch: how many deliveries may be unsettled; 0 for no limit, as with ``no_ack``.
            no_ack: the broker forgets messages when it sends them; a loss loses those in transit. No prefetch slows
                the broker down then, so a slow reader makes the whole connection pause reading. While a request on the
                connection awaits its answer, reading continues, because the answer comes after the deliveries, which
                are held in memory. A reader that also publishes should do so on another connection.
            exclusive: no other consumer may consume from the queue.
            consumer_tag: the consumer's name; a random one if None.
            priority: consumers with a higher one are served first (RabbitMQ, "Consumer Priorities").
            stream_offset: where to begin to read a stream: ``first``, ``last``, ``next``, an offset, a time, or an
                interval such as ``1h``. After a reconnect, reading resumes after the last delivery that the iteration
                took. If a consumer that began at ``next`` has taken none, it reads from the time when it began, less a
                few seconds, so messages that were published just before may come as well.
            arguments: further arguments for the broker, such as ``{"x-stream-filter": "eu"}``.
            on_cancel: the reaction when the broker cancels the consumer because its queue was deleted, or is gone with
                its node: ``raise`` :class:`ConsumerCancelled`, ``resubscribe`` as soon as the queue is back, or ``end``
                the iteration. If the queue still exists, the consumer always resubscribes. With ``resubscribe``,
                entering the block does not wait for a missing queue; the iteration does.
            on_error: the policy for a delivery whose ``async with`` block or handler raises: ``requeue`` it,
                ``reject`` it, :class:`Retry` a few times and then reject it, or a function that decides. See
                :data:`OnError`. It has no effect on a stream or with ``no_ack``, where no delivery can be returned.

        Raises:
            InvalidArgument: an argument is out of its range, or AMQP cannot carry it.
        """
        return Consumer(
            self._supervisor.host,
            registry=self._supervisor.host.core.consumers,
            queue=queue,
            prefetch=prefetch,
            no_ack=no_ack,
            exclusive=exclusive,
            consumer_tag=consumer_tag,
            priority=priority,
            stream_offset=stream_offset,
            arguments=arguments,
            on_cancel=on_cancel,
            on_error=on_error,
        )

    @explained
    def rpc_client(self, *, timeout: float | None = DEFAULT_TIMEOUT, resend: bool = False) -> RpcClient:
        """A client for request and reply: ``async with connection.rpc_client() as rpc: await rpc.call(...)``.

        Args:
            timeout: seconds for a call, reconnects included; None to wait for ever.
            resend: whether a request is sent again after a loss; a server may then see it twice. Otherwise a call that
                was sent raises :class:`ConnectionLost`.

        Raises:
            InvalidArgument: an argument has a wrong type or is out of its range.
        """
        return RpcClient(self._supervisor.host, timeout=timeout, resend=resend)

    def _require_here(self) -> None:
        self._check_entered()
        self._supervisor.host.loop.require_here(self._kind)
