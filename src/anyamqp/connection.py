"""The connection, as its user holds it. What keeps it connected is :mod:`anyamqp.core.supervisor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import anyio
import anyio.abc

from anyamqp.channel import Channel, Queue
from anyamqp.checks import check_flag, check_seconds
from anyamqp.consumer import DEFAULT_PREFETCH, Consumer
from anyamqp.core.stats import Stats
from anyamqp.core.supervisor import Supervisor
from anyamqp.core.transition_stream import TransitionStream
from anyamqp.endpoint import TLS, CredentialsSource
from anyamqp.entities import TopologyRecovery
from anyamqp.errors import (
    AnyamqpError,
    ConnectionBlocked,
    ConnectionClosed,
    InvalidArgument,
    InvalidUse,
    ReadyTimeout,
    RequestTimeout,
    SettingsError,
)
from anyamqp.failures import OnError
from anyamqp.message import NO_PROPERTIES, FieldTable, Properties
from anyamqp.misuse import Entered, explained
from anyamqp.net.dialer import Dial
from anyamqp.net.event_loop import interrupt_as_itself
from anyamqp.options import StreamOffset
from anyamqp.pool import ChannelPool
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.lifecycle import State
from anyamqp.protocol.subscription import OnCancel
from anyamqp.publisher import DEFAULT_TIMEOUT, DEFAULT_WINDOW, DEFAULT_WINDOW_BYTES, Publisher
from anyamqp.rpc import RpcClient
from anyamqp.settings import ReconnectPolicy, Settings
from anyamqp.wire import methods
from anyamqp.wire.frames import build

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")


@explained
def connect(
    urls: str | Sequence[str] | Settings | None = None,
    *,
    credentials: CredentialsSource | None = None,
    heartbeat: int | None = None,
    name: str | None = None,
    reconnect: ReconnectPolicy | None = None,
    connect_timeout: float | None = None,
    shuffle: bool | None = None,
    tls: ssl.SSLContext | TLS | None = None,
    topology_recovery: TopologyRecovery | None = None,
    ready_timeout: float | None = 60.0,
    fail_fast: bool = True,
    dial: Dial | None = None,
) -> Connection:
    """A connection to a broker: ``async with connect("amqp://guest:guest@localhost/") as connection``.

    Args:
        urls: an AMQP URL, several for the nodes of one cluster, or :class:`Settings`. None takes them from the
            environment, see :meth:`Settings.from_environment`.
        credentials: instead of those in the URL: :class:`Credentials`, a SASL :class:`Mechanism`, or an async function
            that gives one of them and is asked at every login, and again before what it gave expires.
        heartbeat: what we propose, in seconds; 0 leaves it to the broker. Instead of the URL's and of
            ``RABBITMQ_HEARTBEAT``; 60 if none of them says anything.
        name: shown by the broker's management UI and in its log.
        reconnect: when to dial again.
        connect_timeout: seconds for one attempt: DNS, TCP, TLS and the whole handshake.
        shuffle: try the addresses, and the DNS records of each, in an order of this connection's own.
        tls: speak TLS, in this way and no other, whatever the scheme; the port stays the URL's. Without it, the scheme
            ``amqps`` means ``TLS()`` with what the URL's query says.
        topology_recovery: which declared entities are declared again after a reconnect, and who is told of those that
            the broker refused.
        ready_timeout: seconds that entering the block waits for the connection to be ready; None waits for ever, 0 does
            not wait at all: calls on the connection then wait instead.
        fail_fast: raise at once what no retry cures on the first connect: refused credentials, an unknown virtual
            host, a certificate that cannot be verified. Otherwise, as on a reconnect, refused credentials and virtual
            hosts are tried again for ``refusal_grace``, and TLS as long as ``reconnect`` says.
        dial: opens the transport to an address, whose name it resolves itself; TLS goes on top of what it gives. The
            default is TCP to one DNS record after the other.

    Raises:
        SettingsError: an argument or a part of a URL is wrong, or a file for TLS is missing or not what it should be.
    """
    check_seconds("ready_timeout", ready_timeout, none="for ever", error=SettingsError)
    check_flag("fail_fast", fail_fast, error=SettingsError)
    if dial is not None and not callable(dial):
        raise SettingsError(f"dial: {type(dial).__name__} is not an async function of an Address")
    if urls is None:
        settings = Settings.from_environment()
    elif isinstance(urls, Settings):
        settings = urls
    else:
        settings = Settings.from_urls(urls)
    settings = replace(
        settings,
        credentials=_or(credentials, settings.credentials),
        heartbeat=_or(heartbeat, settings.heartbeat),
        name=_or(name, settings.name),
        reconnect=_or(reconnect, settings.reconnect),
        connect_timeout=_or(connect_timeout, settings.connect_timeout),
        shuffle=_or(shuffle, settings.shuffle),
        tls=_or(tls, settings.tls),
        topology_recovery=_or(topology_recovery, settings.topology_recovery),
    )
    return Connection(settings, ready_timeout=ready_timeout, fail_fast=fail_fast, dial=dial)


def _or(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given


class Connection(Entered):
    """A connection that lasts as long as its block, whatever happens to the network. Made by :func:`connect`.

    Entering raises what made the first connect fail: :class:`LoginRefused`, :class:`NotAllowed` (unknown virtual host),
    :class:`TLSError`, :class:`ReadyTimeout`, or :class:`ConnectionClosed` when the policy is exhausted. What the block
    raises leaves it as itself. Leaving closes the connection with AMQP's handshake, also when the block was cancelled,
    within ``close_timeout``.
    """

    _block = "async with connect(...) as connection"

    def __init__(self, settings: Settings, *, ready_timeout: float | None, fail_fast: bool, dial: Dial | None) -> None:
        self._settings = settings
        self._ready_timeout = ready_timeout
        self._supervisor = Supervisor(settings, fail_fast=fail_fast, dial=dial)
        self._tasks: anyio.abc.TaskGroup | None = None

    def __repr__(self) -> str:
        where = ", ".join(map(str, self._settings.addresses))
        return f"<Connection to {where} {self.state.name}>"

    # --- scope ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise InvalidUse("a connection is entered once; make a new one with connect()")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._supervisor.start(self._tasks)
        if self._ready_timeout == 0:
            return self
        try:
            await self._wait_first_ready()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def aclose(self) -> None:
        """Close the connection: every call on it raises :class:`ConnectionClosed` from now on.

        Leaving the block does it as well. Takes ``close_timeout`` seconds at most, may be called from anywhere and more
        than once, and is not interrupted by a cancellation.
        """
        self._require_entered()
        await self._supervisor.close()

    async def _wait_first_ready(self) -> None:
        try:
            await self.wait_ready(self._ready_timeout)
        except ConnectionClosed:
            if isinstance(self._supervisor.failure, AnyamqpError):
                raise self._supervisor.failure from self._supervisor.failure.__cause__
            raise

    async def _leave(self) -> None:
        tasks = self._require_entered()
        try:
            await self.aclose()
        finally:
            # Nothing of the user's is passed in: what the block raised leaves it as itself, not in an exception group.
            with interrupt_as_itself():
                await tasks.__aexit__(None, None, None)

    def _require_entered(self) -> anyio.abc.TaskGroup:
        if self._tasks is None:
            raise InvalidUse(f"a connection works inside its block: {self._block}")
        self._supervisor.loop.require_here("a connection")
        return self._tasks

    # --- what the user asks -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where its life cycle is."""
        return self._supervisor.state

    @property
    def stats(self) -> Stats:
        """The connection at this moment."""
        return self._supervisor.stats

    @property
    def tuning(self) -> Tuning | None:
        """The limits agreed with the broker at the last handshake; None before the first."""
        return self._supervisor.tuning

    @property
    def server_properties(self) -> FieldTable:
        """What the broker said of itself at the last handshake (product, version, capabilities); empty before it."""
        return self._supervisor.server_properties

    def transitions(self) -> TransitionStream:
        """The transitions of the connection, its links and its channels, from now until the connection is closed.

        Raises:
            InvalidUse: the connection was entered on another event loop or in another thread.
        """
        return self._supervisor.journal.stream()

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the connection is OPEN or BLOCKED: handshake done and everything recovered.

        Args:
            timeout: seconds; None to wait for ever.

        Raises:
            ReadyTimeout: it was not ready in time; ``__cause__`` is the last error that kept it from being so.
            ConnectionClosed: it is closed.
            InvalidArgument: that is no timeout.
        """
        self._require_entered()
        check_seconds("timeout", timeout, none="for ever")
        with anyio.move_on_after(timeout):
            await self._supervisor.wait_for(State.OPEN, State.BLOCKED)
            return
        raise self._not_ready(timeout)

    async def wait_unblocked(self, timeout: float | None = None) -> None:
        """Wait until the broker takes publishes: the connection is OPEN.

        Args:
            timeout: seconds; None to wait for ever.

        Raises:
            ConnectionBlocked: it is still BLOCKED after that time; the error has the broker's reason.
            ReadyTimeout: it is not ready after that time for another reason.
            ConnectionClosed: it is closed.
            InvalidArgument: that is no timeout.
        """
        self._require_entered()
        check_seconds("timeout", timeout, none="for ever")
        with anyio.move_on_after(timeout):
            await self._supervisor.wait_for(State.OPEN)
            return
        if (block := self._supervisor.block) is not None:
            raise ConnectionBlocked(block.reason)
        raise self._not_ready(timeout)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, for whatever reason."""
        self._require_entered()
        await self._supervisor.wait_for(State.CLOSED)

    async def update_secret(self, secret: str, *, reason: str = "") -> None:
        """Give the broker a new password or token for this connection (connection.update-secret, RabbitMQ).

        Waits while the connection is away. If the credentials are :class:`Credentials`, ``secret`` is their password
        for the logins to come: from the broker's answer on, or at once while the connection is away, because the broker
        may refuse the old one by then. If they come from a function, it is asked at the next login anyway, so a loss on
        the way is no failure; what it gives with ``expires_in`` is renewed without this. A mechanism of your own must
        learn of the new secret from you.

        Args:
            secret: the password or token.
            reason: why, for the broker's log; 255 bytes at most.

        Raises:
            InvalidArgument: AMQP or SASL PLAIN cannot carry the secret or the reason; nothing was sent.
            RequestTimeout: no answer within ``request_timeout``, reconnects included.
            NotAllowed: the broker refused it; RabbitMQ then closes the link, and the connection logs in anew.
            ConnectionLost: the link ended before the answer, and there is no credentials function.
            ConnectionClosed: the connection is closed.
        """
        self._require_entered()
        update = build(methods.Connection.UpdateSecret, secret, reason)
        if "\0" in secret:
            raise InvalidArgument("secret: holds a character that SASL PLAIN cannot carry")
        timeout = self._settings.request_timeout
        with anyio.move_on_after(timeout):
            await self._supervisor.update_secret(update)
            return
        raise RequestTimeout(f"connection.update-secret: no answer within {timeout} s; {self._supervisor.progress}")

    @explained
    def channel(self, *, wait: float = 0.0) -> Channel:
        """A channel: ``async with connection.channel() as channel``.

        Args:
            wait: seconds to wait for another channel to be closed when ``channel_max`` channels are open; entering
                the block then raises :class:`ChannelLimitReached`.

        Raises:
            InvalidArgument: that is no number of seconds.
        """
        return Channel(self._supervisor, wait=wait)

    @explained
    def channel_pool(self, size: int) -> ChannelPool:
        """A pool that lends at most ``size`` channels: ``async with connection.channel_pool(8) as pool``.

        Raises:
            InvalidArgument: the size is not a whole number from 1 up.
        """
        return ChannelPool(self._supervisor, size)

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
            exchange: where to publish what does not say otherwise.
            defaults: the properties of messages that do not say otherwise, such as
                ``Properties(content_type="application/json", app_id="billing")``. Headers are joined, the message's
                before the defaults.
            mandatory: whether it is an error if no queue takes a message.
            timeout: seconds that a publish has until :class:`PublishTimeout`; None to wait for ever.
            window: how many publishes may be without an outcome; ``submit`` waits for room.
            window_bytes: how many bytes of bodies they may hold together.
            resend: whether to send again after a loss what has no confirm. A consumer may then see a message twice,
                under the same ``message_id``. Otherwise such a publish raises :class:`OutcomeUnknown`.
            retry_nacked: whether to send again what the broker nacks, as a quorum queue does while it elects a leader,
                until the publish's deadline. While one waits to be sent again, later ones may overtake it. Otherwise
                such a publish raises :class:`Nacked`.
            blocked_timeout: for how many seconds of connection.blocked publishes that were not sent wait before they
                raise :class:`ConnectionBlocked`: None to wait until their own deadlines, 0 to fail at once.

        Raises:
            InvalidArgument: an argument is out of its range, or AMQP cannot carry one of the defaults.
        """
        return Publisher(
            self._supervisor,
            registry=self._supervisor.publishers,
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
            no_ack: the broker forgets messages as it sends them; a loss loses what was on its way. No prefetch slows
                the broker down then, so a reader that is too slow makes the whole connection pause reading, and what
                waits is held in memory while an answer is awaited on the connection, because it comes behind. Publish
                what such a reader makes on another connection.
            exclusive: nobody else may consume from the queue.
            consumer_tag: the consumer's name; a random one if None.
            priority: consumers with a higher one are served first (RabbitMQ, "Consumer Priorities").
            stream_offset: where to begin to read a stream: ``first``, ``last``, ``next``, an offset, a time, or an
                interval such as ``1h``. After a reconnect it is read on behind the last delivery that was handed out. A
                consumer that began at ``next`` and has handed out nothing yet reads from the time when it began, less
                a few seconds, so messages that were published just before may come as well.
            arguments: what else the broker is to be told, such as ``{"x-stream-filter": "eu"}``.
            on_cancel: what to do when the broker cancels the consumer (its queue was deleted, or is gone with its
                node): ``raise`` :class:`ConsumerCancelled`, ``resubscribe`` as soon as the queue is back, or ``end``
                the iteration. If the queue is there all the same, it is consumed from again in any case. With
                ``resubscribe``, entering the block does not wait for a queue that is not there either: the iteration
                does.
            on_error: what becomes of a delivery whose ``async with`` block or handler raises: ``requeue`` it,
                ``reject`` it, :class:`Retry` a few times and then reject it, or a function that decides. See
                :data:`OnError`. A stream and ``no_ack`` know no way back: there the policy has no effect.

        Raises:
            InvalidArgument: an argument is out of its range, or AMQP cannot carry it.
        """
        return Consumer(
            self._supervisor,
            registry=self._supervisor.consumers,
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
            timeout: seconds that a call has, reconnects included; None to wait for ever.
            resend: whether to send a request again after a loss, which a server may then see twice. Otherwise a call
                that was sent raises :class:`ConnectionLost`.

        Raises:
            InvalidArgument: an argument is of a wrong type or out of its range.
        """
        return RpcClient(self._supervisor, timeout=timeout, resend=resend)

    def _not_ready(self, timeout: float | None) -> ReadyTimeout:
        error = ReadyTimeout(f"not ready within {timeout} s, still {self.state.name}: {self._supervisor.progress}")
        error.__cause__ = self._supervisor.journal.last_error
        return error
