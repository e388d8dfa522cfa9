"""The connection: one supervisor, the single-flight reconnect, recovery in order.

One task per connection is the only code that dials (invariant 1). It loops: wait as the policy says, dial, handshake,
recover, ``opened``, run the link until it ends. Everybody else waits for a state; nobody else can connect, so there is
no race between reconnects and no lock against one. The old transport is closed before the next dial begins, because
the task group that moves its bytes must end first.

Recovery declares the topology and reopens the channels (:mod:`holdfast.recovery`); then the connection is OPEN and
publishers send again what is unconfirmed, oldest first, before anything new. Between the last reply and ``opened``
there is no await, so there is no moment in which OPEN is shown and a channel is unusable.

Nothing here raises into the user's tasks: what goes wrong is a state, an entry in the log and the cause of the error
that calls on the connection raise.
"""

from __future__ import annotations

import math
import random
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.abc
from pamqp import commands

from holdfast.arguments import StreamOffset
from holdfast.channel import Channel, Queue
from holdfast.consumer import DEFAULT_PREFETCH, Consumer, OnCancel
from holdfast.credentials import CredentialsKeeper
from holdfast.entities import Entity, TopologyRecovery
from holdfast.errors import (
    CloseFacts,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionLost,
    ConnectTimeout,
    HoldfastError,
    InvalidArgument,
    InvalidUse,
    PreconditionFailed,
    ReadyTimeout,
    ReplyError,
    RequestTimeout,
    reason_of,
)
from holdfast.link import Link, LinkOwner
from holdfast.logical import Block, ChannelHost, LogicalChannel
from holdfast.message import FieldTable, Properties
from holdfast.observe import Journal, Stats, TransitionStream
from holdfast.pool import ChannelPool
from holdfast.protocol.events import Tuning
from holdfast.protocol.lifecycle import ConnectionEvent, State, Transition, connection_lifecycle
from holdfast.protocol.sasl import Mechanism
from holdfast.protocol.session import Session
from holdfast.protocol.wire import build
from holdfast.publisher import DEFAULT_TIMEOUT, DEFAULT_WINDOW, DEFAULT_WINDOW_BYTES, NO_DEFAULTS, Publisher
from holdfast.reconnect import Attempts
from holdfast.recovery import Recovery
from holdfast.rpc import RpcClient
from holdfast.settings import TLS, VERSION, CredentialsSource, ReconnectPolicy, Settings
from holdfast.timers import Timer, Timers
from holdfast.topology import Recorded, Topology
from holdfast.transport import Dial, Dialer

_CLEAN_UP = 5.0
"""Seconds that a broker may need to clean up after a connection that it knows to be dead."""

T = TypeVar("T")


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


class Connection(ChannelHost, LinkOwner):
    """A connection that lasts as long as its block, whatever happens to the network. Made by :func:`connect`.

    Entering raises what made the first connect fail: :class:`LoginRefused`, :class:`NotAllowed` (unknown virtual host),
    :class:`TLSError`, :class:`ReadyTimeout`, or :class:`ConnectionClosed` when the policy is exhausted. What the block
    raises leaves it as itself. Leaving closes the connection with AMQP's handshake, also when the block was cancelled,
    within ``close_timeout``.
    """

    def __init__(self, settings: Settings, *, ready_timeout: float | None, fail_fast: bool, dial: Dial | None) -> None:
        self._settings = settings
        self._ready_timeout = ready_timeout
        self._fail_fast = fail_fast
        self._random = random.Random()  # noqa: S311 - jitter, not a secret
        self._dialer = Dialer(settings, dial, self._random)
        self._lifecycle = connection_lifecycle()
        self._journal = Journal(settings.name)
        self._credentials = CredentialsKeeper(settings, self._journal, self._random)
        self._topology = Topology(settings.topology_recovery.mode)
        # Dicts, because a set has no order and recovery goes in the order of creation.
        self._channels: dict[LogicalChannel, None] = {}
        self._recovery = Recovery(self, self._topology, self._is_wanted, self._channels, self._entity_failed)
        self._timers = Timers()
        self._publishers: set[Publisher] = set()
        self._consumers: set[Consumer] = set()
        self._last_channel_id = 0
        self._link: Link | None = None
        self._link_number = 0
        self._tuning: Tuning | None = None
        self._server_properties: FieldTable = {}
        self._block: Block | None = None
        self._past_traffic = (0, 0, 0, 0)
        self._failure: Exception | None = None
        self._close_facts: CloseFacts | None = None
        self._changed = anyio.Event()
        self._forgotten = anyio.Event()
        self._finished = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._interruptible: anyio.CancelScope | None = None

    def __repr__(self) -> str:
        where = ", ".join(map(str, self._settings.addresses))
        return f"<Connection to {where} {self.state.name}>"

    # --- scope ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise InvalidUse("a connection is entered once; make a new one with connect()")
        # Shielded, so that a cancellation around the user's block leaves somebody to do the close handshake. Made here,
        # because a connection may be made before there is an event loop.
        self._supervision = anyio.CancelScope(shield=True)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._supervise)
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
        with anyio.CancelScope(shield=True):
            self._begin_close()
            with anyio.move_on_after(self._settings.close_timeout):
                await self._finished.wait()
            self._supervision.cancel()
            await self._finished.wait()

    async def _wait_first_ready(self) -> None:
        try:
            await self.wait_ready(self._ready_timeout)
        except ConnectionClosed:
            if isinstance(self._failure, HoldfastError):
                raise self._failure from self._failure.__cause__
            raise

    async def _leave(self) -> None:
        tasks = self._require_entered()
        await self.aclose()
        # Nothing of the user's is passed in: what the block raised leaves it as itself, not in an exception group.
        await tasks.__aexit__(None, None, None)

    def _require_entered(self) -> anyio.abc.TaskGroup:
        if self._tasks is None:
            raise InvalidUse("a connection works inside its block: async with connect(...) as connection")
        return self._tasks

    # --- what the user asks -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where its life cycle is."""
        return self._lifecycle.state

    @property
    def stats(self) -> Stats:
        """The connection at this moment."""
        journal, link = self._journal, self._link
        traffic = self._past_traffic if link is None else _add(self._past_traffic, _traffic(link))
        return Stats(
            state=self.state,
            link_number=self._link_number,
            dials=journal.dials,
            reconnects=journal.reconnects,
            open_channels=0 if link is None else link.session.channel_count,
            unconfirmed=sum(publisher.unconfirmed for publisher in self._publishers),
            blocked_since=None if self._block is None else self._block.since,
            last_error=journal.last_error,
            stale_acks=journal.stale_acks,
            unknown_confirms=journal.unknown_confirms,
            dropped_transitions=journal.dropped_transitions,
            stalls=journal.stalls,
            bytes_sent=traffic[0],
            bytes_received=traffic[1],
            frames_sent=traffic[2],
            frames_received=traffic[3],
        )

    @property
    def tuning(self) -> Tuning | None:
        """The limits agreed with the broker at the last handshake; None before the first."""
        return self._tuning

    @property
    def server_properties(self) -> FieldTable:
        """What the broker said of itself at the last handshake (product, version, capabilities); empty before it."""
        return self._server_properties

    def transitions(self) -> TransitionStream:
        """The transitions of the connection, its links and its channels, from now until the connection is closed."""
        return self._journal.stream()

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the connection is OPEN or BLOCKED: handshake done and everything recovered.

        Args:
            timeout: seconds; None to wait for ever.

        Raises:
            ReadyTimeout: it was not ready in time; ``__cause__`` is the last error that kept it from being so.
            ConnectionClosed: it is closed.
        """
        self._require_entered()
        with anyio.move_on_after(timeout):
            while self.state not in (State.OPEN, State.BLOCKED):
                self._raise_if_closed()
                await self._changed.wait()
            return
        raise ReadyTimeout(
            f"not ready within {timeout} s, still {self.state.name}; last error: {self._journal.last_error}"
        ) from self._journal.last_error

    async def wait_unblocked(self, timeout: float | None = None) -> None:
        """Wait until the broker takes publishes: the connection is OPEN.

        Args:
            timeout: seconds; None to wait for ever.

        Raises:
            ConnectionBlocked: it is still BLOCKED after that time; the error has the broker's reason.
            ReadyTimeout: it is not ready after that time for another reason.
            ConnectionClosed: it is closed.
        """
        self._require_entered()
        with anyio.move_on_after(timeout):
            while self.state is not State.OPEN:
                self._raise_if_closed()
                await self._changed.wait()
            return
        if self._block is not None:
            raise ConnectionBlocked(self._block.reason)
        raise ReadyTimeout(
            f"not ready within {timeout} s, still {self.state.name}; last error: {self._journal.last_error}"
        ) from self._journal.last_error

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, for whatever reason."""
        self._require_entered()
        while self.state is not State.CLOSED:
            await self._changed.wait()

    async def update_secret(self, secret: str, *, reason: str = "") -> None:
        """Give the broker a new password or token for this connection (connection.update-secret, RabbitMQ).

        Waits while the connection is away. If the credentials are :class:`Credentials`, ``secret`` is their password
        from the broker's answer on, for the logins to come. If they come from a function, it is asked at the next login
        anyway, so a loss on the way is no failure. What a function gives with ``expires_in`` is renewed without this.

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
        update = build(commands.Connection.UpdateSecret, secret, reason)
        if "\0" in secret:
            raise InvalidArgument("secret: holds a character that SASL PLAIN cannot carry")
        timeout = self.request_timeout
        with anyio.move_on_after(timeout):
            await self._update_secret(update)
            return
        raise RequestTimeout(
            f"connection.update-secret: no answer within {timeout} s; last error: {self._journal.last_error}"
        )

    async def _update_secret(self, update: commands.Connection.UpdateSecret) -> None:
        await self.wait_ready()
        link = self._link
        if link is None:
            raise InvalidUse(f"a connection that is {self.state.name} without a link")
        try:
            await link.update_secret(update)
        except ConnectionLost:
            self._raise_if_closed()
            if not self._credentials.is_asking:
                raise

    def channel(self, *, wait: float = 0.0) -> Channel:
        """A channel: ``async with connection.channel() as channel``.

        Args:
            wait: seconds to wait for another channel to be closed when ``channel_max`` channels are open; entering
                the block then raises :class:`ChannelLimitReached`.
        """
        return Channel(self, wait=wait)

    def channel_pool(self, size: int) -> ChannelPool:
        """A pool that lends at most ``size`` channels: ``async with connection.channel_pool(8) as pool``."""
        return ChannelPool(partial(Channel, self, wait=math.inf), size)

    def publisher(
        self,
        *,
        exchange: str = "",
        defaults: Properties = NO_DEFAULTS,
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
                until the publish's deadline. Otherwise such a publish raises :class:`Nacked`.
            blocked_timeout: for how many seconds of connection.blocked publishes wait before they raise
                :class:`ConnectionBlocked`: None to wait until their own deadlines, 0 to fail at once.

        Raises:
            InvalidArgument: an argument is out of its range, or AMQP cannot carry one of the defaults.
        """
        return Publisher(
            self,
            registry=self._publishers,
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
    ) -> Consumer:
        """A consumer: ``async with connection.consumer("queue") as consumer: async for delivery in consumer``.

        Args:
            queue: the queue or its name.
            prefetch: how many deliveries may be unsettled; 0 for no limit.
            no_ack: the broker forgets messages as it sends them; a loss loses what was on its way. A reader that is
                too slow then makes the whole connection pause reading, because no prefetch slows the broker down.
            exclusive: nobody else may consume from the queue.
            consumer_tag: the consumer's name; a random one if None.
            priority: consumers with a higher one are served first (RabbitMQ, "Consumer Priorities").
            stream_offset: where to begin to read a stream: ``first``, ``last``, ``next``, an offset, a time, or an
                interval such as ``1h``. After a reconnect it is read on behind the last delivery that was handed out.
            arguments: what else the broker is to be told, such as ``{"x-stream-filter": "eu"}``.
            on_cancel: what to do when the broker cancels the consumer (its queue was deleted, or is gone with its
                node): ``raise`` :class:`ConsumerCancelled`, ``resubscribe`` as soon as the queue is back, or ``end``
                the iteration.

        Raises:
            InvalidArgument: an argument is out of its range, or AMQP cannot carry it.
        """
        return Consumer(
            self,
            registry=self._consumers,
            queue=queue,
            prefetch=prefetch,
            no_ack=no_ack,
            exclusive=exclusive,
            consumer_tag=consumer_tag,
            priority=priority,
            stream_offset=stream_offset,
            arguments=arguments,
            on_cancel=on_cancel,
        )

    def rpc_client(self, *, timeout: float | None = DEFAULT_TIMEOUT, resend: bool = False) -> RpcClient:
        """A client for request and reply: ``async with connection.rpc_client() as rpc: await rpc.call(...)``.

        Args:
            timeout: seconds that a call has, reconnects included; None to wait for ever.
            resend: whether to send a request again after a loss, which a server may then see twice. Otherwise a call
                that was sent raises :class:`ConnectionLost`.
        """
        return RpcClient(self, timeout=timeout, resend=resend)

    # --- what channels ask ------------------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """Where transitions are recorded."""
        return self._journal

    @property
    def recorder(self) -> Topology:
        """What was declared."""
        return self._topology

    @property
    def link_number(self) -> int:
        """The present or last link, counted from 1; 0 before the first."""
        return self._link_number

    @property
    def block(self) -> Block | None:
        """Why and since when the broker takes no publishes; None if it does."""
        return self._block

    @property
    def max_message_size(self) -> int:
        """The largest body accepted, in bytes."""
        return self._settings.max_message_size

    @property
    def request_timeout(self) -> float | None:
        """Seconds that a request may take."""
        return self._settings.request_timeout

    @property
    def close_timeout(self) -> float:
        """Seconds that a close handshake may take."""
        return self._settings.close_timeout

    @property
    def lock_grace(self) -> float:
        """Seconds for which what is exclusive may be locked by our own earlier link.

        After a loss that only we have noticed the broker keeps the lock until it misses our heartbeats (RabbitMQ finds
        a silent client within two to three intervals).
        """
        heartbeat = self._settings.heartbeat if self._tuning is None else self._tuning.heartbeat
        return 3.0 * heartbeat + _CLEAN_UP

    def next_channel_id(self) -> int:
        self._last_channel_id += 1
        return self._last_channel_id

    def register(self, channel: LogicalChannel) -> None:
        self._require_entered()
        self._raise_if_closed()
        link = self._link
        # Decided without an await: before is_ready the supervisor attaches what is registered, after it we do.
        if link is not None and link.is_ready and link.is_open:
            channel.attach(link)
        self._channels[channel] = None

    def forget(self, channel: LogicalChannel) -> None:
        self._channels.pop(channel, None)
        self._forgotten.set()
        self._forgotten = anyio.Event()

    async def wait_forgotten(self) -> None:
        await self._forgotten.wait()

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self._timers.later(seconds, call)

    # --- what the link tells ----------------------------------------------------------------------------------------

    def on_link_opened(self, tuning: Tuning, server_properties: FieldTable) -> None:
        self._tuning = tuning
        self._server_properties = server_properties

    def on_link_blocked(self, reason: str) -> None:
        if self.state is State.OPEN:
            self._block = Block(reason, anyio.current_time())
            self._fire(ConnectionEvent.BLOCKED, reason)
            for publisher in list(self._publishers):
                publisher.on_blocked()

    def on_link_unblocked(self) -> None:
        if self.state is State.BLOCKED:
            self._no_longer_blocked()
            self._fire(ConnectionEvent.UNBLOCKED)

    def on_secret_updated(self, secret: str) -> None:
        self._credentials.updated(secret)

    def on_link_ended(self, error: HoldfastError | None) -> None:
        if error is not None:
            self._journal.last_error = error
        self._no_longer_blocked()
        if self.state in (State.OPEN, State.BLOCKED):
            self._fire(ConnectionEvent.LOST, reason_of(error))

    def _no_longer_blocked(self) -> None:
        self._block = None
        for publisher in list(self._publishers):
            publisher.on_unblocked()

    # --- the supervisor ---------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        try:
            with self._supervision:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._timers.run)
                    await self._keep_connected_or_fail()
                    tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - a fault of ours must end as a state that everybody sees
            self._failure = error
            self._journal.crashed(error)
        finally:
            self._end()

    async def _keep_connected_or_fail(self) -> None:
        try:
            await self._keep_connected()
        except HoldfastError as error:
            self._failure = error

    async def _keep_connected(self) -> None:
        attempts = Attempts(
            self._settings.reconnect,
            fail_fast=self._fail_fast,
            random=self._random,
            now=anyio.current_time(),
        )
        delay = 0.0
        while True:
            await self._interruptibly(partial(anyio.sleep, delay))
            if self._is_leaving():
                return
            try:
                opened_at, error = await self._one_link()
            except HoldfastError as failure:
                opened_at, error = None, failure
                self._journal.last_error = failure
            if self._is_leaving() or error is None:
                return
            now = anyio.current_time()
            untried = self._dialer.route.advance(start_over=attempts.is_stable(opened_at, now))
            delay = attempts.ended(error, opened_at=opened_at, untried=untried, now=now)
            if opened_at is None:
                self._journal.retrying(error, str(self._dialer.route), delay)

    def _is_leaving(self) -> bool:
        return self.state is State.CLOSING

    async def _one_link(self) -> tuple[float | None, HoldfastError | None]:
        """Dial, and run the link until it ends.

        Returns:
            When it was opened, or None if it never was; and why it ended, or None if the user is leaving.

        Raises:
            HoldfastError: there was no link.
        """
        timeout = self._settings.connect_timeout
        deadline = anyio.current_time() + timeout
        dialed = await self._dial_out(deadline)
        if dialed is None:
            return None, None
        stream, mechanisms = dialed
        self._link_number += 1
        session = Session(
            number=self._link_number,
            mechanisms=mechanisms,
            virtual_host=self._settings.virtual_host,
            proposal=Tuning(self._settings.channel_max, self._settings.frame_max, self._settings.heartbeat),
            client_properties=self._client_properties(),
            max_message_size=self._settings.max_message_size,
            now=anyio.current_time(),
        )
        link = self._link = Link(self._link_number, stream, session, self, self._journal)
        opened_at: float | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(link.run, self._credentials.renewal)
                with anyio.CancelScope(deadline=deadline) as handshake:
                    await link.wait_open()
                if handshake.cancelled_caught:
                    link.abort(ConnectTimeout(f"no handshake within {timeout} s"))
                # Not interrupted before: RabbitMQ takes no connection.close during the handshake, so leaving then
                # would be the unexpected close that its log complains of.
                await self._interruptibly(partial(self._recovery.run, link))
                opened_at = self._go_open(link)
                if self._is_leaving() and link.is_open:
                    link.close()
                await link.wait_over()
        finally:
            self._close_facts = session.close_facts
            self._past_traffic = _add(self._past_traffic, _traffic(link))
            self._link = None
        return opened_at, link.error

    async def _dial_out(self, deadline: float) -> tuple[anyio.abc.ByteStream, Sequence[Mechanism]] | None:
        """Credentials and a transport; None if the user is leaving."""
        dialed: list[tuple[anyio.abc.ByteStream, Sequence[Mechanism]]] = []

        async def attempt() -> None:
            mechanisms = await self._credentials.mechanisms()
            self._journal.dials += 1
            dialed.append((await self._dialer.dial(), mechanisms))

        with anyio.CancelScope(deadline=deadline):
            await self._interruptibly(attempt)
        if dialed:
            return dialed[0]
        if self._is_leaving():
            return None
        raise ConnectTimeout(f"{self._dialer.doing}: no answer within {self._settings.connect_timeout} s")

    def _client_properties(self) -> FieldTable:
        version = sys.version_info
        properties: dict[str, str] = {
            "product": "holdfast",
            "version": VERSION,
            "platform": f"Python {version.major}.{version.minor}.{version.micro}",
        }
        if self._settings.name is not None:
            properties["connection_name"] = self._settings.name
        return {**properties, **self._settings.client_properties}

    async def _interruptibly(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do what the user's leaving cuts short."""
        if self._is_leaving():
            return
        with anyio.CancelScope() as self._interruptible:
            await work()
        self._interruptible = None

    def _is_wanted(self, entity: Entity) -> bool:
        wanted = self._settings.topology_recovery.wanted
        try:
            return wanted is None or wanted(entity)
        except Exception as error:  # noqa: BLE001 - the user's code must not cost the connection
            self._journal.hook_failed("topology_recovery.wanted", error)
            return True

    def _entity_failed(self, recorded: Recorded, error: ReplyError) -> None:
        entity = recorded.entity
        self._journal.entity_failed(str(entity), error)
        if error.hard:
            # Declared again, it would cost every link to come.
            self._topology.forget(recorded)
        owner = recorded.owner()
        if owner is not None:
            owner.shut(error)
        # Refused for what it is (406), it is there all the same, and those who only use it may go on.
        if entity.kind == "queue" and not isinstance(error, PreconditionFailed):
            for consumer in list(self._consumers):
                if consumer.queue == self._topology.present_name(entity.name):
                    consumer.fail(error)
        if (on_error := self._settings.topology_recovery.on_error) is not None:
            try:
                on_error(entity, error)
            except Exception as raised:  # noqa: BLE001 - the user's code must not cost the connection
                self._journal.hook_failed("topology_recovery.on_error", raised)

    def _go_open(self, link: Link) -> float | None:
        if link.is_over or not link.is_open or self.state not in (State.CONNECTING, State.RECONNECTING):
            return None
        if self.state is State.RECONNECTING:
            self._journal.reconnects += 1
        link.is_ready = True
        self._fire(ConnectionEvent.OPENED)
        if link.is_blocked:
            self.on_link_blocked(link.session.blocked or "")
        for channel in list(self._channels):
            channel.resume()
        return anyio.current_time()

    # --- endings ----------------------------------------------------------------------------------------------------

    def _begin_close(self) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self._fire(ConnectionEvent.CLOSE)
        self._shut_channels()
        if self._interruptible is not None:
            self._interruptible.cancel()
        elif self._link is not None and self._link.is_open:
            self._link.close()

    def _end(self) -> None:
        if self.state is State.CLOSING:
            self._fire(ConnectionEvent.CLOSED)
        elif self.state is not State.CLOSED:
            if self.state in (State.OPEN, State.BLOCKED):
                self._fire(ConnectionEvent.LOST, reason_of(self._failure))
            self._fire(ConnectionEvent.FAILED, reason_of(self._failure))
        self._shut_channels()
        self._journal.end()
        self._finished.set()

    def _shut_channels(self) -> None:
        error = self._closed_error()
        for channel in list(self._channels):
            channel.shut(error)

    def _closed_error(self) -> ConnectionClosed:
        why = f": {self._failure}" if self._failure is not None else ""
        error = ConnectionClosed(f"the connection is closed{why}")
        error.close = self._close_facts
        error.__cause__ = self._failure
        return error

    def _raise_if_closed(self) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            raise self._closed_error()

    def _fire(self, event: ConnectionEvent, reason: str | None = None) -> None:
        source = self._lifecycle.fire(event)
        self._journal.record(
            Transition("connection", source, event, self.state, anyio.current_time(), reason, self._link_number)
        )
        self._changed.set()
        self._changed = anyio.Event()


def _traffic(link: Link) -> tuple[int, int, int, int]:
    session = link.session
    return session.bytes_sent, session.bytes_received, session.frames_sent, session.frames_received


def _add(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]
